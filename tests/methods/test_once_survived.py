"""Methods and their options, worked out by hand: values that a change of one operation once left unnoticed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.errors import InputError, UnsupportedError
from sightline.heatmap import upsample
from sightline.inspection.attention import attend
from sightline.methods.combinators import multi_layer
from sightline.methods.eigencam import first_component
from sightline.methods.options import parse_options
from sightline.methods.recipro_cam import position_masks
from sightline.methods.registry import Method
from sightline.methods.spec import MethodSpec
from toynets import TokenToy, build, make_images, prepare


@pytest.mark.parametrize(
    ("methods", "pair", "message"),
    [
        (["scorecam"], "scorcam.channels=3", "unknown method in the option's name 'scorcam'; .*'scorecam'"),
        (["scorecam"], "chanels=3", "unknown option of scorecam: 'chanels'; .*'channels'"),
        (["hirescam", "layercam"], "chanels=3", "'chanels': hirescam and layercam has no options"),
    ],
)
def test_an_option_that_no_method_has(methods: list[str], pair: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_options(methods, [pair])


def test_fused_layers_are_each_divided_by_their_own_maximum() -> None:
    def half(model: nn.Module, images: Tensor, classes: Tensor, *, layer: int) -> Tensor:
        return images[:, layer : layer + 1]

    maps = torch.tensor([[[[2.0, 0.0]], [[1.0, 4.0]]]])  # (1, 0) + (1/4, 1), over 5/4
    fused = multi_layer(half, [0, 1])(nn.Identity(), maps, torch.zeros(1, 1))
    assert fused.flatten().tolist() == pytest.approx([1, 0.8])


def test_an_option_of_one_method_wins_over_that_of_all_in_whatever_order() -> None:
    for pairs in (["scorecam.channels=3", "channels=5"], ["channels=5", "scorecam.channels=3"]):
        found = parse_options(["scorecam", "sscam"], pairs)
        assert found == {"scorecam": {"channels": 3}, "sscam": {"channels": 5}}


def test_shares_of_a_softmax_have_no_negative_ones_to_leave_out() -> None:
    net, x = build("gap"), make_images(1)
    plain = sightline.explain(net, x, method="scorecam", classes=[0, 1])
    clamped = sightline.explain(net, x, method="scorecam:nwc=true", classes=[0, 1])
    assert torch.equal(plain.maps, clamped.maps)


class Cropped(nn.Module):
    """Shown the left half of an oblong image: its maps are oblong as well, and lie on that half."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Sequential(nn.Conv2d(3, 6, 3, 2, padding=1), nn.ReLU()), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x[..., :32]).mean((2, 3)))


