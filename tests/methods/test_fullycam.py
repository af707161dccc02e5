"""FullyCAM: the gradient module layer by layer, the fusing module, and the whole against the loops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import sightline
from references.fullycam import fullycam, one_layer
from references.plain import each
from sightline.errors import InputError
from toynets import CLASS_CONVS, FLATTEN_HEADS, ActivationToy, HandGap, build, image, make_images, prepare

PICKED = torch.tensor([[2, 0], [1, 3]])
STRAIGHT = [
    "gap",
    "in-place, functional mean",
    "batch norm, functional relu",
    "densenet end",
    *CLASS_CONVS,
    *FLATTEN_HEADS,
]


@pytest.mark.parametrize("name", STRAIGHT)
def test_equals_the_reference_over_all_convolutions(name: str) -> None:
    net, x = build(name), make_images()
    maps = sightline.explain(net, x, method="fullycam", classes=PICKED).maps
    expected = each(fullycam, net, x, PICKED)
    assert maps.shape == (2, 2, 16, 16)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-10)
    assert maps.amax((2, 3)).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("activation", [nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ReLU6])
def test_other_activations_equal_the_reference(activation: Callable[[], nn.Module]) -> None:
    # Here A is negative in places where the gradient is not zero: ReLU(A) matters.
    net, x = prepare(ActivationToy(activation)), make_images()
    maps = sightline.explain(net, x, method="fullycam", classes=PICKED).maps
    torch.testing.assert_close(maps, each(fullycam, net, x, PICKED), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {"reduce": "mean"},
        {"reduce": "max"},
        {"per_layer_norm": False},
        {"relu_grad": False},
        {"reduce": "max", "per_layer_norm": False, "relu_grad": False},
    ],
    ids=str,
)
def test_options_equal_the_reference(options: dict[str, object]) -> None:
    net, x = build("vgg end"), make_images()
    maps = sightline.explain(net, x, method="fullycam", classes=PICKED, **options).maps
    torch.testing.assert_close(maps, each(fullycam, net, x, PICKED, **options), rtol=0, atol=1e-10)
    plain = sightline.explain(net, x, method="fullycam", classes=PICKED).maps
    assert options == {"reduce": "mean"} or (maps - plain).abs().max() > 1e-4


@pytest.mark.parametrize("layers", [["features.1"], ["features.4"], ["features.1", "features.4"]])
def test_named_layers_equal_the_reference(layers: list[str]) -> None:
    net, x = build("in-place, functional mean"), make_images()
    maps = sightline.explain(net, x, method="fullycam", classes=PICKED, layers=layers).maps
    torch.testing.assert_close(maps, each(fullycam, net, x, PICKED, layers=layers), rtol=0, atol=1e-10)


def test_a_convolution_before_and_after_its_relu_gives_the_same_map() -> None:
    # Where A > 0 the ReLU's slope is 1, so g is the same on both sides; where A ≤ 0 the product is 0.
    net, x = build("gap"), make_images()
    before = sightline.explain(net, x, method="fullycam", classes=PICKED, layers=["features.0", "features.3"])
    after = sightline.explain(net, x, method="fullycam", classes=PICKED, layers=["features.1", "features.4"])
    torch.testing.assert_close(before.maps, after.maps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["residual", "branches"])
def test_skip_connections_and_branches(name: str) -> None:
    # The block as a whole is one of the layers: its own map is the reference's.
    net, x = build(name), make_images()
    layer = net.layer
    maps = sightline.explain(net, x, method="fullycam", classes=PICKED, layers=[layer]).maps
    torch.testing.assert_close(maps, each(fullycam, net, x, PICKED, layers=[layer]), rtol=0, atol=1e-10)
    assert torch.isfinite(sightline.explain(net, x, method="fullycam", classes=PICKED).maps).all()


def test_residual_convolutions_end_at_the_relu_behind_the_addition() -> None:
    # conv1 -> ReLU; conv2 -> + x -> ReLU: by hand, with every tensor named.
    import torch.nn.functional as F

    from references.plain import upsample

    net, x = build("residual"), make_images(1)
    c = 2
    stem = F.relu(net.stem(x)).detach().requires_grad_(True)
    pooled = F.max_pool2d(stem, 2)
    inner = F.relu(net.block.conv1(pooled))
    outer = F.relu(net.block.conv2(inner) + pooled)
    grads = torch.autograd.grad(net.fc(outer.mean((2, 3)))[0, c], [stem, inner, outer])
    fused = torch.zeros(16, 16, dtype=torch.float64)
    for a, g in zip([stem, inner, outer], grads, strict=True):
        m = upsample((g.relu() * a.relu()).sum(1)[0].detach(), 16, 16)
        fused = fused + m / m.max()
    maps = sightline.explain(net, x, method="fullycam", classes=c).maps
    torch.testing.assert_close(maps[0, 0], fused / fused.max(), rtol=0, atol=1e-10)


def test_stages_take_the_last_convolution_of_each_size() -> None:
    net, x = build("vgg end"), make_images()
    maps = sightline.explain(net, x, method="fullycam", classes=PICKED, layers="stages").maps
    expected = each(fullycam, net, x, PICKED, layers=["features.1", "features.4"])  # 16×16 and 8×8
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-10)


def test_by_hand() -> None:
    # One layer, as large as the image: g = w/4 = (1, -2, 0)/4, so M = ReLU(1/4) A1 = [[1, 2], [3, 4]]/4,
    # over its maximum: [[0.25, 0.5], [0.75, 1]]. Class 1 has no positive slope: zeros. Without the ReLU on
    # the gradient class 0 is A1 - 2 A2 = [[1, 0], [3, 2]], over 3.
    net = HandGap([[1, -2, 0], [-1, -1, 0]], [0, 0])
    x = image([[[1, 2], [3, 4]], [[0, 1], [0, 1]], [[0, 0], [0, 0]]])
    both = torch.tensor([[0, 1]])
    maps = sightline.explain(net, x, method="fullycam", classes=both, layers=["body"]).maps
    assert maps[0].tolist() == [[[0.25, 0.5], [0.75, 1]], [[0, 0], [0, 0]]]
    signed = sightline.explain(net, x, method="fullycam", classes=0, layers=["body"], relu_grad=False).maps
    expected = torch.tensor([[1, 0], [3, 2]], dtype=torch.float64) / 3
    torch.testing.assert_close(signed[0, 0], expected, rtol=0, atol=1e-12)


def test_one_layer_is_layercam_over_its_maximum() -> None:
    net, x = build("vgg end"), make_images()
    maps = sightline.explain(net, x, method="fullycam", classes=PICKED, layers=["features.1"]).maps
    raw = sightline.explain(
        net, x, method="layercam", classes=PICKED, layer="features.1"
    ).maps  # 16×16 already
    torch.testing.assert_close(maps, raw / raw.amax((2, 3), keepdim=True), rtol=0, atol=1e-10)
    torch.testing.assert_close(raw, each(one_layer, net, x, PICKED, layer="features.1"), rtol=0, atol=1e-10)


def test_unknown_options_name_the_choices() -> None:
    net, x = build("gap"), make_images()
    with pytest.raises(InputError, match=r"features\.1"):
        sightline.explain(net, x, method="fullycam", layers=["featurs.1"])
    with pytest.raises(InputError, match="sum"):
        sightline.explain(net, x, method="fullycam", reduce="summ")
