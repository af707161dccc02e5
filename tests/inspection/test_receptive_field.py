"""Receptive fields: arithmetic against the support of the gradient, and cases worked by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.errors import UnsupportedError
from sightline.inspection.receptive_field import ReceptiveField, receptive_field

SIDE = 41


class Branches(nn.Module):
    """An inception-like block: 1×1, dilated 3×3 and average pooling, concatenated, and a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, stride=2, padding=1)
        self.one, self.three = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 3, padding=2, dilation=2)
        self.last = nn.Conv2d(6, 6, 3, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = torch.cat([self.one(x), self.three(x), F.avg_pool2d(x, 3, 1, 1)], 1)
        return x + self.last(x)


class Outer(nn.Module):
    """The layer that is asked for lies inside, and behind it stands what cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(Branches(), nn.BatchNorm2d(6), nn.Conv2d(6, 1, (3, 5), (1, 2), (1, 0)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return x.mean() if x.sum() > 0 else x.sum()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "plain": (lambda: nn.Sequential(nn.Conv2d(1, 2, 5, 2, 2), nn.ReLU(), nn.Conv2d(2, 1, 3)), "2"),
    "pooling": (
        lambda: nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.AvgPool2d(3, 2, 1), nn.Conv2d(1, 1, 3, 3)), "2"
    ),
    "branches": (lambda: nn.Sequential(Branches()), "0"),
    "inside": (Outer, "body"),
}  # fmt: skip


def _support(network: nn.Module, layer: str, y: int, x: int) -> Tensor:
    """The box of the input pixels with a gradient at position (y, x) of the layer."""
    seen: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda m, a, out: seen.append(out))
    image = torch.rand(1, 1, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
    network(image)
    handle.remove()
    (gradient,) = torch.autograd.grad(seen[0][0, :, y, x].sum(), image)
    rows, columns = gradient[0, 0].nonzero().T
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


@pytest.mark.parametrize("name", NETWORKS)
def test_arithmetic_is_the_support_of_the_gradient(name: str) -> None:
    """With positive weights in float64 no gradient cancels: what is not zero, is seen."""
    build, layer = NETWORKS[name]
    network = build().double().eval()
    for parameter in network.parameters():
        parameter.data = torch.rand_like(parameter) + 0.1
    field = receptive_field(network, layer)
    seen: list[Tensor] = []
    network.get_submodule(layer).register_forward_hook(lambda m, a, out: seen.append(out))
    network(torch.zeros(1, 1, SIDE, SIDE).double())
    height, width = seen[0].shape[2:]
    for y, x in ((0, 0), (height // 2, width // 2), (height - 1, width - 1), (0, width - 1)):
        assert torch.equal(field.box(y, x, (SIDE, SIDE)), _support(network, layer, y, x))


def test_max_pooling_reaches_as_far_as_arithmetic_says() -> None:
    """Each draw shows the maxima only; many together show the whole field."""
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2)).double()
    network[0].weight.data = torch.rand(1, 1, 3, 3).double() + 0.1
    field = receptive_field(network, "2")
    assert field == ReceptiveField((-2, -2), (4, 4), (7, 7))
    boxes = torch.stack([_support(network, "2", 3, 4) for _ in range(200)])
    expected = field.box(3, 4, (SIDE, SIDE))
    assert torch.equal(torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)]), expected)


def test_vgg16_by_hand() -> None:
    """The published size of conv5_3's field is 196 pixels, its stride 16."""
    from torchvision.models import vgg16

    with torch.device("meta"):  # nothing is computed
        network = vgg16(weights=None)
    field = receptive_field(network, "features.29")
    assert (field.size, field.jump) == ((196, 196), (16, 16))
    assert field.centre(0, 0) == (8.0, 8.0)


@pytest.mark.parametrize(
    ("network", "layer", "message"),
    [
        (nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Conv2d(3, 3, 1)), "1", "AdaptiveAvgPool2d is not known"),
        (nn.Sequential(nn.InstanceNorm2d(3), nn.Conv2d(3, 3, 1)), "1", "InstanceNorm2d is not known"),
        (nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 3, 1)), "1", "Upsample is not known"),
    ],
)
def test_what_is_not_local_is_refused(network: nn.Module, layer: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        receptive_field(network, layer)


class Runs(nn.Module):
    """A convolution of 3×3 and stride 2, and what is made of it."""

    def __init__(self, function: Callable[[Tensor, nn.Module], Tensor]) -> None:
        super().__init__()
        self.first, self.function, self.side = nn.Conv2d(1, 4, 3, 2), function, nn.Conv2d(1, 4, 5)
        self.end = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.function(x, self))


@pytest.mark.parametrize(
    ("function", "size", "jump"),
    [
        (lambda x, net: net.first(x).relu(), 3, 2),
        (lambda x, net: torch.relu(net.first(x)), 3, 2),
        (lambda x, net: net.first(x)[:, 1:3], 3, 2),
        (lambda x, net: F.max_pool2d(net.first(x), 3), 7, 6),  # the stride is the kernel: 3 + 2 · 2
        (lambda x, net: F.avg_pool2d(net.first(x), 3, stride=1), 7, 2),
        (lambda x, net: F.max_pool2d(net.first(x), 3, stride=1, dilation=(1, 1)), 7, 2),
    ],
)
def test_a_function_by_hand(function: Callable[[Tensor, nn.Module], Tensor], size: int, jump: int) -> None:
    assert receptive_field(Runs(function), "end") == ReceptiveField((0, 0), (jump, jump), (size, size))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, net: net.first(x) + net.side(x), r"branches of strides \(2, 2\) and \(1, 1\) meet"),
        (lambda x, net: net.first(x)[:, :, 1:], "'getitem' is not known to be local"),
        (lambda x, net: F.max_pool2d(net.first(x), 3, dilation=2), "'max_pool2d' with dilation"),
        (lambda x, net: net.first(x).flip(3), "'flip' is not known to be local"),
        (lambda x, net: torch.flip(net.first(x), (3,)), "'flip' is not known to be local"),
    ],
)
def test_a_function_that_is_refused(function: Callable[[Tensor, nn.Module], Tensor], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        receptive_field(Runs(function), "end")


def test_max_pooling_with_dilation_by_hand() -> None:
    net = nn.Sequential(nn.MaxPool2d((2, 3), (1, 2), (0, 1), dilation=(3, 2)), nn.Identity())
    assert receptive_field(net, "1") == ReceptiveField((0, -1), (1, 2), (4, 5))  # 3 · 1 + 1, 2 · 2 + 1
