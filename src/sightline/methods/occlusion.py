"""Occlusion sensitivity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sightline.engine import Evidence
from sightline.errors import InputError
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
    value: int | float | tuple[int, int] | None, size_hw: tuple[int, int], default: tuple[int, int]
) -> tuple[int, int]:
    """A size in pixels (h, w), from a side, a pair, or a share of the image's sides."""
    if value is None:
        return default
    if isinstance(value, float):
        return (round(value * size_hw[0]), round(value * size_hw[1]))
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


@register_method(
    "occlusion",
    paper="Zeiler & Fergus, ECCV 2014; Bazzani et al., WACV 2016",
    needs=(),
    joint=True,
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
    height, width = evidence.size_hw
    wh, ww = _pixels(window, (height, width), (max(1, round(height / 7)), max(1, round(width / 7))))
    sh, sw = _pixels(stride, (height, width), (max(1, wh // 2), max(1, ww // 2)))
    if not (1 <= wh <= height and 1 <= ww <= width and sh >= 1 and sw >= 1):
        raise InputError(
            f"window {(wh, ww)} with stride {(sh, sw)} does not fit an image of {(height, width)}"
        )
    if sh > wh or sw > ww:
        raise InputError(
            f"stride {(sh, sw)} is larger than the window {(wh, ww)} and would leave pixels uncovered; "
            f"expected a stride of at most {(wh, ww)}"
        )
    images = evidence.images.detach()
    windows = [(y, x) for y in window_starts(height, wh, sh) for x in window_starts(width, ww, sw)]
    n, k = len(images), len(targets)
    total = images.new_zeros(n, k, height, width)
    times = images.new_zeros(height, width)
    clean = torch.stack([evidence.score(t) for t in targets], 1)
    for y, x in windows:
        times[y : y + wh, x : x + ww] += 1
    pairs = [(i, y, x) for i in range(n) for y, x in windows]
    for start in range(0, len(pairs), chunk):
        some = pairs[start : start + chunk]
        rows = torch.tensor([i for i, _, _ in some], device=images.device)
        masked = images[rows]
        for j, (_, y, x) in enumerate(some):
            masked[j, :, y : y + wh, x : x + ww] = value
        output = evidence.rescore(masked, rows)
        drops = torch.stack([clean[rows, j] - t.at(rows)(output) for j, t in enumerate(targets)], 1)
        for j, (i, y, x) in enumerate(some):
            total[i, :, y : y + wh, x : x + ww] += drops[j][:, None, None].to(total.dtype)
    return total / times
