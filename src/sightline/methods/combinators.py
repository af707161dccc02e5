"""Test-time augmentation and fusing of layers: functions that take a method and return one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from sightline.errors import InputError
from sightline.heatmap import REDUCTIONS, fuse
from sightline.methods.registry import get_method
from sightline.methods.spec import MethodSpec


class Maps(Protocol):
    """A method at work: images (N, 3, H, W) and classes (N, K) -> raw maps (N, K, h, w)."""

    def __call__(self, model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
        """The maps; ``layer`` as in `sightline.explain`."""
        ...


def flipped(method: Maps) -> Maps:
    """The mean of the maps of an image and of its mirror image, the latter mirrored back.

    M(x) = (m(x) + flip(m(flip(x)))) / 2, flip reversing the columns. Same shapes as ``method``; costs twice.

    >>> import torch
    >>> edges = lambda model, images, classes, *, layer=None: images[:, :1].diff(dim=-1, prepend=images[:, :1, :, :1])
    >>> flipped(edges)(nn.Identity(), torch.tensor([[[[0.0, 0.0, 2.0]]]]), torch.zeros(1, 1))
    tensor([[[[ 0., -1.,  1.]]]])
    """

    def maps(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
        straight = method(model, images, classes, layer=layer)
        mirrored = method(model, images.flip(-1), classes, layer=layer)
        return (straight + mirrored.flip(-1)) / 2

    return maps


def multi_layer(
    method: Maps, layers: Sequence[Any], reduce: str = "sum", per_layer_norm: bool = True
) -> Maps:
    """The maps of several layers fused into one map at the image's size, by `sightline.heatmap.fuse`.

    F = R_l(up(M^l) / max up(M^l)) / max with R ``reduce``, "sum" | "mean" | "max" (the fusing module of Fully-CAM,
    Song et al., IEEE Access 2022). Returns (N, K, H, W) in [0, 1]. Costs a run of ``method`` a layer. Raises
    `InputError` for fewer than two layers or an unknown reduction.

    >>> import torch
    >>> halves = lambda model, images, classes, *, layer=None: images[:, layer : layer + 1]
    >>> multi_layer(halves, [0, 1])(nn.Identity(), torch.tensor([[[[2.0, 0.0]], [[1.0, 4.0]]]]), torch.zeros(1, 1))
    tensor([[[[1.0000, 0.8000]]]])
    """
    if len(layers) < 2:
        raise InputError(f"fusing needs two or more layers; got {list(layers)}")
    if reduce not in REDUCTIONS:
        raise InputError(f"reduce={reduce!r}; expected one of {', '.join(REDUCTIONS)}")

    def maps(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
        if layer is not None:
            raise InputError(f"layer={layer!r} was given to a method that fuses {list(layers)}")
        size_hw = (images.shape[-2], images.shape[-1])
        found = [method(model, images, classes, layer=one).flatten(0, 1) for one in layers]
        return fuse(found, size_hw, reduce, per_layer_norm).view(*classes.shape, *size_hw)

    return maps


def combined(method: Maps, spec: MethodSpec) -> Maps:
    """``method`` with what the spec asks for around it: its layers fused, then the mirror image.

    A method that fuses layers itself (`fullycam`) gets them all at once.
    """
    layers: Any = list(spec.layers)
    if len(layers) > 1 and get_method(spec.name).layers is None:
        method = multi_layer(method, layers)
    elif layers:
        method = _at(method, layers if len(layers) > 1 else layers[0])
    return flipped(method) if spec.flip else method


def _at(method: Maps, where: Any) -> Maps:
    def maps(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
        return method(model, images, classes, layer=where if layer is None else layer)

    return maps
