"""Trunks of torchvision and timm networks: cutting, finer maps, added convolutions, published weights."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sightline.errors import InputError, UnsupportedError, unknown
from sightline.models.weights import matched, read_weights
from sightline.runtime import import_light

# Children of torchvision's networks that belong to the head, or to a second head.
HEADS = {"avgpool", "dropout", "fc", "classifier", "aux1", "aux2", "AuxLogits"}
# Families that output tokens, or maps with another axis order.
NO_MAPS = ("vit_", "swin_", "maxvit")
PROBE = (1, 3, 224, 224)


class InceptionInput(nn.Module):
    """Converts ImageNet's normalisation to the one that the Inception networks were trained with.

    x·std + mean is the photo in [0, 1]; the output is (x·std + mean - 0.5) / 0.5; (N, 3, H, W).

    >>> x = (torch.tensor([0.5, 0.5, 0.5]) - InceptionInput().mean.flatten()) / InceptionInput().std.flatten()
    >>> bool(InceptionInput()(x.view(1, 3, 1, 1)).abs().max() < 1e-6)
    True
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.std + self.mean - 0.5) / 0.5


@functools.cache
def names_with_maps() -> tuple[str, ...]:
    """torchvision's classifiers with feature maps."""
    models = import_light("torchvision.models")
    names = models.list_models(module=models)
    return tuple(name for name in names if not name.startswith(NO_MAPS))


def torchvision_trunk(
    name: str, pretrained: bool | str = False, last: str | None = None, **options: Any
) -> nn.Sequential:
    """The part of a torchvision network before its last pooling, or up to child ``last``, with its layer names."""
    models = import_light("torchvision.models")
    weights = "DEFAULT" if pretrained is True else pretrained or None
    if name in ("googlenet", "inception_v3") and weights is None:
        options = {"init_weights": True, "aux_logits": False, **options}
    try:
        network = models.get_model(name, weights=weights, **options)
    except OSError as error:
        raise _not_fetched(name, error) from None
    children = {child: module for child, module in network.named_children() if child not in HEADS}
    if last is not None:
        names = list(children)
        children = {child: children[child] for child in names[: names.index(last) + 1]}
    if name.startswith(("alexnet", "vgg")):
        children["features"] = children["features"][:-1]  # the last max pooling
    if name.startswith("densenet"):
        children["relu"] = nn.ReLU()  # functional in torchvision
    trunk = nn.Sequential()
    if name in ("googlenet", "inception_v3"):
        trunk.add_module("input", InceptionInput())  # in torchvision a flag, which the weights do not store
    for child, module in children.items():
        trunk.add_module(child, module)
    return trunk


def timm_trunk(name: str, pretrained: bool | str = False, **options: Any) -> nn.Module:
    """A timm network without pooling and classifier."""
    timm = import_light("timm")
    if not timm.is_model(name):
        raise unknown("timm network", name, timm.list_models())
    try:
        trunk: nn.Module = timm.create_model(
            name, pretrained=bool(pretrained), num_classes=0, global_pool="", **options
        )
    except OSError as error:
        raise _not_fetched(f"timm/{name}", error) from None
    return trunk


def _not_fetched(name: str, error: OSError) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(
        f"the published weights of {name} cannot be fetched ({reason}); "
        "give a file (trunk_weights=FILE; in a recipe model.trunk_weights)"
    )


def _on_meta(trunk: nn.Module) -> nn.Module:
    return copy.deepcopy(trunk).to("meta").eval()


