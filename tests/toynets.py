"""Small networks for tests, each with its forward pass written a second time as a list of plain steps.

``net(x)`` is what a user's module does: in-place ReLUs, functional calls, dropout. ``net.program()`` is the
same arithmetic as pure, out-of-place functions, one a step; the references in ``tests/references`` walk these
steps and never touch the module. ``test_toynets.py`` checks that both give the same logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 4


class Through(nn.Module):
    """One function as a network."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@dataclass(frozen=True)
class Step:
    """One pure operation. ``name`` is the module whose output it is, "" where there is none."""

    name: str
    kind: str  # conv | norm | relu | relu6 | pool | head | block
    run: Callable[[Tensor], Tensor]


def run(steps: list[Step], x: Tensor) -> Tensor:
    for step in steps:
        x = step.run(x)
    return x


def conv(name: str, m: nn.Conv2d) -> Step:
    return Step(name, "conv", lambda x: F.conv2d(x, m.weight, m.bias, m.stride, m.padding))


def norm(name: str, m: nn.BatchNorm2d) -> Step:
    def apply(x: Tensor) -> Tensor:
        column = (1, -1, 1, 1)
        mean, var = m.running_mean.view(column), m.running_var.view(column)
        return (x - mean) / (var + m.eps).sqrt() * m.weight.view(column) + m.bias.view(column)

    return Step(name, "norm", apply)


def relu(name: str) -> Step:
    return Step(name, "relu", lambda x: torch.where(x > 0, x, torch.zeros_like(x)))


def maxpool(name: str) -> Step:
    return Step(name, "pool", lambda x: F.max_pool2d(x, 2))


def gap(name: str = "") -> Step:
    return Step(name, "pool", lambda x: x.mean((2, 3)))


def linear(name: str, m: nn.Linear) -> Step:
    return Step(name, "head", lambda x: x.flatten(1) @ m.weight.T + m.bias)


class Toy(nn.Module):
    """``layer`` names the target layer of ``program()``: the tensor that enters the last spatial pooling."""

    layer = "features.4"
    module_layer: str | None = "features.4"  # None: no module returns that tensor

    def program(self) -> list[Step]:
        raise NotImplementedError

    def split(self, layer: str | None = None) -> tuple[list[Step], list[Step]]:
        """The steps up to and with the layer, and the steps behind it."""
        steps = self.program()
        at = [step.name for step in steps].index(layer or self.layer) + 1
        return steps[:at], steps[at:]


def prepare(net: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Random weights of order one (so that a tolerance of 1e-10 means something), norms not the identity."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                fan_in = module.weight[0].numel()
                module.weight.copy_(normal(module.weight) * (2 / fan_in) ** 0.5)
                if module.bias is not None:
                    module.bias.copy_(normal(module.bias) * 0.3)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(1 + 0.3 * normal(module.weight))
                module.bias.copy_(0.3 * normal(module.bias))
                module.running_mean.copy_(0.3 * normal(module.running_mean))
                module.running_var.copy_(0.5 + normal(module.running_var).square())
    return net.to(dtype).eval()


def make_images(n: int = 2, size: int = 16, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        n, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def trunk(activation: Callable[[], nn.Module], channels: int = 6) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), activation(), nn.MaxPool2d(2),
        nn.Conv2d(5, channels, 3, padding=1), activation(),
    )  # fmt: skip


