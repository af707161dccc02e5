"""Every self-attention map of one pass, by hand: each way in which attention is written, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sightline
from sightline.errors import InputError, UnsupportedError
from sightline.heatmap import place
from sightline.inspection.attention import AttentionPass, attend, over_heads
from toynets import Through

DIM, HEADS, GRID = 8, 2, (3, 4)
T = 1 + GRID[0] * GRID[1]
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def softmaxed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT * (DIM // HEADS) ** -0.5).softmax(-1) @ v


def flat_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Heads and images in one axis, as some networks lay them: (N · heads, T, T)."""
    n = len(q)
    q, k, v = (one.flatten(0, 1) for one in (q, k, v))
    return (torch.bmm(q, k.mT) * (DIM // HEADS) ** -0.5).softmax(-1).bmm(v).unflatten(0, (n, HEADS))


BIAS = torch.rand(T, T, generator=torch.Generator().manual_seed(1))
WAYS: dict[str, tuple[Attention, Callable[[Tensor], Tensor]]] = {  # and what of the logits is under the softmax
    "softmax": (softmaxed, lambda a: a),
    "F.softmax": (lambda q, k, v: F.softmax(q @ k.mT * (DIM // HEADS) ** -0.5, -1) @ v, lambda a: a),
    "flat": (flat_heads, lambda a: a),
    "fused": (F.scaled_dot_product_attention, lambda a: a),
    "scaled": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3), lambda a: 0.6 * a),  # for 1 / √4
    "biased": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, BIAS), lambda a: a + BIAS),
    "masked": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=BIAS > 0.3),
        lambda a: a.masked_fill(BIAS <= 0.3, -torch.inf),
    ),
    "dropout": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, None, 0.9), lambda a: a),
}  # fmt: skip


