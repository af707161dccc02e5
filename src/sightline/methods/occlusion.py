"""Occlusion sensitivity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from sightline.engine import Evidence
from sightline.errors import InputError
from sightline.heatmap import as_planes, from_planes
from sightline.methods.registry import register_method
from sightline.options import Count, Positive
from sightline.targets import Target


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """The start of each window along one side; the last one is flush with the end, so that every pixel is covered.

    >>> window_starts(10, 4, 3), window_starts(9, 4, 3)
    ([0, 3, 6], [0, 3, 5])
    """
    starts = list(range(0, size - window + 1, stride))
    return starts if starts[-1] == size - window else [*starts, size - window]


def _pixels(
    value: int | float | tuple[int, int] | None, sides: Sequence[int], default: list[int]
) -> list[int]:
    """A size in pixels along each side, from one for all, a pair (h, w), or a share of the sides."""
    if value is None:
        return default
    if isinstance(value, float):
        return [round(value * side) for side in sides]
    if isinstance(value, int):
        return [value] * len(sides)
    if len(value) != len(sides):
        raise InputError(
            f"{tuple(value)} is a size (h, w), and the input has {len(sides)} sides; give one number"
        )
    return list(value)


@register_method(
    "occlusion",
    paper="Zeiler & Fergus, ECCV 2014; Bazzani et al., WACV 2016",
    needs=(),
    joint=True,
    normalise="max",  # 0: the window has no effect; below: the score rises without it
)
def occlusion(
    evidence: Evidence,
    targets: Sequence[Target],
    *,
    window: Count | Positive | tuple[Count, Count] | None = None,
    stride: Count | Positive | tuple[Count, Count] | None = None,
    value: float = 0.0,
    chunk: Count = 32,
) -> Tensor:
    """The drop y^c(x) − y^c(masked), averaged over the grey windows that cover each pixel.

    A window (by default 1/7 of the image's sides; in pixels, a pair (h, w), or a share of the sides) of ``value`` (0:
    grey after normalisation) slides by ``stride``: half its side by default, at most the window, so that every pixel
    is covered. ``chunk`` masked images run at a time. Returns (N, K, H, W).

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="occlusion", window=4).maps.shape
    torch.Size([1, 1, 8, 8])
    """
    return window_drops(evidence, targets, window, stride, lambda piece: torch.full_like(piece, value), chunk)


def window_drops(
    evidence: Evidence,
    targets: Sequence[Target],
    window: int | float | tuple[int, int] | None,
    stride: int | float | tuple[int, int] | None,
    fill: Callable[[Tensor], Tensor],
    chunk: int,
) -> Tensor:
    """As `occlusion`, with ``fill(piece)`` in place of each window's pixels (C, h, w)."""
    sides = evidence.grid
    size = _pixels(window, sides, [max(1, round(side / 7)) for side in sides])
    step = _pixels(stride, sides, [max(1, one // 2) for one in size])
    if not all(1 <= one <= side for one, side in zip(size, sides, strict=True)) or min(step) < 1:
        raise InputError(
            f"window {tuple(size)} with stride {tuple(step)} does not fit an image of {tuple(sides)}"
        )
    if any(by > one for by, one in zip(step, size, strict=True)):
        raise InputError(
            f"stride {tuple(step)} is larger than the window {tuple(size)} and would leave pixels uncovered; "
            f"expected a stride of at most {tuple(size)}"
        )
    images = from_planes(evidence.images.detach(), sides)
    starts = product(*(window_starts(*one) for one in zip(sides, size, step, strict=True)))
    windows: list[tuple[Any, ...]] = [
        (..., *(slice(at, at + one) for at, one in zip(place, size, strict=True))) for place in starts
    ]
    n, k = len(images), len(targets)
    total = images.new_zeros(n, k, *sides)
    times = images.new_zeros(sides)
    clean = torch.stack([evidence.score(t) for t in targets], 1)
    for cut in windows:
        times[cut] += 1
    pairs = [(i, cut) for i in range(n) for cut in windows]
    for start in range(0, len(pairs), chunk):
        some = pairs[start : start + chunk]
        rows = torch.tensor([i for i, _ in some], device=images.device)
        masked = images[rows]
        for one, (_, cut) in zip(masked, some, strict=True):
            one[cut] = fill(one[cut])
        output = evidence.rescore(as_planes(masked, len(sides)), rows)
        drops = torch.stack([clean[rows, j] - t.at(rows)(output) for j, t in enumerate(targets)], 1)
        for drop, (i, cut) in zip(drops, some, strict=True):
            total[i][cut] += drop.view(k, *[1] * len(sides)).to(total.dtype)
    return as_planes(total / times, len(sides))
