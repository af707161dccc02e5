"""CAM (Zhou et al. 2016) against the loops, by hand, and by the identities that make it CAM."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sightline
from references.cam import cam, class_convolution
from references.plain import each
from sightline.errors import InputError, UnsupportedError
from toynets import (
    CLASS_CONVS,
    CLASSES,
    POOLING_HEADS,
    GapToy,
    GlobalMax,
    HandGap,
    PooledToy,
    Thresholded,
    build,
    image,
    make_images,
    prepare,
)

PICKED = torch.tensor([[2, 0], [1, 3]])
AVERAGED = [
    "gap",
    "in-place, functional mean",
    "batch norm, functional relu",
    "densenet end",
    "residual",
    "branches",
]


@pytest.mark.parametrize("nwc", [False, True])
@pytest.mark.parametrize("name", [*POOLING_HEADS, *CLASS_CONVS])
def test_equals_the_reference(name: str, nwc: bool) -> None:
    net, x = build(name), make_images()
    explanation = sightline.explain(net, x, method="cam", classes=PICKED, nwc=nwc)
    expected = each(cam, net, x, PICKED, nwc=nwc)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(explanation.maps, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(explanation.logits, net(x), rtol=0, atol=1e-10)
    assert torch.equal(explanation.classes, PICKED)


@pytest.mark.parametrize("name", CLASS_CONVS)
def test_with_bias_the_class_convolution_is_the_map(name: str) -> None:
    net, x = build(name), make_images()
    explanation = sightline.explain(net, x, method="cam", classes=PICKED, bias=True)
    torch.testing.assert_close(explanation.maps, each(class_convolution, net, x, PICKED), rtol=0, atol=1e-10)
    scores = explanation.logits.gather(1, PICKED)
    torch.testing.assert_close(explanation.maps.mean((2, 3)), scores, rtol=0, atol=1e-10)


def test_by_hand() -> None:
    # A1 = [[1, 2], [3, 4]], A2 = [[0, 1], [0, 1]], A3 = 0; class 0 has w = (1, -2, 7) and b = 0.5.
    # M_0 = A1 - 2 A2 + 7 A3 = [[1, 0], [3, 2]], its mean 1.5; S_0 = 2.5 - 2·0.5 + 0.5 = 2 = 1.5 + 0.5.
    # With NWC w = (1, 0, 7): M_0 = A1. Class 1 has w = (0, 1, 0): M_1 = A2.
    net = HandGap([[1, -2, 7], [0, 1, 0]], [0.5, -1])
    x = image([[[1, 2], [3, 4]], [[0, 1], [0, 1]], [[0, 0], [0, 0]]])
    both = torch.tensor([[0, 1]])
    explanation = sightline.explain(net, x, method="cam", classes=both)
    assert explanation.maps[0].tolist() == [[[1, 0], [3, 2]], [[0, 1], [0, 1]]]
    assert explanation.logits.tolist() == [[2.0, -0.5]]
    with_bias = sightline.explain(net, x, method="cam", classes=both, bias=True).maps
    assert with_bias[0].tolist() == [[[1.5, 0.5], [3.5, 2.5]], [[-1, 0], [-1, 0]]]  # its means are the scores
    positive = sightline.explain(net, x, method="cam", classes=both, nwc=True)
    assert positive.maps[0, 0].tolist() == [[1, 2], [3, 4]]
    assert positive.logits.tolist() == [[2.0, -0.5]]


@pytest.mark.parametrize("name", AVERAGED)
def test_mean_plus_bias_is_the_score(name: str) -> None:
    net, x = build(name), make_images(3)
    every = torch.arange(CLASSES).expand(3, -1)
    explanation = sightline.explain(net, x, method="cam", classes=every)
    (fc,) = [m for m in net.modules() if isinstance(m, nn.Linear)]
    torch.testing.assert_close(explanation.maps.mean((2, 3)) + fc.bias, net(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", AVERAGED)
def test_with_bias_the_mean_is_the_score(name: str) -> None:
    net, x = build(name), make_images(3)
    every = torch.arange(CLASSES).expand(3, -1)
    maps = sightline.explain(net, x, method="cam", classes=every, bias=True).maps
    torch.testing.assert_close(maps.mean((2, 3)), net(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CLASS_CONVS)
def test_nwc_differs_from_cam_by_the_clamped_weights_alone(name: str) -> None:
    net, x = build(name), make_images()
    with torch.no_grad():
        net.classifier[1].weight.abs_()  # nothing to clamp
    maps = sightline.explain(net, x, method="cam", classes=PICKED).maps
    assert torch.equal(sightline.explain(net, x, method="cam", classes=PICKED, nwc=True).maps, maps)


def test_maps_of_all_classes_sum_to_the_map_of_the_summed_weights() -> None:
    net, x = build("gap"), make_images(2)
    every = torch.arange(CLASSES).expand(2, -1)
    total = sightline.explain(net, x, method="cam", classes=every).maps.sum(1, keepdim=True)
    with torch.no_grad():
        net.fc.weight[0] = net.fc.weight.sum(0)
    summed = sightline.explain(net, x, method="cam", classes=0).maps
    torch.testing.assert_close(total, summed, rtol=0, atol=1e-10)


@pytest.mark.parametrize("pool", [GlobalMax, Thresholded])
def test_other_poolings_keep_the_same_sum_but_not_the_identity(pool: Callable[[], nn.Module]) -> None:
    averaged, other, x = build("gap"), prepare(PooledToy(pool())), make_images(2)
    other.load_state_dict(averaged.state_dict())
    maps = sightline.explain(other, x, method="cam", classes=PICKED).maps
    torch.testing.assert_close(maps, sightline.explain(averaged, x, method="cam", classes=PICKED).maps)
    assert (maps.mean((2, 3)) + other.fc.bias[PICKED] - other(x).gather(1, PICKED)).abs().min() > 1e-3


class MaxThenAverage(GapToy):
    """A max-pool between the trunk and the average: what the average reads is the max-pool's output."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.max_pool2d(self.features(x), 2).mean((2, 3)))


