"""Receptive fields of oblong kernels, every pooling and branches, worked out by hand along each axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.errors import UnsupportedError
from sightline.inspection.layers import LayerRef
from sightline.inspection.receptive_field import PIXEL, ReceptiveField, receptive_field

FIELD = ReceptiveField((-3, 2), (4, 8), (5, 6))


@pytest.mark.parametrize(
    ("place", "centre", "box"),
    [
        ((0, 0), (-0.5, 5.0), [2, 0, 8, 2]),
        ((2, 0), (7.5, 5.0), [2, 5, 8, 10]),
        ((0, 3), (-0.5, 29.0), [26, 0, 30, 2]),
        ((5, 1), (19.5, 13.0), [10, 17, 16, 20]),
    ],
)
def test_where_the_field_of_a_position_lies(place: tuple[int, int], centre: Any, box: list[int]) -> None:
    assert FIELD.centre(*place) == centre
    found = FIELD.box(*place, (20, 30))
    assert (found.tolist(), found.dtype) == (box, torch.float32)


def test_one_pixel_is_the_field_of_the_image() -> None:
    assert (PIXEL.start, PIXEL.jump, PIXEL.size) == ((0, 0), (1, 1), (1, 1))
    assert receptive_field(nn.Sequential(nn.ReLU()), "0") == PIXEL


LAYERS: list[tuple[nn.Module, tuple[int, int], tuple[int, int], tuple[int, int]]] = [
    # start, jump, size behind a convolution that begins at (-1, 0), steps (2, 1) and spans (3, 2)
    (nn.Conv2d(4, 4, (3, 5)), (-1, 0), (2, 1), (7, 6)),
    (nn.Conv2d(4, 4, (3, 5), (1, 2), (1, 2)), (-3, -2), (2, 2), (7, 6)),
    (nn.Conv2d(4, 4, 3, dilation=(2, 3)), (-1, 0), (2, 1), (11, 8)),
    (nn.Conv2d(4, 4, (3, 4), padding="same"), (-3, -1), (2, 1), (7, 5)),
    (nn.Conv2d(4, 4, (3, 5), padding="same", dilation=(2, 1)), (-5, -2), (2, 1), (11, 6)),
    (nn.Conv2d(4, 4, (3, 5), padding="valid"), (-1, 0), (2, 1), (7, 6)),
    (nn.MaxPool2d((2, 3)), (-1, 0), (4, 3), (5, 4)),
    (nn.MaxPool2d(3, (1, 2), (1, 0)), (-3, 0), (2, 2), (7, 4)),
    (nn.MaxPool2d(2, 1, dilation=(3, 4)), (-1, 0), (2, 1), (9, 6)),
    (nn.AvgPool2d((2, 3)), (-1, 0), (4, 3), (5, 4)),
    (nn.AvgPool2d((3, 2), (1, 2), (1, 0)), (-3, 0), (2, 2), (7, 3)),
    (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout()), (-1, 0), (2, 1), (3, 2)),
    (nn.Sequential(nn.Conv2d(4, 4, (3, 1)), nn.AvgPool2d((1, 2))), (-1, 0), (2, 2), (7, 3)),
]


@pytest.mark.parametrize(("layer", "start", "jump", "size"), LAYERS)
def test_a_layer_along_both_axes(
    layer: nn.Module, start: tuple[int, int], jump: tuple[int, int], size: tuple[int, int]
) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, (3, 2), (2, 1), (1, 0)), layer)
    assert receptive_field(net, "0") == ReceptiveField((-1, 0), (2, 1), (3, 2))
    assert receptive_field(net, "1") == ReceptiveField(start, jump, size)
    assert receptive_field(net, LayerRef("1")) == ReceptiveField(start, jump, size)


class Runs(nn.Module):
    """A function of the image and of two convolutions beside each other."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.wide = nn.Conv2d(1, 4, (1, 5), padding=(0, 2))
        self.tall = nn.Conv2d(1, 4, (7, 1), padding=(3, 0))
        self.low = nn.Conv2d(1, 4, (3, 3), padding=(2, 0))  # begins higher up and further right
        self.first, self.end = nn.Conv2d(1, 4, 1), nn.Identity()
        self.scale = nn.Parameter(torch.ones(1))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.function(self, x))


