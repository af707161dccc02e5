"""Network surgery (Zhou et al. 2016, sections 3 and 4.1): a trunk, pooling, a linear layer.

Parameters with 1,000 classes, in millions, compared with the original network:

    alexnet-gap 5.9 of 61.1        alexnet-star-gap 9.4 of 61.1     vgg16-gap 20.5 of 138.4
    googlenet-gap 12.0 of 6.6      resnet50-gap 25.6 of 25.6        small-gap 2.9, smallvgg-gap 1.4
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from sightline.errors import InputError, UnsupportedError, unknown
from sightline.models.families.lite import LITES, lite_trunk
from sightline.models.families.nin import NIN
from sightline.models.families.small import small_trunk, small_vgg
from sightline.models.families.trunks import (
    append_convolutions,
    load_trunk_weights,
    map_shape,
    names_with_maps,
    timm_trunk,
    torchvision_trunk,
    widen_maps,
)
from sightline.models.pooling import POOLINGS, make_pooling
from sightline.runtime import import_light

SMALL: dict[str, Callable[..., nn.Module]] = {"small": small_trunk, "smallvgg": small_vgg}
# The paper's table: torchvision's network, the last child to keep, the units of the added convolutions.
PAPER: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "alexnet": ("alexnet", "features", (1024,)),
    "alexnet-star": ("alexnet", "features", (512, 1024)),
    "vgg16": ("vgg16", "features", (1024,)),
    "googlenet": ("googlenet", "inception4e", (1024,)),
}
ALIASES = {"mobilenet": "mobilenet_v2"}


class GapNet(nn.Module):
    """A classifier whose class maps are one matrix product (Zhou et al. 2016): y = W · pool(F(x)) + b.

    ``features`` (N, 3, H, W) -> (N, C, h, w); ``pool`` -> (N, C); ``fc`` -> (N, classes).

    >>> import torch
    >>> net = GapNet(nn.Conv2d(3, 8, 3), make_pooling("gap"), channels=8, num_classes=5)
    >>> net(torch.zeros(2, 3, 9, 9)).shape
    torch.Size([2, 5])
    """

    def __init__(self, features: nn.Module, pool: nn.Module, channels: int, num_classes: int) -> None:
        super().__init__()
        self.features, self.pool = features, pool
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pool(self.features(images)))
        return logits

    def behind(self, cut: int, maps: Tensor) -> Tensor:
        """The logits (N, classes) from the output ``maps`` of the trunk's first ``cut`` children."""
        assert isinstance(self.features, nn.Sequential)  # verified where a cut is chosen
        logits: Tensor = self.fc(self.pool(self.features[cut:](maps)))
        return logits


def build_gapnet(
    name: str,
    num_classes: int = 1000,
    *,
    pretrained: bool | str = False,
    trunk_weights: str | None = None,
    theta: float = 0.1,
    last_strides: int | None = None,
    extra_conv: int | Iterable[int] | None = None,
    extra_groups: int = 1,
    extra_dropout: float = 0.0,
    **trunk_options: Any,
) -> GapNet:
    """Cut a network after its last feature maps and add pooling and a linear layer (Zhou et al. 2016).

    ``name`` is TRUNK-POOLING: ``vgg16-gap``, ``googlenet-gmp``, ``resnet50-tap``, ``timm/NAME-gap``,
    ``small-gap``; see `list_gapnets`. ``pretrained`` fetches the published weights of the trunk (True, or the
    name of a set of weights); ``trunk_weights`` is a file with the whole network's weights instead.
    ``theta`` is for TAP. ``last_strides``: how many of the last stages with stride 2 get stride 1; by default 1
    (14×14 at 224; 2 gives 28×28), or 0 if the paper's cut has that map already. ``extra_conv``: units of
    the 3×3 convolutions added after the trunk; by default the paper's, or none; ``extra_groups`` and
    ``extra_dropout`` (after the last of them) are as in the authors' published networks, which differ from the paper
    (AlexNet*: units 512 and 512, groups 2, dropout 0.5; VGG16: groups 2, dropout 0.5). Other options go to the trunk.

    Raises `InputError` for an unknown name and for weights of another network, `UnsupportedError` for a trunk
    without maps (N, C, h, w).

    >>> sum(p.numel() for p in build_gapnet("vgg16-gap").parameters())
    20459304
    """
    trunk_name, dash, pooling = name.rpartition("-")
    if not dash or pooling not in POOLINGS:
        raise unknown("network", name, list_gapnets(), hint="(expected TRUNK-gap, TRUNK-gmp or TRUNK-tap)")
    pool = make_pooling(pooling, theta)
    trunk, strides, units = _trunk(trunk_name, name, pretrained, trunk_options)
    if trunk_weights is not None:
        load_trunk_weights(trunk, trunk_weights)
    trunk = widen_maps(trunk, strides if last_strides is None else last_strides)
    wanted = (
        units if extra_conv is None else (extra_conv,) if isinstance(extra_conv, int) else tuple(extra_conv)
    )
    trunk = append_convolutions(trunk, [count for count in wanted if count], extra_groups, extra_dropout)
    return GapNet(trunk, pool, map_shape(trunk)[1], num_classes)