class Block(nn.Module):
    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(DIM), nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.attention = attention

    def heads(self, x: Tensor) -> Tensor:
        """(3, N, heads, T, d)"""
        return self.qkv(self.norm(x)).unflatten(2, (3, HEADS, DIM // HEADS)).permute(2, 0, 3, 1, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj(self.attention(*self.heads(x)).transpose(1, 2).flatten(2))


class Net(nn.Module):
    """A transformer of two blocks on patches of 4 × 4 pixels; its class token is pooled, or its patches."""

    def __init__(self, *blocks: nn.Module, special: int = 1) -> None:
        super().__init__()
        self.embed, self.blocks, self.fc = nn.Conv2d(3, DIM, 4, 4), nn.ModuleList(blocks), nn.Linear(DIM, 3)
        self.norm = nn.LayerNorm(DIM)
        self.token, self.special = nn.Parameter(torch.rand(1, special, DIM)), special

    def tokens(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(len(x), -1, -1), self.embed(x).flatten(2).mT], 1)

    def forward(self, x: Tensor) -> Tensor:
        t = self.tokens(x)
        for block in self.blocks:
            t = block(t)
        t = self.norm(t)
        return self.fc(t[:, 0] if self.special else t.mean(1))


def images(n: int = 2) -> Tensor:
    return torch.rand(n, 3, 4 * GRID[0], 4 * GRID[1])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n", [1, 2])
def test_the_maps_of_each_way_of_writing_attention(way: str, n: int) -> None:
    attention, logits = WAYS[way]
    net, x = Net(Block(attention), Block(attention)).eval(), images(n)
    seen = attend(net, x)
    t = net.tokens(x)
    for block, found in zip(net.blocks, seen.maps, strict=True):
        q, k, v = block.heads(t)  # type: ignore[operator]
        expected = logits(q @ k.mT * (DIM // HEADS) ** -0.5).softmax(-1)
        torch.testing.assert_close(found, expected)
        t = t + block.proj((expected @ v).transpose(1, 2).flatten(2))  # type: ignore[operator]
    torch.testing.assert_close(seen.output, net.fc(net.norm(t)[:, 0]))
    assert (seen.prefix, seen.grid, seen.size_hw, seen.covers) == (1, GRID, (12, 16), None)
    assert seen.rows.tolist() == [True] + [False] * (T - 1)
    gradients = seen.gradients(seen.output[:, 1])
    later = torch.autograd.grad(seen.output[:, 1].sum(), seen.maps, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(gradients, later, strict=True))
    assert bool(gradients[0].any())
    assert bool(gradients[1][:, :, 0].any())
    assert not bool(gradients[1][:, :, 1:].any())


class Multi(nn.Module):
    """A block around PyTorch's own attention."""

    def __init__(self, batch_first: bool = True, **options: Any) -> None:
        super().__init__()
        self.norm, self.options = nn.LayerNorm(DIM), options
        self.attn = nn.MultiheadAttention(DIM, HEADS, batch_first=batch_first)
        self.batch_first, self.weights = batch_first, None

    def forward(self, x: Tensor) -> Tensor:
        t = self.norm(x) if self.batch_first else self.norm(x).transpose(0, 1)
        out, self.weights = self.attn(t, t, t, **self.options)
        return x + (out if self.batch_first else out.transpose(0, 1))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("options", [{}, {"need_weights": False}, {"average_attn_weights": False}])
def test_pytorch_s_own_module_is_computed_openly(batch_first: bool, options: dict[str, Any]) -> None:
    net, x = Net(Multi(batch_first, **options), Multi(batch_first, **options)).eval(), images()
    with torch.no_grad():
        expected = net(x)
    seen = attend(net, x)
    torch.testing.assert_close(seen.output, expected)
    first = net.blocks[0]
    t = first.norm(net.tokens(x))  # type: ignore[operator]
    t = t if batch_first else t.transpose(0, 1)
    _, maps = first.attn(t, t, t, average_attn_weights=False)  # type: ignore[operator]
    torch.testing.assert_close(seen.maps[0], maps)
    weights = first.weights
    if options == {"need_weights": False}:
        assert weights is None
    else:
        torch.testing.assert_close(weights, maps.mean(1) if not options else maps)


def test_the_rows_are_the_patches_where_they_are_averaged() -> None:
    net = Net(Block(softmaxed), Block(softmaxed), special=0).eval()
    seen = attend(net, images())
    assert (seen.prefix, seen.rows.tolist()) == (0, [True] * (T - 1))


@pytest.mark.parametrize("special", [1, 0, 3])
def test_a_head_of_zeros_shows_the_class_token_or_all_patches(special: int) -> None:
    net = Net(Block(softmaxed), special=special).eval()
    nn.init.zeros_(net.fc.weight)
    with torch.no_grad():
        seen = attend(net, images())
    assert seen.prefix == special
    assert seen.rows.tolist() == ([True] + [False] * (11 + special) if special else [True] * 12)


def test_one_head_without_an_axis_of_its_own() -> None:
    def single(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (one.transpose(1, 2).flatten(2) for one in (q, k, v))
        out = (q @ k.mT).softmax(-1) @ v if written else F.scaled_dot_product_attention(q, k, v, scale=1)
        return out.unflatten(2, (HEADS, -1)).transpose(1, 2)

    net, x = Net(Block(single)).eval(), images()
    written = False
    fused = attend(net, x)
    written = True
    seen = attend(net, x)
    assert seen.maps[0].shape == (2, T, T)
    torch.testing.assert_close(seen.maps[0], fused.maps[0])
    assert torch.equal(over_heads(seen.maps[0]), seen.maps[0])
    assert torch.equal(over_heads(seen.maps[0][:, None].repeat(1, 2, 1, 1)), seen.maps[0])


def test_a_softmax_over_what_is_no_square_is_passed_on() -> None:
    class Gated(Block):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * x.softmax(-1) + x.mean(1, keepdim=True).softmax(-1))

    class Pooled(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).softmax(-1)

    seen = attend(Pooled(Gated(softmaxed)).eval(), images())
    assert [tuple(one.shape) for one in seen.maps] == [(2, HEADS, T, T)]


class Chosen(Net):
    """One of three special tokens is pooled."""

    def forward(self, x: Tensor) -> Tensor:
        t = self.blocks[0](self.tokens(x))
        return self.fc(self.norm(t)[:, 1])


def test_the_row_of_the_token_that_is_pooled() -> None:
    seen = attend(Chosen(Block(softmaxed), special=3).eval(), images())
    assert (seen.prefix, seen.rows.tolist()) == (3, [False, True] + [False] * 13)


class Asked(Net):
    """One learned query gathers what the tokens say, behind the blocks: that is a pooling."""

    def forward(self, x: Tensor) -> Tensor:
        t = self.norm(self.blocks[0](self.tokens(x)))
        q = self.token.expand(len(x), -1, -1)[:, None, :1]
        return self.fc(F.scaled_dot_product_attention(q, t[:, None], t[:, None])[:, 0, 0])


def test_a_pooling_by_one_query_is_no_attention_to_other_tokens() -> None:
    seen = attend(Asked(Block(softmaxed)).eval(), images())
    assert [tuple(one.shape) for one in seen.maps] == [(2, HEADS, T, T)]
    assert bool(seen.rows.all())


@pytest.mark.parametrize("size", [(4, 8), (8, 4)])
def test_two_tokens_attend_to_each_other(size: tuple[int, int]) -> None:
    net = Net(Block(softmaxed), Block(softmaxed), special=0).eval()
    assert [tuple(one.shape) for one in attend(net, torch.rand(2, 3, *size)).maps] == [(2, HEADS, 2, 2)] * 2


@pytest.mark.parametrize(
    "options",
    [{"is_causal": True}, {"is_causal": True, "scale": 0.3}, {"enable_gqa": True}, {"enable_gqa": True, "scale": 2}],
)  # fmt: skip
def test_what_is_not_followed_is_computed_as_it_is_written(options: dict[str, Any]) -> None:
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        few = HEADS // 2 if "enable_gqa" in options else HEADS
        return F.scaled_dot_product_attention(q, k[:, :few], v[:, :few], **options)

    net, x = Net(Block(softmaxed), Block(attention)).eval(), images()
    seen = attend(net, x)
    assert len(seen.maps) == 1
    torch.testing.assert_close(seen.output, net(x))


# What is made of a pass


def hand_made(**fields: Any) -> AttentionPass:
    rows = torch.tensor([False, True, False, True, False])
    return AttentionPass(None, [], 1, (2, 2), rows, **fields)


def test_what_each_patch_means_is_the_mean_of_the_rows_that_count() -> None:
    relevance = torch.arange(25.0).view(1, 5, 5)
    # rows 1 and 3: 5 … 9 and 15 … 19; their mean is 10 … 14, of which the first is the class token's
    assert hand_made().shown(relevance).tolist() == [[[11, 12], [13, 14]]]
    assert hand_made().on_grid(torch.tensor([[9.0, 1, 2, 3, 4]])).tolist() == [[[1, 2], [3, 4]]]


def test_a_grid_that_covers_a_part_of_the_image_is_placed_there() -> None:
    seen = hand_made(covers=((0.0, 4.0), (4.0, 8.0)), size_hw=(8, 8))
    row = torch.tensor([[9.0, 1, 2, 3, 4]])
    expected = place(torch.tensor([[[1.0, 2], [3, 4]]]), ((0.0, 4.0), (4.0, 8.0)), (8, 8))
    assert torch.equal(seen.on_grid(row), expected)
    assert expected.shape == (1, 8, 8)


def test_a_block_that_does_not_lead_to_the_score_has_a_gradient_of_zeros() -> None:
    first, second = (torch.rand(1, 2, 2, requires_grad=True) for _ in range(2))
    seen = AttentionPass(None, [first, second], 0, (1, 2), torch.tensor([True, True]))
    none, some = seen.gradients((3 * second).sum())
    assert (none.tolist(), some.unique().tolist()) == ([[[0, 0], [0, 0]]], [3])
    (only,) = seen.gradients((3 * second).sum(), [second])
    assert torch.equal(only, some)
    assert seen.gradients(torch.stack([second.sum(), second.sum()]))[1].unique().tolist() == [2]
    with pytest.raises(InputError, match="no gradient reaches the attention from the target"):
        seen.gradients(torch.zeros(1))


# What is refused


def windows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Patches in two windows of six, each beside the others, as more images."""
    parts = [one[:, :, 1:].unflatten(2, (2, 6)).transpose(1, 2).flatten(0, 1) for one in (q, k, v)]
    out = softmaxed(*parts).unflatten(0, (-1, 2)).transpose(1, 2).flatten(2, 3)
    return torch.cat([v[:, :, :1], out], 2)


def shrunk(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return softmaxed(q, k[:, :, ::2], v[:, :, ::2])


def longer(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return softmaxed(*(torch.cat([one, one[:, :, :1]], 2) for one in (q, k, v)))[:, :, :-1]


class Decoder(Multi):
    """Attends to what it is given besides, or through a mask."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(x, x * 2, x * 2)[0]


class AddsZeros(Multi):
    """Attends to a token of zeros as well."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(DIM, HEADS, batch_first=True, add_zero_attn=True)


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        ([nn.Linear(DIM, DIM)], "it has no self-attention between its tokens; use 'gradcam'"),
        ([Block(windows)], "it attends within windows, as Swin does; use 'gradcam'"),
        ([Block(softmaxed), Block(windows)], "it attends within windows, as Swin does"),
        ([Block(shrunk)], "it attends to other tokens, or to fewer of them"),
        ([Block(shrunk), Block(softmaxed)], "it attends to other tokens, or to fewer of them"),
        ([Block(shrunk), Block(windows)], "it attends within windows, as Swin does"),
        ([Block(softmaxed), Block(longer)], r"its numbers of tokens differ from block to block \(\[13, 14\]\)"),
        ([Decoder()], "it attends to other tokens, or through masks"),
        ([Multi(attn_mask=torch.zeros(T, T))], "it attends to other tokens, or through masks"),
        ([Multi(), Multi(attn_mask=torch.zeros(T, T))], "it attends to other tokens, or through masks"),
        ([AddsZeros()], "it attends to other tokens, or through masks"),
        ([Multi(key_padding_mask=torch.zeros(2, T))], "it attends to other tokens, or through masks"),
        ([Block(shrunk), Decoder()], "it attends to other tokens, or to fewer of them"),
        ([Block(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))], "it has no self-attention"),
        ([Block(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True))], "it has no self-attention"),
        ([Block(lambda q, k, v: F.scaled_dot_product_attention(q, k[:, :, ::2], v[:, :, ::2]))], "to fewer of them"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_says_why(blocks: list[nn.Module], reason: str) -> None:
    with pytest.raises(UnsupportedError, match=f"attention cannot be followed through Net: .*{reason}"):
        attend(Net(*blocks).eval(), images())


def test_attention_between_fewer_tokens_than_the_grid_has() -> None:
    class Aside(nn.Module):
        """A few tokens of its own attend to each other beside the patches."""

        def __init__(self) -> None:
            super().__init__()
            self.block = Block(softmaxed)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.block(x[:, :4]).mean(1, keepdim=True)

    with pytest.raises(UnsupportedError, match=r"attends between fewer tokens than its grid \(3, 4\) has"):
        attend(Net(Aside(), special=0).eval(), images())


def test_a_caller_may_have_switched_gradients_off() -> None:
    net, x = Net(Block(softmaxed), Block(softmaxed)).eval(), images(1)
    with torch.no_grad():
        found = [sightline.explain(net, x, method=method, classes=1) for method in ("gradcam", "chefer")]
    assert found[0].layers == ["blocks.1.norm"]
    for one, method in zip(found, ("gradcam", "chefer"), strict=True):
        assert torch.equal(one.maps, sightline.explain(net, x, method=method, classes=1).maps)


def test_networks_that_are_no_transformers_of_pictures() -> None:
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    with pytest.raises(UnsupportedError, match="Sequential: it has no self-attention between its tokens"):
        attend(plain.eval(), images())
    with pytest.raises(
        UnsupportedError, match=r"over pictures only, and the input is \(1, 3, 8\); use 'gradcam'"
    ):
        attend(Through(lambda x: x), torch.rand(1, 3, 8))

    class Pooling(nn.Module):
        """Channels attend to each other behind a map, so that no grid is known of what attends."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            a = self.conv(x).relu()
            c = a.flatten(2)
            return self.fc(a.mean((2, 3)) + (c @ c.mT).softmax(-1).mean(2))

    with pytest.raises(
        UnsupportedError, match="the grid of the tokens of Pooling is not known; use 'gradcam'"
    ):
        attend(Pooling().eval(), images())