class GapToy(Toy):
    """conv, ReLU, max-pool, conv, ReLU, global average pooling, linear: all modules."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.pool, self.fc = trunk(nn.ReLU), nn.AdaptiveAvgPool2d(1), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(x)).flatten(1))

    def body(self) -> list[Step]:
        f = self.features
        return [conv("features.0", f[0]), relu("features.1"), maxpool("features.2"),
                conv("features.3", f[3]), relu("features.4")]  # fmt: skip

    def program(self) -> list[Step]:
        return [*self.body(), gap(), linear("fc", self.fc)]


class InplaceToy(GapToy):
    """The same with in-place ReLUs, which overwrite what a convolution returned, and a functional mean."""

    def __init__(self) -> None:
        super().__init__()
        self.features = trunk(lambda: nn.ReLU(inplace=True))
        self.pool = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class FunctionalBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, how: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(self.conv(x))
        if self.how == "functional":
            return F.relu(z)
        return {"functional_": F.relu_, "torch": torch.relu, "torch_": torch.relu_,
                "method": Tensor.relu, "method_": Tensor.relu_,
                "inplace": lambda t: F.relu(t, inplace=True)}[self.how](z)  # fmt: skip


class BatchNormToy(Toy):
    """conv, BatchNorm, functional ReLU (``how``: which of its spellings), strides, global average pooling."""

    layer = module_layer = "body.1"

    def __init__(self, how: str = "functional_") -> None:
        super().__init__()
        self.body = nn.Sequential(FunctionalBlock(3, 5, 1, how), FunctionalBlock(5, 6, 2, how))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.body(x)), 1))

    def program(self) -> list[Step]:
        a, b = self.body[0], self.body[1]
        return [conv("body.0.conv", a.conv), norm("body.0.norm", a.norm), relu("body.0"),
                conv("body.1.conv", b.conv), norm("body.1.norm", b.norm), relu("body.1"),
                gap(), linear("fc", self.fc)]  # fmt: skip


class DenseToy(Toy):
    """As DenseNet ends: the trunk's last module is a norm, then functional ReLU and functional pooling."""

    layer, module_layer = "activation", None

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6),
        )  # fmt: skip
        self.classifier = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.features(x), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(out, (1, 1)), 1))

    def program(self) -> list[Step]:
        f = self.features
        return [conv("features.0", f[0]), relu("features.1"), maxpool("features.2"), conv("features.3", f[3]),
                norm("features.4", f[4]), relu("activation"), gap(),
                linear("classifier", self.classifier)]  # fmt: skip


class ClassConvToy(GapToy):
    """As SqueezeNet (``relu=True``) and NIN end: dropout, 1x1 class convolution, (ReLU,) average pooling."""

    def __init__(self, relu: bool = True) -> None:
        super().__init__()
        del self.fc, self.pool
        self.features = trunk(lambda: nn.ReLU(inplace=True))
        last = [nn.ReLU(inplace=True)] if relu else []
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Conv2d(6, CLASSES, 1), *last, nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)

    def program(self) -> list[Step]:
        last = [relu("classifier.2")] if len(self.classifier) == 4 else []
        return [*self.body(), conv("classifier.1", self.classifier[1]), *last, gap()]


class VggToy(GapToy):
    """As VGG ends: max-pool, adaptive pooling to 2x2, flatten, linear, ReLU, dropout, linear."""

    def __init__(self) -> None:
        super().__init__()
        del self.fc, self.pool
        self.features = nn.Sequential(*trunk(lambda: nn.ReLU(inplace=True)), nn.MaxPool2d(2))
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(24, 8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))

    def program(self) -> list[Step]:
        c = self.classifier
        return [*self.body(), maxpool("features.5"),
                Step("avgpool", "pool", lambda x: F.adaptive_avg_pool2d(x, 2)),
                linear("classifier.0", c[0]), relu("classifier.1"), linear("classifier.3", c[3])]  # fmt: skip


class GlobalMax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3))


class Thresholded(nn.Module):
    """TAP, written from Bae et al. 2020: the mean of the values above 0.1 of the maximum of their channel."""

    def forward(self, x: Tensor) -> Tensor:
        kept = (x > 0.1 * x.amax((2, 3), keepdim=True)).to(x.dtype)
        return (x * kept).sum((2, 3)) / kept.sum((2, 3)).clamp(min=1)