def _trunk(
    name: str, given: str, pretrained: bool | str, options: dict[str, Any]
) -> tuple[nn.Module, int, tuple[int, ...]]:
    """The trunk, how many of its last strides are set to 1, and the units of the added convolutions."""
    if name in SMALL:
        if pretrained:
            raise InputError(f"{given} has no published weights; leave `pretrained` out")
        return SMALL[name](**options), 0, ()
    if name in LITES:
        return lite_trunk(name, pretrained, **options), 1, ()
    if name in PAPER:
        original, last, units = PAPER[name]
        return torchvision_trunk(original, pretrained, last, **options), 0, units
    if name.startswith("timm/"):
        return timm_trunk(name.removeprefix("timm/"), pretrained, **options), 1, ()
    name = ALIASES.get(name, name)
    if name not in names_with_maps():
        raise unknown("network", given, list_gapnets())
    # Inception also halves its maps in functional calls, whose stride cannot be changed.
    return torchvision_trunk(name, pretrained, **options), int(name != "inception_v3"), ()


def list_gapnets() -> list[str]:
    """The names that `build_gapnet` knows; in addition, each timm trunk NAME is ``timm/NAME-gap`` and so on.

    >>> {"vgg16-gap", "alexnet-star-gap", "resnet50-tap", "small-gmp"} <= set(list_gapnets())
    True
    """
    trunks = {*SMALL, *LITES, *PAPER, *ALIASES, *names_with_maps()}
    return sorted(f"{trunk}-{pooling}" for trunk in trunks for pooling in POOLINGS)


def build_classifier(name: str, num_classes: int = 1000, **options: Any) -> nn.Module:
    """A network whose class maps need no gradient: a `GapNet`, ``nin``, or an unchanged SqueezeNet.

    >>> build_classifier("squeezenet1_1", 7).classifier[1].out_channels
    7
    """
    if name == "nin":
        return NIN(num_classes, **options)
    if name in ("squeezenet1_0", "squeezenet1_1"):
        network: nn.Module = import_light("torchvision.models").get_model(
            name, num_classes=num_classes, **options
        )
        return network
    if "-" not in name:
        raise unknown("network", name, [*list_gapnets(), "nin", "squeezenet1_0", "squeezenet1_1"])
    return build_gapnet(name, num_classes, **options)


def head_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The added weights, or the class convolution: those with a higher learning rate than the trunk.

    >>> [tuple(p.shape) for p in head_parameters(build_classifier("small-gap", 5))]
    [(5, 256), (5,)]
    """
    if isinstance(network, GapNet):
        added = getattr(network.features, "extra", None)
        return [*(added.parameters() if added is not None else ()), *network.fc.parameters()]
    head = getattr(network, "classifier", None)
    if not isinstance(head, nn.Module):
        raise UnsupportedError(
            f"{type(network).__name__} has no known head; expected a GapNet, NIN or SqueezeNet"
        )
    return list(head.parameters())
