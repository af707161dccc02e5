"""Rollout, gradient rollout, Chefer's relevance and LeGrad against loops over maps that the networks show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sightline
from references import attention as reference
from sightline.errors import InputError, UnsupportedError
from sightline.inspection.attention import attend
from sightline.methods.attention import relevance, rollout
from toynets import GapToy, TokenToy, make_images, prepare

PICKED = torch.tensor([[2, 0], [1, 3]])
METHODS = ["attention_rollout", "gradient_rollout", "chefer", "legrad"]
every_method = pytest.mark.parametrize("method", METHODS)


def timm_vit(fused: bool = True, **options: Any) -> nn.Module:
    import timm

    torch.manual_seed(0)
    net = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=16,
        patch_size=4,
        depth=3,
        num_heads=2,
        embed_dim=12,
        num_classes=4,
        **options,
    )
    for block in net.blocks:
        block.attn.fused_attn = fused
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.4)
    return net.double().eval()


def torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    net = VisionTransformer(16, 4, num_layers=3, num_heads=2, hidden_dim=12, mlp_dim=24, num_classes=4)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.4)
    return net.double().eval()


NETS: dict[str, Callable[[], nn.Module]] = {
    "timm, fused": timm_vit,
    "timm, eager": lambda: timm_vit(fused=False),
    "timm, averaged": lambda: timm_vit(global_pool="avg"),
    "timm, no class token": lambda: timm_vit(global_pool="avg", class_token=False),
    "torchvision": torchvision_vit,
    "toy, class token": lambda: prepare(TokenToy(class_token=True)),
    "toy, averaged": lambda: prepare(TokenToy()),
}


@contextmanager
def plain_attention(net: nn.Module) -> Iterator[list[Tensor]]:
    """The network's attention computed in plain steps, its maps kept in their graph."""
    from torch.nn import functional

    maps: list[Tensor] = []

    def plain(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        scores = torch.einsum("...qd,...kd->...qk", q, k) / q.shape[-1] ** 0.5
        maps.append(scores.exp() / scores.exp().sum(-1, keepdim=True))
        return torch.einsum("...qk,...kd->...qd", maps[-1], v)

    kept, was = (
        functional.scaled_dot_product_attention,
        [m.attn.fused_attn for m in getattr(net, "blocks", [])],
    )
    try:
        functional.scaled_dot_product_attention = plain
        for block in getattr(net, "blocks", []):
            block.attn.fused_attn = True
        for module in net.modules():
            module.training = False
        yield maps
    finally:
        functional.scaled_dot_product_attention = kept
        for block, fused in zip(getattr(net, "blocks", []), was, strict=True):
            block.attn.fused_attn = fused


def of_heads(maps: Sequence[Tensor]) -> list[Tensor]:
    return [a.detach().reshape(-1, *a.shape[-2:]) for a in maps]


def own_maps(net: nn.Module, x: Tensor, c: int) -> tuple[list[Tensor], list[Tensor]]:
    """A_l (heads, T, T) and ∂y^c/∂A_l of one image, by the network's own softmax, captured by replacing it."""
    with plain_attention(net) as maps:
        score = net(x)[0, c]
    gradients = torch.autograd.grad(score, maps)
    return of_heads(maps), of_heads(gradients)


def stream(net: nn.Module, x: Tensor) -> tuple[Tensor, Sequence[nn.Module], Callable[[Tensor], Tensor]]:
    """The tokens that enter the first block, the blocks, and the head: tokens (1, T, C) -> scores (1, classes)."""
    if hasattr(net, "patch_embed"):  # timm
        tokens = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(x))))
        return tokens, list(net.blocks), lambda t: net.forward_head(net.norm(t))
    if hasattr(net, "_process_input"):  # torchvision
        tokens = torch.cat([net.class_token.expand(len(x), -1, -1), net._process_input(x)], 1)
        encoder = net.encoder
        return (
            tokens + encoder.pos_embedding,
            list(encoder.layers),
            lambda t: net.heads(encoder.ln(t)[:, 0]),
        )
    tokens = torch.cat([net.token, net.patch(x).relu().flatten(2).transpose(1, 2)], 1)
    pooled = (lambda t: t[:, 0]) if net.class_token else (lambda t: t[:, 1:].mean(1))
    return tokens, [net.block], lambda t: net.fc(pooled(net.norm(t)))


def layerwise_gradients(net: nn.Module, x: Tensor, c: int) -> list[Tensor]:
    """∂s_l/∂A_l (heads, T, T), s_l the score of class c when every token is the mean of those of block l."""
    found = []
    with plain_attention(net) as maps:
        tokens, blocks, head = stream(net, x)
        for block in blocks:
            tokens = block(tokens)
            score = head(tokens.mean(1, keepdim=True).repeat(1, tokens.shape[1], 1))[0, c]
            found += torch.autograd.grad(score, maps[-1], retain_graph=True)
    return of_heads(found)


