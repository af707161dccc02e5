"""Two small trunks for small photos that train in minutes: a residual one and a plain one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from sightline.errors import unknown

NORMS = ("batch", "group")


def convolution(
    n_in: int, n_out: int, kernel: int = 3, stride: int = 1, norm: str = "batch"
) -> nn.Sequential:
    """Convolution without bias, then batch normalisation, or group normalisation with up to 8 groups.

    The latter treats each photo separately, so that a batch can be split over any number of devices.

    >>> convolution(3, 12, norm="group")[1].num_groups
    4
    """
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    layer = nn.BatchNorm2d(n_out) if norm == "batch" else nn.GroupNorm(math.gcd(8, n_out), n_out)
    return nn.Sequential(nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=False), layer)


class ResidualBlock(nn.Module):
    """ReLU(x' + conv(ReLU(conv(x)))) of He et al. 2016; x' is averaged, then projected (He et al. 2019).

    (N, C, h, w) -> (N, C', ⌈h / stride⌉, ⌈w / stride⌉), ≥ 0.

    >>> import torch
    >>> ResidualBlock(4, 8, stride=2)(torch.zeros(1, 4, 7, 6)).shape
    torch.Size([1, 8, 4, 3])
    """

    def __init__(self, n_in: int, n_out: int, stride: int = 1, norm: str = "batch") -> None:
        super().__init__()
        self.first = convolution(n_in, n_out, stride=stride, norm=norm)
        self.second = convolution(n_out, n_out, norm=norm)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
        if stride > 1 or n_in != n_out:
            self.shortcut.append(convolution(n_in, n_out, kernel=1, norm=norm))
        self.relu = nn.ReLU()
        # The block starts as the identity of its shortcut, so that a deep trunk trains from the first step.
        nn.init.zeros_(self.second.get_parameter("1.weight"))

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.relu(self.first(x))
        out: Tensor = self.relu(self.second(inner) + self.shortcut(x))
        return out


def small_trunk(
    stem: int = 24,
    widths: Sequence[int] = (64, 128, 256),
    blocks: Sequence[int] = (1, 2, 2),
    strides: Sequence[int] = (2, 2, 2),
    norm: str = "batch",
) -> nn.Sequential:
    """A residual trunk for 64×64 photos: 8×8 maps of 256 channels, 2.7 M parameters, 0.32 G multiply-adds.

    (N, 3, H, W) -> (N, widths[-1], H / s, W / s), ≥ 0, with s the product of ``strides``. ``norm``: "batch" or
    "group".

    >>> import torch
    >>> small_trunk()(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 256, 8, 8])
    """
    trunk = nn.Sequential(convolution(3, stem, norm=norm), nn.ReLU())
    n_in = stem
    for width, count, stride in zip(widths, blocks, strides, strict=True):
        stage = nn.Sequential()
        for block in range(count):
            stage.append(ResidualBlock(n_in, width, stride if block == 0 else 1, norm))
            n_in = width
        trunk.append(stage)
    return trunk


def small_vgg(
    widths: Sequence[int] = (32, 64, 128, 256), depths: Sequence[int] = (1, 1, 2, 2)
) -> nn.Sequential:
    """A plain trunk in the manner of VGG (Simonyan & Zisserman 2015): 3×3 convolutions and max pooling.

    (N, 3, H, W) -> (N, widths[-1], H / 8, W / 8), ≥ 0. Max pooling comes before each width but the first.

    >>> import torch
    >>> small_vgg()(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 256, 8, 8])
    """
    trunk = nn.Sequential()
    n_in = 3
    for number, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        if number:
            trunk.append(nn.MaxPool2d(2))
        for _ in range(depth):
            trunk.append(convolution(n_in, width))
            trunk.append(nn.ReLU())
            n_in = width
    return trunk
