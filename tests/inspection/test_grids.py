"""Convolutions without padding: their cells look at the middle of the image, and the map is drawn there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sightline
from sightline.inspection.grids import LEAST, behind
from sightline.inspection.structure import inspect_network


class Centres(nn.Module):
    """Kernels that are 1 at their centre: the last map is the image, cut by half of what the kernels reach over."""

    def __init__(self, count: int = 12, kernel: int = 3, pad: int = 0, padding: int = 0) -> None:
        super().__init__()
        self.pad = pad
        self.convs = nn.ModuleList(nn.Conv2d(1, 1, kernel, padding=padding, bias=False) for _ in range(count))
        for conv in self.convs:
            nn.init.dirac_(conv.weight)
        self.head = nn.Linear(1, 2)
        nn.init.constant_(self.head.weight, 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = F.relu(conv(F.pad(x, [self.pad] * 4) if self.pad else x))
        return self.head(x.mean((2, 3)))


def with_dot(y: int, x: int, side: int = 64) -> torch.Tensor:
    image = torch.zeros(1, 1, side, side)
    image[0, 0, y, x] = 1
    return image


@pytest.mark.parametrize("place", [(14, 20), (32, 32), (49, 15)])
@pytest.mark.parametrize("method", ["gradcam", "layercam", "eigencam:centre=false", "scorecam"])
def test_a_dot_is_drawn_where_it_is(method: str, place: tuple[int, int]) -> None:
    """12 kernels of 3 lose 12 pixels at each edge: enlarged to the whole image, a dot at 14 would be drawn at 4."""
    image = with_dot(*place)
    heat = sightline.explain(Centres().eval(), image, method=method).heatmaps()[0, 0]
    assert divmod(int(heat.argmax()), 64) == place
    assert heat.sum() == pytest.approx(1, abs=1e-3)  # nothing beside it


class Line(nn.Module):
    """Sums of 12 kernels of 3 without padding along each axis of a signal or a volume."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        kind = {1: nn.Conv1d, 3: nn.Conv3d}[axes]
        self.convs = nn.ModuleList(kind(1, 1, 3, bias=False) for _ in range(12))
        self.head = nn.Linear(1, 2)
        with torch.no_grad():
            for conv in self.convs:
                conv.weight.zero_()[(0, 0, *[1] * axes)] = 1  # the value in the middle
            self.head.weight.fill_(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.head(x.flatten(2).mean(2))


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
@pytest.mark.parametrize("place", [(14,), (32,), (49,), (14, 20, 32), (33, 14, 49)])
def test_a_dot_in_a_signal_or_volume_is_drawn_where_it_is(place: tuple[int, ...], method: str) -> None:
    x = torch.zeros(1, 1, *[64 if len(place) == 1 else 52] * len(place))
    place = tuple(min(at, 38) for at in place) if len(place) == 3 else place
    x[(0, 0, *place)] = 1
    found = sightline.explain(Line(len(place)).eval(), x, method)
    assert found.maps.shape[2:] == x.shape[2:]
    assert tuple(int(at) for at in torch.unravel_index(found.maps[0, 0].argmax(), x.shape[2:])) == place
    assert int((found.maps > 0).sum()) == 1


def test_the_edges_repeat_the_outermost_cells() -> None:
    """A dot that the outermost cell looks at lights what lies outwards, which that cell is the last to see."""
    heat = sightline.explain(Centres().eval(), with_dot(12, 30), method="gradcam").heatmaps()[0, 0]
    assert heat[:13, 30].tolist() == [1.0] * 13
    assert heat[13:].sum() == 0


def test_by_hand() -> None:
    """LeNet on 28×28: 5×5 cuts 2 pixels, pooling none, and 5×5 two cells of 2 pixels: the 4 cells cover 6 to 22."""
    lenet = nn.Sequential(
        nn.Conv2d(1, 4, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    ).eval()  # fmt: skip
    structure = inspect_network(lenet, torch.rand(1, 1, 28, 28))
    assert structure.target is not None
    assert (structure.target.covers, structure.target.unpadded) == (((6, 22), (6, 22)), True)
    assert structure.covers["0", 0] == ((2, 26), (2, 26))


@pytest.mark.parametrize(
    ("network", "covers"),
    [
        (Centres(padding=1), None),
        (Centres(pad=1), None),  # padded by a function of its own
        (Centres(count=3), None),  # 3 of 64 pixels: below 5 %
        (Centres(count=4), ((4, 60), (4, 60))),
        (Centres(count=2, kernel=7), ((6, 58), (6, 58))),
    ],
)
def test_where_it_counts(network: nn.Module, covers: object) -> None:
    structure = inspect_network(network.eval(), torch.rand(1, 1, 64, 64))
    assert structure.target is not None
    assert structure.target.covers == covers
    assert 3 / 64 < LEAST < 4 / 64


def test_strides_and_residuals_are_left_as_they_were() -> None:
    """A ResNet's cells look half a cell to the top left of where they are drawn, in every tool: less than a cell."""
    import torchvision

    net = torchvision.models.resnet18(weights=None).eval()
    assert inspect_network(net, torch.rand(1, 3, 64, 64)).covers == {}


class _Op:
    """As much of a recorded operation as the arithmetic needs."""

    def __init__(
        self, function: str, x: torch.Tensor, weight: torch.Tensor | None, *rest: Any, made: int
    ) -> None:
        self.function, self.inputs = function, [x] if weight is None else [x, weight]
        self.arguments = ((x, *([] if weight is None else [weight, None]), *rest), {})
        self.output = torch.zeros(1, 1, made)


@pytest.mark.parametrize(
    ("function", "kernel", "rest", "size", "made"),
    [
        ("conv1d", 3, (1, 0, 1), 20, 18),
        ("conv1d", 5, (2, 1, 1), 20, 9),
        ("conv1d", 3, (1, 0, 3), 20, 14),
        ("conv_transpose1d", 2, (2, 0), 10, 20),
        ("conv_transpose1d", 4, (2, 1), 10, 20),
        ("max_pool1d", 0, (3, 2, 0), 21, 10),
        ("max_pool1d", 0, (3, 1, 0, 4), 24, 16),
        ("max_pool1d", 0, (2, None, 0, 3), 40, 19),
    ],
)
def test_the_arithmetic_is_that_of_the_operations(
    function: str, kernel: int, rest: tuple[Any, ...], size: int, made: int
) -> None:
    """Each cell of the middle is where the mean of what it reads, or writes, lies, by the real operation."""
    x = torch.zeros(1, 1, size, dtype=torch.float64)
    weight = torch.ones(1, 1, kernel, dtype=torch.float64) if kernel else None
    run = getattr(F, function)
    ramp = torch.arange(size, dtype=torch.float64).view(1, 1, -1) + 0.5
    if weight is None:
        apart = rest[3] if len(rest) > 3 else 1
        measured = run(ramp, *rest)[0, 0] - apart * (rest[0] - 1) / 2  # the largest on a ramp is the last
    else:
        measured = (run(ramp, weight, None, *rest) / run(torch.ones_like(ramp), weight, None, *rest))[0, 0]
    ((start, stop),) = behind(_Op(function, x, weight, *rest, made=made), ((0.0, float(size)),))
    step = (stop - start) / made
    centres = start + step * (torch.arange(made, dtype=torch.float64) + 0.5)
    assert len(measured) == made
    middle = slice(4, -4)
    if function == "conv_transpose1d":  # a cell of two that one position writes: on average
        assert float((measured - centres)[middle].mean()) == pytest.approx(0, abs=1e-9)
    else:
        assert torch.allclose(measured[middle], centres[middle])