def map_shape(trunk: nn.Module) -> tuple[int, ...]:
    """Shape (1, C, h, w) of the trunk's maps at 224, found on the meta device.

    Raises `UnsupportedError` if the output is not such a map.
    """
    try:
        with torch.no_grad():
            out = _on_meta(trunk)(torch.empty(PROBE, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UnsupportedError(f"the trunk cannot be run on a 224×224 photo: {error}") from None
    if not isinstance(out, Tensor) or out.ndim != 4 or out.shape[2] != out.shape[3]:
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise UnsupportedError(
            f"the trunk returns {shape}; expected maps (N, C, h, w): choose a convolutional one"
        )
    return tuple(out.shape)


def widen_maps(trunk: nn.Module, count: int) -> nn.Module:
    """Set the stride of the last ``count`` stages that halve the maps to 1, in place: each doubles the map size.

    A stage is every strided convolution and pooling at one resolution (in a residual block, the shortcut's too).
    Raises `UnsupportedError` if the maps do not grow.
    """
    for done in range(count):
        before = map_shape(trunk)[-1]
        for name in _last_strided(trunk):
            _unstride(trunk, name)
        try:
            grown = map_shape(trunk)[-1] >= 1.6 * before
        except UnsupportedError:  # its branches no longer have the same size
            grown = False
        if not grown:
            raise UnsupportedError(
                f"the last stride of this trunk cannot be set to 1 (its maps are {before}×{before}); "
                f"use last_strides={done}"
            )
    return trunk


def _last_strided(trunk: nn.Module) -> list[str]:
    """Names of the strided modules at the last resolution with any."""
    seen: list[tuple[int, str]] = []
    probe = _on_meta(trunk)
    for name, module in probe.named_modules():
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)) and _pair(module.stride)[0] > 1:
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: seen.append((inputs[0].shape[-1], name))
            )
    with torch.no_grad():
        probe(torch.empty(PROBE, device="meta"))
    if not seen:
        raise UnsupportedError("this trunk has no stride left to set to 1")
    smallest = min(side for side, _ in seen)
    return [name for side, name in seen if side == smallest]


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _unstride(trunk: nn.Module, name: str) -> None:
    module: Any = trunk.get_submodule(name)
    kernel = _pair(module.kernel_size)[0]
    if isinstance(module, nn.Conv2d):
        module.stride = (1, 1)
        if kernel % 2 == 0:  # dilated to an odd extent, which alone preserves the map size
            module.dilation, module.padding = (2, 2), (kernel - 1, kernel - 1)
    elif kernel % 2 == 0:  # a pooling that only halves
        parent, _, child = name.rpartition(".")
        setattr(trunk.get_submodule(parent), child, nn.Identity())
    else:
        module.stride = 1
        if module.ceil_mode:  # it needed no padding only because of this
            module.padding = kernel // 2


def append_convolutions(
    trunk: nn.Module, units: list[int], groups: int = 1, dropout: float = 0.0
) -> nn.Module:
    """Append 3×3 convolutions with ReLU (stride 1, padding 1) and dropout to the trunk, as child ``extra``."""
    if not units:
        return trunk
    n_in = map_shape(trunk)[1]
    extra = nn.Sequential()
    for n_out in units:
        if n_in % groups or n_out % groups:
            raise InputError(f"extra_groups={groups} does not divide the channels {n_in} and {n_out}")
        convolution = nn.Conv2d(n_in, n_out, 3, padding=1, groups=groups)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        extra.append(convolution).append(nn.ReLU(inplace=True))
        n_in = n_out
    if dropout:
        extra.append(nn.Dropout(dropout))
    if not isinstance(trunk, nn.Sequential):
        whole = nn.Sequential()
        whole.add_module("trunk", trunk)
        trunk = whole
    trunk.add_module("extra", extra)
    return trunk


def load_trunk_weights(trunk: nn.Module, path: str | Path) -> None:
    """Load the trunk's part of a whole network's weights (any file that `read_weights` reads).

    Raises `InputError` for an unreadable file and, with the first difference, for weights of another network.
    """
    weights = matched(read_weights(path)[0], trunk.state_dict())
    own = {n: t for n, t in trunk.state_dict().items() if not n.endswith("num_batches_tracked")}
    missing = [n for n, t in own.items() if n not in weights or weights[n].shape != t.shape]
    if missing:
        raise InputError(
            f"{path} holds the weights of another network: {len(missing)} of {len(own)} do not fit, "
            f"the first is {missing[0]}"
        )
    trunk.load_state_dict({n: weights[n] for n in own}, strict=False)