def test_a_max_pool_before_the_average_keeps_the_identity() -> None:
    net, x = prepare(MaxThenAverage()), make_images()
    explanation = sightline.explain(net, x, method="cam", classes=PICKED)
    scores = explanation.logits.gather(1, PICKED)
    torch.testing.assert_close(
        explanation.maps.mean((2, 3)) + net.fc.bias[PICKED], scores, rtol=0, atol=1e-10
    )


def test_contributions_sum_to_the_map() -> None:
    net, x = build("gap"), make_images(2)
    explanation = sightline.explain(net, x, method="cam", classes=PICKED)
    channels = net.features(x).detach()
    parts = explanation.contributions(top=6)
    maps = parts.maps if hasattr(parts, "maps") else parts
    assert maps.shape == (2, 2, 6, 8, 8)
    torch.testing.assert_close(maps.sum(2), explanation.maps, rtol=0, atol=1e-10)
    # the same maps as w_k A^k in the order of the channels, whatever order they come in
    expected = net.fc.weight[PICKED][..., None, None] * channels[:, None]
    torch.testing.assert_close(maps.sort(2).values, expected.sort(2).values, rtol=0, atol=1e-10)


def test_refuses_a_head_that_is_not_pooling_and_linear() -> None:
    with pytest.raises(UnsupportedError, match="gradcam"):
        sightline.explain(build("vgg end"), make_images(), method="cam")


def test_refuses_a_hidden_layer_between_pooling_and_scores() -> None:
    class TwoLinear(GapToy):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, CLASSES))

    with pytest.raises(UnsupportedError):
        sightline.explain(prepare(TwoLinear()), make_images(), method="cam")


def test_a_callable_target_has_no_class_weights() -> None:
    with pytest.raises(InputError):
        sightline.explain(build("gap"), make_images(), method="cam", target=lambda out: out[:, 0])