class PooledToy(GapToy):
    """`GapToy` with another pooling module before the linear layer."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def program(self) -> list[Step]:
        return [*self.body(), Step("pool", "pool", self.pool.forward), linear("fc", self.fc)]


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)  # called twice, as in torchvision's ResNet

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.relu(self.conv1(x)))
        out += x
        return self.relu(out)


class ResidualToy(Toy):
    """conv, ReLU, max-pool, a residual block whose one ReLU module is called twice, average pooling."""

    layer = module_layer = "block"

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu, self.maxpool = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.block, self.avgpool, self.fc = Residual(6), nn.AdaptiveAvgPool2d(1), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.avgpool(self.block(self.maxpool(self.relu(self.stem(x))))), 1))

    def program(self) -> list[Step]:
        first, second = conv("", self.block.conv1).run, conv("", self.block.conv2).run
        positive = relu("").run
        return [conv("stem", self.stem), relu("relu"), maxpool("maxpool"),
                Step("block", "block", lambda x: positive(second(positive(first(x))) + x)),
                gap(), linear("fc", self.fc)]  # fmt: skip


class BranchToy(Toy):
    """As GoogLeNet ends: two branches side by side, concatenated by a function, then average pooling."""

    layer, module_layer = "mixed", "mixed"

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Sequential(nn.Conv2d(5, 3, 1), nn.ReLU(inplace=True))
            self.right = nn.Sequential(nn.Conv2d(5, 3, 3, padding=1), nn.ReLU(inplace=True))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.left(x), self.right(x)], 1)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.mixed, self.fc = self.Mixed(), nn.Linear(6, CLASSES)
        self.avgpool, self.dropout = nn.AdaptiveAvgPool2d((1, 1)), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(torch.flatten(self.avgpool(self.mixed(self.stem(x))), 1)))

    def program(self) -> list[Step]:
        left, right = conv("", self.mixed.left[0]).run, conv("", self.mixed.right[0]).run
        positive = relu("").run
        return [conv("stem.0", self.stem[0]), relu("stem.1"), maxpool("stem.2"),
                Step("mixed", "block", lambda x: torch.cat([positive(left(x)), positive(right(x))], 1)),
                gap(), linear("fc", self.fc)]  # fmt: skip


class ActivationToy(GapToy):
    """`GapToy` with another activation: what guided backpropagation takes (ReLU6) or refuses (others)."""

    def __init__(self, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.features = trunk(activation)

    def program(self) -> list[Step]:
        activation = self.features[1]
        plain = Step(
            "", "relu6" if isinstance(activation, nn.ReLU6) else "other", lambda x: activation(x.clone())
        )
        steps = super().program()
        return [Step(s.name, plain.kind, plain.run) if s.kind == "relu" else s for s in steps]


class TokenToy(Toy):
    """Patches as tokens behind a class token and one block of attention; the mean of the patches is scored, or the
    class token (``class_token=True``)."""

    class Block(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
            self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
            self.mlp = nn.Sequential(nn.Linear(channels, 8), nn.ReLU(inplace=True), nn.Linear(8, channels))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
            x = x + self.out(F.scaled_dot_product_attention(q, k, v))
            return x + self.mlp(self.norm2(x))

    def __init__(self, class_token: bool = False) -> None:
        super().__init__()
        self.class_token = class_token
        self.layer = self.module_layer = "block.norm1" if class_token else "norm"
        self.patch, self.norm, self.fc = nn.Conv2d(3, 6, 4, 4), nn.LayerNorm(6), nn.Linear(6, CLASSES)
        self.block = self.Block(6)
        generator = torch.Generator().manual_seed(3)
        self.token = nn.Parameter(torch.randn(1, 1, 6, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.relu(self.patch(x)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        tokens = self.norm(self.block(tokens))
        return self.fc(tokens[:, 0] if self.class_token else tokens[:, 1:].mean(1))


class HandGap(nn.Module):
    """A = x (``body`` is ReLU or identity); y = weight · mean(A) + bias. For numbers worked out on paper."""

    layer = "body"

    def __init__(self, weight: list[list[float]], bias: list[float], body: nn.Module | None = None) -> None:
        super().__init__()
        self.body = nn.ReLU() if body is None else body
        self.fc = nn.Linear(len(weight[0]), len(weight))
        self.double().eval()
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor(weight, dtype=torch.float64))
            self.fc.bias.copy_(torch.tensor(bias, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)))


class HandFlat(HandGap):
    """A = x; y = weight · flatten(A) + bias: the gradient of y at the layer is the weight, spelled out."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).flatten(1))


def flat_weight(rows: list[list[list[list[float]]]]) -> list[list[float]]:
    """Weights written as (classes, channels, h, w) -> (classes, channels·h·w) for `HandFlat`."""
    return torch.tensor(rows, dtype=torch.float64).flatten(1).tolist()


def image(channels: list[list[list[float]]]) -> Tensor:
    """A literal (3, h, w) image -> a batch of one, float64."""
    return torch.tensor([channels], dtype=torch.float64)


POOLING_HEADS: dict[str, Callable[[], Toy]] = {
    "gap": GapToy,
    "in-place, functional mean": InplaceToy,
    "batch norm, functional relu": BatchNormToy,
    "densenet end": DenseToy,
    "residual": ResidualToy,
    "branches": BranchToy,
    "gmp": lambda: PooledToy(GlobalMax()),
    "tap": lambda: PooledToy(Thresholded()),
}
CLASS_CONVS: dict[str, Callable[[], Toy]] = {
    "squeezenet end": ClassConvToy,
    "nin end": lambda: ClassConvToy(relu=False),
}
FLATTEN_HEADS: dict[str, Callable[[], Toy]] = {"vgg end": VggToy}
ALL_TOYS = POOLING_HEADS | CLASS_CONVS | FLATTEN_HEADS


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> Toy:
    return prepare(ALL_TOYS[name](), seed, dtype)


class Unet(nn.Module):
    """Down and up again: its output is a map of two scores."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 4, 4, 2, 1), nn.ConvTranspose2d(4, 2, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x).relu())