@pytest.mark.parametrize(
    ("function", "start", "size"),
    [
        (lambda net, x: net.wide(x) + net.tall(x), (-3, -2), (7, 5)),
        (lambda net, x: net.tall(x) + net.wide(x), (-3, -2), (7, 5)),
        (lambda net, x: torch.cat([net.low(x), net.wide(x)], 1), (-2, -2), (3, 5)),
        (lambda net, x: torch.cat([net.wide(x), net.low(x), net.tall(x)], 1), (-3, -2), (7, 5)),
        (lambda net, x: net.low(x) + net.first(x), (-2, 0), (3, 3)),
        (lambda net, x: net.first(x) * net.low(x), (-2, 0), (3, 3)),
        (lambda net, x: net.scale * net.low(x), (-2, 0), (3, 3)),  # a parameter has no field
        (lambda net, x: net.low(x) * (net.scale + 1), (-2, 0), (3, 3)),
        (lambda net, x: net.low(x).relu().add(1).mul(2).sigmoid().tanh().contiguous().clone(), (-2, 0), (3, 3)),
        (lambda net, x: F.relu(torch.sigmoid(torch.tanh(torch.relu(net.low(x))))), (-2, 0), (3, 3)),
        (lambda net, x: F.silu(F.gelu(F.dropout(F.leaky_relu(net.low(x))))), (-2, 0), (3, 3)),
        (lambda net, x: net.low(x)[0:1, 1:], (-2, 0), (3, 3)),
        (lambda net, x: F.max_pool2d(net.low(x), (2, 3), 1), (-2, 0), (4, 5)),
        (lambda net, x: F.max_pool2d(net.low(x), (2, 3), 1, (1, 0)), (-3, 0), (4, 5)),
        (lambda net, x: F.avg_pool2d(net.low(x), kernel_size=(2, 3), stride=1, padding=(0, 1)), (-2, -1), (4, 5)),
        (lambda net, x: F.max_pool2d(net.low(x), 2, 1, dilation=1), (-2, 0), (4, 4)),
    ],
)  # fmt: skip
def test_a_function_and_branches_that_meet(
    function: Callable[[Any, Tensor], Tensor], start: tuple[int, int], size: tuple[int, int]
) -> None:
    assert receptive_field(Runs(function), "end") == ReceptiveField(start, (1, 1), size)


@pytest.mark.parametrize(
    ("function", "jump"),
    [(lambda net, x: F.max_pool2d(x, (2, 3)), (2, 3)), (lambda net, x: F.avg_pool2d(x, 2, 4), (4, 4))],
)
def test_the_stride_of_a_pooling_is_its_kernel_unless_one_is_given(
    function: Callable[[Any, Tensor], Tensor], jump: tuple[int, int]
) -> None:
    assert receptive_field(Runs(function), "end").jump == jump


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda net, x: x.mean((2, 3), keepdim=True), "'mean' is not known to be local"),
        (lambda net, x: x[:, :, 1:], "'getitem' is not known to be local"),
        (lambda net, x: x[0], "'getitem' is not known to be local"),
        (lambda net, x: F.softmax(x, 3), "'softmax' is not known to be local"),
        (lambda net, x: F.max_pool2d(x, 3, dilation=(2, 1)), "'max_pool2d' with dilation"),
        (lambda net, x: F.max_pool2d(x, 3, dilation=(1, 2)), "'max_pool2d' with dilation"),
        (lambda net, x: F.avg_pool2d(x, 2) + net.first(x), r"branches of strides \(2, 2\) and \(1, 1\) meet"),
        (lambda net, x: F.avg_pool2d(x, (1, 2)) + net.first(x), r"branches of strides \(1, 2\) and \(1, 1\) meet"),
    ],
)  # fmt: skip
def test_what_has_no_field_says_why(function: Callable[[Any, Tensor], Tensor], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        receptive_field(Runs(function), "end")


class Twisted(nn.Module):
    """Control flow that torch.fx cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_layer_that_cannot_be_traced_is_named() -> None:
    with pytest.raises(UnsupportedError, match="Twisted cannot be traced: symbolically traced variables"):
        receptive_field(nn.Sequential(Twisted()), "0")
    with pytest.raises(UnsupportedError, match="Sequential cannot be traced: symbolically traced variables"):
        receptive_field(nn.Sequential(Twisted(), nn.ReLU()), "1")


class Aside(nn.Module):
    """Returns something that does not depend on what it is given."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Any:
        return self.value


@pytest.mark.parametrize("value", [None, 1.0, nn.Parameter(torch.ones(2))])
def test_a_layer_that_returns_nothing_of_the_image_has_no_field(value: Any) -> None:
    with pytest.raises(UnsupportedError, match="Aside has no output that depends on the image"):
        receptive_field(nn.Sequential(nn.ReLU(), Aside(value)), "1")