def test_the_maps_of_a_crop_lie_on_the_crop() -> None:
    net = prepare(Cropped())
    x = torch.randn(1, 3, 16, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps = sightline.explain(net, x, method="gradcam", layer="body", classes=1).maps
    features = net.body(x[..., :32])
    g = net.fc.weight[1] / (8 * 16)
    by_hand = torch.einsum("c,nchw->nhw", g, features).relu().detach()
    assert maps.shape == (1, 1, 16, 64)
    torch.testing.assert_close(maps[0, :, :, :32], upsample(by_hand, (16, 32)))
    assert not maps[..., 32:].any()


def test_a_walk_over_the_features_of_a_crop_is_one_over_the_crop_alone() -> None:
    net = prepare(Cropped())
    x = torch.randn(1, 3, 16, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sightline.explain(net, x, method="gradcam:affinity", layer="body", classes=1).maps
    alone = sightline.explain(net, x[..., :32], method="gradcam:affinity", layer="body", classes=1).maps
    assert found.shape[-2:] == (16, 64)
    assert not found[..., 32:].any()
    torch.testing.assert_close(
        found[..., :32], upsample(alone, (16, 32)), rtol=0, atol=0.2 * float(alone.max())
    )


def test_the_gaussian_of_recipro_cam_is_that_of_1_2_1() -> None:
    line = torch.tensor([1.0, 2, 1]) / 4
    whole = position_masks(3, 3)
    assert torch.equal(whole[4], torch.outer(line, line))
    assert torch.equal(whole[0], torch.outer(torch.tensor([2.0, 1, 0]), torch.tensor([2.0, 1, 0])) / 16)
    assert torch.equal(whole[8], whole[0].flip(0, 1))


def test_two_methods_of_different_names_for_the_same_are_the_same() -> None:
    assert MethodSpec("cam", flip=True, alias="mine") == MethodSpec("cam", flip=True)
    assert MethodSpec("cam", flip=True) != MethodSpec("cam")


def test_the_grid_of_a_layout_is_of_one_size() -> None:
    scaled = MethodSpec("cam", layers=("a",), scales=(1, 2))
    with pytest.raises(InputError, match="is of one input size, and scales=1,2 shows others"):
        scaled.check_layout("ntc:2x2")
    scaled.check_layout("nhwc")
    MethodSpec("cam", layers=("a",), scales=(1,)).check_layout("ntc:2x2")


def test_a_method_is_of_one_layer_s_map_and_of_a_class_unless_it_says_otherwise() -> None:
    method = Method("mine", lambda *_: torch.zeros(1, 1, 1), "", frozenset())
    assert (method.signed, method.joint, method.class_specific, method.layers) == (False, False, True, None)


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("channels", [3, 6, 20])
def test_eigencam_is_the_first_singular_vector_of_few_positions_and_of_many(
    channels: int, centre: bool
) -> None:
    maps = torch.randn(
        2, channels, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).exp()
    x = maps.flatten(2).transpose(1, 2)
    x = x - x.mean(1, keepdim=True) if centre else x
    u, s, _ = torch.linalg.svd(x)
    expected = u[:, :, 0] * s[:, :1]
    sign = (expected * x.sum(2)).sum(1, keepdim=True).sign()
    torch.testing.assert_close(first_component(maps, centre).flatten(1), expected * sign)


# Attention that is spelled otherwise


class Folded(TokenToy):
    """Two heads folded into the batch, as torch's own attention once did it: (N · heads, T, T)."""

    class Block(TokenToy.Block):
        def forward(self, x: Tensor) -> Tensor:
            n, tokens, width = x.shape
            parts = self.qkv(self.norm1(x)).view(n, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
            q, k, v = parts.reshape(3, n * 2, tokens, width // 2)
            mixed = (torch.bmm(q, k.transpose(1, 2)) * (width // 2) ** -0.5).softmax(-1) @ v
            x = x + self.out(mixed.view(n, 2, tokens, width // 2).transpose(1, 2).reshape(n, tokens, width))
            return x + self.mlp(self.norm2(x))


class Unfolded(TokenToy):
    class Block(TokenToy.Block):
        def forward(self, x: Tensor) -> Tensor:
            n, tokens, width = x.shape
            q, k, v = (
                self.qkv(self.norm1(x)).view(n, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind()
            )
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
            x = x + self.out(mixed.transpose(1, 2).reshape(n, tokens, width))
            return x + self.mlp(self.norm2(x))


@pytest.mark.parametrize("method", ["attention_rollout", "gradient_rollout", "chefer"])
def test_heads_that_are_folded_into_the_batch_are_heads(method: str) -> None:
    folded, plain, x = prepare(Folded()), prepare(Unfolded()), make_images()
    assert [tuple(one.shape) for one in attend(folded, x).maps] == [(2, 2, 17, 17)]
    expected = sightline.explain(plain, x, method, [1, 2]).maps
    torch.testing.assert_close(sightline.explain(folded, x, method, [1, 2]).maps, expected)


class Gated(TokenToy):
    """A softmax over what is no attention: over three gates, over the columns of a few rows, and over the classes."""

    def forward(self, x: Tensor) -> Tensor:
        gates = x.mean((2, 3)).softmax(-1)
        shares = x.mean((2, 3))[:, None, :].softmax(-1)
        columns = x.mean(1)[:, :5].softmax(-1)
        return super().forward(x * (gates.sum() / shares.sum() * columns.sum() / columns.sum())).softmax(-1)


def test_a_softmax_over_something_else_is_no_attention() -> None:
    usual, gated, x = prepare(TokenToy()), prepare(Gated()), make_images(1)
    expected = sightline.explain(usual, x, "attention_rollout", 1).maps
    torch.testing.assert_close(sightline.explain(gated, x, "attention_rollout", 1).maps, expected)


class Crossed(TokenToy):
    """One head that attends from the patches to two learned tokens, besides the self-attention."""

    class Block(TokenToy.Block):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.others = nn.Parameter(torch.ones(1, 1, 2, channels))

        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x)
            return x + ((x[:, None] @ self.others.transpose(-2, -1)).softmax(-1) @ self.others)[:, 0]


def test_one_head_that_attends_to_other_tokens_is_refused() -> None:
    net = prepare(Crossed())
    with pytest.raises(UnsupportedError, match="it attends to other tokens, or to fewer of them"):
        sightline.explain(net, make_images(), "attention_rollout", 1)
