"""A method's maps for every target, checked: what a plugin returns is a map for each image, or one line of error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sightline.engine import Evidence
from sightline.errors import InputError
from sightline.heatmap import from_planes, fuse
from sightline.methods.combinators import without_faint
from sightline.methods.registry import Method
from sightline.targets import Target


def maps_of(
    method: Method, evidence: Evidence, targets: Sequence[Target], options: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Run the method for every target: maps (N, K, h, w) and, for pixel-level methods, signed (N, K, 3, H, W).

    Several layers of a method that looks at one (a detector's levels) are fused: each map at the image's size, divided
    by its maximum. Half precision and integers become float32. Raises `InputError` for anything but maps of these
    shapes, and for NaN or Inf in them.
    """
    if len(evidence.sites) > 1 and method.layers is None and not method.signed:
        each = [
            maps_of(method, evidence.of_layer(i), targets, options)[0] for i in range(len(evidence.sites))
        ]
        return _fused(each, evidence), None
    if method.joint:
        maps = _checked(method, method.function(evidence, targets, **options), evidence, len(targets))
    elif not method.class_specific:
        one = _checked(method, method.function(evidence, targets[0], **options), evidence)
        maps = one[:, None].expand(-1, len(targets), *one.shape[1:]).contiguous()
    else:
        found = [method.function(evidence, target, **options) for target in targets]
        maps = torch.stack([_checked(method, one, evidence) for one in found], 1)
    maps = maps.detach().to(torch.promote_types(maps.dtype, torch.float32))
    if not torch.compiler.is_compiling() and not torch.isfinite(maps).all():
        raise InputError(
            f"the maps of {method.name!r} hold NaN or Inf, though the network's output does not: "
            "look at the target and at the method's options"
        )
    if method.signed:
        signed = from_planes(maps, evidence.grid)
        return signed.abs().amax(2), signed
    return _on_image(method, evidence, maps), None


def _fused(maps: Sequence[Tensor], evidence: Evidence) -> Tensor:
    """The maps (N, K, h, w) of several layers at the image's size, fused; a faint one counts as little."""
    size_hw = evidence.size_hw
    whole = []
    for number, one in enumerate(maps):
        whole.append(one if one.shape[2:] == size_hw else evidence.upsampled(one, number))
    even = [one.flatten(0, 1) for one in without_faint(whole)]
    return fuse(even, size_hw, per_layer_norm=False).view(*maps[0].shape[:2], *size_hw)


def _on_image(method: Method, evidence: Evidence, maps: Tensor) -> Tensor:
    """A layer's maps; at the image's size, each cell where it looks, if the layer does not cover just the image."""
    coarse = bool(evidence.sites) and maps.shape[2:] == evidence.activations.shape[2:]
    placed = coarse and method.layers is None and evidence.sites[0].covers is not None
    if placed and "activations" in method.needs:
        maps, coarse = evidence.upsampled(maps), False
    if len(evidence.grid) == 2:
        return maps
    return from_planes(maps, evidence.layer_grid() if coarse else evidence.grid)


def _checked(method: Method, found: Any, evidence: Evidence, targets: int | None = None) -> Tensor:
    """What a method returned, if it has the promised shape; ``targets``: how many a joint method was given."""
    if torch.compiler.is_compiling():
        return found  # type: ignore[no-any-return]  # an exporter keeps sizes open
    leading, pixels = [len(evidence.images)], list(evidence.images.shape[1:])
    leading += [] if targets is None else [targets]
    expected = ", ".join(map(str, [*leading, *(pixels if method.signed else ("h", "w"))]))
    if not isinstance(found, Tensor) or found.is_complex():
        kind = f"complex tensor {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"method {method.name!r} returned a {kind}; expected a real tensor ({expected})")
    head, grid = list(found.shape[: len(leading)]), list(found.shape[len(leading) :])
    fits = grid == pixels if method.signed else len(grid) == 2 and all(grid)  # of signals and volumes: planes
    if head != leading or not fits:
        raise InputError(f"method {method.name!r} returned {tuple(found.shape)}; expected ({expected})")
    return found