def expected(net: nn.Module, name: str, x: Tensor, c: int, method: str) -> Tensor:
    if method == "legrad":
        row = reference.legrad(layerwise_gradients(net, x, c))
        return row[len(row) - 16 :].view(4, 4)
    maps, gradients = own_maps(net, x, c)
    if method == "attention_rollout":
        total = reference.rollout(maps)
    elif method == "gradient_rollout":
        total = reference.rollout(reference.weighted(maps, gradients))
    else:
        total = reference.chefer(reference.weighted(maps, gradients))
    prefix = len(total) - 16
    averaged = "averaged" in name or "no class" in name
    row = total[prefix:].mean(0) if averaged else total[0]
    return row[prefix:].view(4, 4)


@every_method
@pytest.mark.parametrize("name", NETS)
def test_equals_the_reference(name: str, method: str) -> None:
    net, x = NETS[name](), make_images()
    found = sightline.explain(net, x, method=method, classes=PICKED)
    for n in range(2):
        for k in range(2):
            by_hand = expected(net, name, x[n : n + 1], int(PICKED[n, k]), method)
            assert by_hand.max() > by_hand.min()
            torch.testing.assert_close(found.maps[n, k], by_hand, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found.logits, net(x))


def test_rollout_and_relevance_by_hand() -> None:
    # Two blocks over two tokens. (I + A)/2: [[1/2, 1/2], [0, 1]] then [[1, 0], [1/2, 1/2]];
    # the later one on the left: [[1/2, 1/2], [1/4, 3/4]]. Relevance: (I + A2)(I + A1) = [[2, 2], [1, 3]].
    first = torch.tensor([[[0.0, 1], [0, 1]]])
    second = torch.tensor([[[1.0, 0], [1, 0]]])
    assert rollout([first, second]).tolist() == [[[0.5, 0.5], [0.25, 0.75]]]
    assert relevance([first, second]).tolist() == [[[2, 2], [1, 3]]]


def test_rows_of_rollout_sum_to_one_and_discard_leaves_them_so() -> None:
    net, x = timm_vit(), make_images()
    seen = attend(net, x)
    assert [tuple(a.shape) for a in seen.maps] == [(2, 2, 17, 17)] * 3
    assert (seen.prefix, seen.grid, seen.rows.nonzero().flatten().tolist()) == (1, (4, 4), [0])
    torch.testing.assert_close(rollout([a.mean(1) for a in seen.maps]).sum(2), torch.ones(2, 17).double())
    plain = sightline.explain(net, x, method="attention_rollout").maps
    discarded = sightline.explain(net, x, method="attention_rollout", discard=0.9).maps
    assert (discarded == 0).sum() > (plain == 0).sum()
    with pytest.raises(InputError, match="discard=1"):
        sightline.explain(net, x, method="attention_rollout", discard=1.0)


def test_discard_sets_the_smallest_values_to_0_but_for_the_first_column() -> None:
    net, x = timm_vit(), make_images(1)
    maps, _ = own_maps(net, x, 0)
    cut = []
    for heads in maps:
        mean = sum(heads) / len(heads)
        kept = mean.flatten().clone()
        for place in sorted(range(289), key=lambda at: float(mean.flatten()[at]))[: int(0.9 * 289)]:
            kept[place] = 0 if place % 17 else kept[place]
        cut.append(kept.view(1, 17, 17))
    found = sightline.explain(net, x, method="attention_rollout", discard=0.9).maps
    torch.testing.assert_close(found[0, 0], reference.rollout(cut)[0, 1:].view(4, 4), rtol=0, atol=1e-12)


def test_two_classes_differ_where_a_class_is_asked_for() -> None:
    maps = {m: sightline.explain(timm_vit(), make_images(), method=m, classes=PICKED).maps for m in METHODS}
    assert torch.equal(maps["attention_rollout"][:, 0], maps["attention_rollout"][:, 1])
    for method in METHODS[1:]:
        assert (maps[method][:, 0] - maps[method][:, 1]).abs().max() > 1e-3 * maps[method].abs().max()
        assert (maps[method] >= 0).all()


@every_method
@pytest.mark.parametrize("make", [timm_vit, torchvision_vit])
def test_the_contract(method: str, make: Callable[[], nn.Module]) -> None:
    net, x = make(), make_images(3)
    found = sightline.explain(net, x, method=method, classes=1).maps
    for i in range(3):  # a batch equals its images
        alone = sightline.explain(net, x[i : i + 1], method=method, classes=1).maps
        torch.testing.assert_close(found[i : i + 1], alone, rtol=1e-9, atol=1e-12)
    by_target = sightline.explain(net, x, method=method, target=lambda out: out[:, 1]).maps
    torch.testing.assert_close(by_target, found)
    with torch.no_grad():
        assert torch.equal(sightline.explain(net, x, method=method, classes=1).maps, found)
    assert torch.equal(sightline.explain(net.train(), x, method=method, classes=1).maps, found)
    assert net.training
    frozen = net.eval().requires_grad_(False)
    torch.testing.assert_close(sightline.explain(frozen, x, method=method, classes=1).maps, found)
    single = sightline.explain(net.float(), x.float(), method=method, classes=1).maps
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), found, rtol=1e-3, atol=1e-5)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(p.grad is None for p in net.parameters())
    with pytest.raises(InputError, match="inference_mode"), torch.inference_mode():
        sightline.explain(net, x.float(), method=method, classes=1)
    with pytest.raises(InputError, match="nwc"):
        sightline.explain(net, x.float(), method=method, nwc=True)


@every_method
def test_what_is_refused(method: str) -> None:
    import torchvision

    with pytest.raises(UnsupportedError, match=r"GapToy: it has no self-attention.*use 'gradcam'"):
        sightline.explain(prepare(GapToy()), make_images(), method=method)
    swin = torchvision.models.SwinTransformer([4, 4], 12, [1, 1], [2, 2], [2, 2], num_classes=4).eval()
    with pytest.raises(UnsupportedError, match="SwinTransformer: it attends within windows, as Swin does"):
        sightline.explain(swin, torch.rand(1, 3, 32, 32), method=method)


class HandAttention(nn.Module):
    """Four patches as tokens of one channel, v; one head with A = 1/4 everywhere; y = 2 · mean(v + A v)."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.Identity()

        def forward(self, v: Tensor) -> Tensor:
            v = self.norm(v)
            return v + (v @ v.transpose(1, 2) * 0).softmax(-1) @ v

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.block, self.fc = nn.Conv2d(3, 1, 2, 2, bias=False), self.Block(), nn.Linear(1, 1)
        with torch.no_grad():
            self.patch.weight.zero_()[0, 0, 0, 0] = 1
            self.fc.weight.fill_(2), self.fc.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


def test_legrad_by_hand() -> None:
    # s = 2 · 1/4 Σ_i (v_i + Σ_j A_ij v_j), so ∂s/∂A_ij = v_j / 2 for every query i: the map is ReLU(v) / 2.
    x = torch.zeros(1, 3, 4, 4)
    x[0, 0, ::2, ::2] = torch.tensor([[1.0, -2], [3, 0.5]])
    found = sightline.explain(HandAttention().eval(), x, "legrad", 0).maps
    assert found[0, 0].tolist() == [[0.5, 0.0], [1.5, 0.25]]


def test_legrad_of_the_last_blocks() -> None:
    net, x = timm_vit(), make_images()
    slopes = layerwise_gradients(net, x[:1], 2)
    for count in (1, 2, 3, 9):
        found = sightline.explain(net, x[:1], "legrad", 2, blocks=count).maps[0, 0]
        torch.testing.assert_close(found, reference.legrad(slopes[-count:])[1:].view(4, 4))


class TokensFirst(TokenToy):
    """Its block takes and returns (T, N, C), as older CLIPs do."""

    class Block(TokenToy.Block):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.transpose(0, 1)).transpose(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.relu(self.patch(x)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        tokens = self.norm(self.block(tokens.transpose(0, 1)).transpose(0, 1))
        return self.fc(tokens[:, 0] if self.class_token else tokens[:, 1:].mean(1))


@pytest.mark.parametrize("n", [1, 2, 17])
def test_legrad_where_tokens_come_first(n: int) -> None:
    usual, other, x = prepare(TokenToy()), prepare(TokensFirst()), make_images(n)
    other.load_state_dict(usual.state_dict())
    expected = sightline.explain(usual, x[:2], "legrad", 1).maps
    torch.testing.assert_close(sightline.explain(other, x, "legrad", 1).maps[:2], expected)


class Apart(TokenToy):
    """Attention and the residual stream in the network itself: no module returns all that goes on."""

    class Block(TokenToy.Block):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
            return self.out(nn.functional.scaled_dot_product_attention(q, k, v))

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.relu(self.patch(x)).flatten(2).transpose(1, 2)
        return self.fc(self.norm(tokens + self.block(tokens)).mean(1))


class TwoInOne(TokenToy):
    """One module that attends twice."""

    class Block(TokenToy.Block):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(super().forward(x))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Apart, "sees more of the image than its block 'block' returns"),
        (TwoInOne, "0 of its 2 attention maps"),
    ],
)
def test_legrad_refuses_blocks_that_it_cannot_tell_apart(make: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"{make.__name__}.*{said}|{said}.*use 'chefer'"):
        sightline.explain(prepare(make()), make_images(), "legrad")
