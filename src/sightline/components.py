"""The 8-connected components of masks, found by run-length encoding; NumPy only.

A heatmap's mask has few runs (stretches of foreground pixels in one row), so everything after finding them costs
next to nothing: touching runs of neighbouring rows are merged, and areas and boxes are sums and extremes over runs.
benchmarks/components.md compares the speed with OpenCV.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.intp]
Masks = NDArray[Any]


class Components(NamedTuple):
    """The components of a stack of masks, sorted by mask and, within a mask, by area, largest first.

    ``mask_index`` (C,) is the mask that each belongs to, ``boxes_xyxy`` (C, 4) are half-open pixel edges and ``areas``
    (C,) are in pixels. Ties in area are in reading order of the components' first pixels.
    """

    mask_index: Ints
    boxes_xyxy: Ints
    areas: Ints


class _Runs(NamedTuple):
    """The runs of a stack of masks in reading order, as half-open positions in the padded stack (see `_pad`)."""

    starts: Ints
    stops: Ints


def find_components(masks: Masks) -> Components:
    """Every 8-connected component of each mask of (M, H, W); non-zero is foreground.

    >>> find_components(np.array([[[1, 0, 1, 1], [0, 0, 0, 1]]])).boxes_xyxy.tolist()
    [[2, 0, 4, 2], [0, 0, 1, 1]]
    """
    runs = _find_runs(masks)
    found, _ = _describe(runs, _join(runs, masks.shape[2] + 1), masks.shape)
    return found


def keep_largest(masks: Masks) -> NDArray[np.bool_]:
    """The largest 8-connected component of each mask, as masks of the same shape (M, H, W).

    >>> keep_largest(np.array([[[1, 0, 1, 1], [0, 0, 0, 1]]])).astype(int).tolist()
    [[[0, 0, 1, 1], [0, 0, 0, 1]]]
    """
    count, height, width = masks.shape
    runs = _find_runs(masks)
    root = _join(runs, width + 1)
    found, roots = _describe(runs, root, masks.shape)
    _, first = np.unique(found.mask_index, return_index=True)  # a mask's first component is its largest
    kept = np.isin(root, roots[first])
    ends = np.stack([runs.starts, runs.stops], 1).ravel()
    lengths = np.diff(
        ends, prepend=0, append=count * (height + 1) * (width + 1)
    )  # gap, run, gap, run, …, gap
    inside = np.zeros(len(lengths), np.bool_)
    inside[1::2] = kept
    padded = np.repeat(inside, lengths).reshape(count, height + 1, width + 1)
    return np.ascontiguousarray(padded[:, 1:, 1:])


def _pad(masks: Masks) -> NDArray[np.bool_]:
    """The masks with an empty row above and an empty column on the left, so that no run crosses rows or masks."""
    count, height, width = masks.shape
    padded = np.zeros((count, height + 1, width + 1), np.bool_)
    padded[:, 1:, 1:] = masks
    return padded


def _find_runs(masks: Masks) -> _Runs:
    flat = _pad(masks).ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if len(changes) % 2:  # the very last pixel is foreground
        changes = np.append(changes, flat.size)
    return _Runs(changes[::2], changes[1::2])


def _join(runs: _Runs, stride: int) -> Ints:
    """The first run of the component that each run belongs to: (R,) indices into the runs.

    The runs above that touch a run, corners included, are consecutive in reading order: ``low`` up to ``high`` - 1.
    """
    low = np.searchsorted(runs.stops, runs.starts - stride)
    high = np.searchsorted(runs.starts, runs.stops - stride, side="right")
    root = _follow(np.where(high > low, low, np.arange(len(low))))
    below = np.repeat(np.arange(len(low)), np.maximum(high - low - 1, 0))
    nth = np.arange(len(below)) - np.searchsorted(below, below)
    above = low[below] + 1 + nth
    while len(below):  # a few rounds: each attaches every root to a smaller root that it touches
        one, other = root[below], root[above]
        apart = one != other
        below, above, one, other = below[apart], above[apart], one[apart], other[apart]
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        root = _follow(root)
    return root


def _follow(parent: Ints) -> Ints:
    """The root of each run: parents of parents until nothing changes."""
    while not np.array_equal(above := parent[parent], parent):
        parent = above
    return parent


def _describe(runs: _Runs, root: Ints, shape: tuple[int, ...]) -> tuple[Components, Ints]:
    """The components, sorted, and the first run of each."""
    if len(root) == 0:
        none = np.zeros(0, np.intp)
        return Components(none, none.reshape(0, 4), none), none
    _, height, width = shape
    row, x0 = np.divmod(runs.starts, width + 1)
    length = runs.stops - runs.starts
    order = np.argsort(root, kind="stable")
    roots, at = np.unique(root[order], return_index=True)
    mask_index, y0 = np.divmod(row[roots], height + 1)
    boxes_xyxy = np.stack(
        [
            np.minimum.reduceat(x0[order], at) - 1,
            y0 - 1,
            np.maximum.reduceat((x0 + length)[order], at) - 1,
            np.maximum.reduceat(row[order], at) - mask_index * (height + 1),
        ],
        1,
    )
    areas = np.add.reduceat(length[order], at)
    by_area = np.lexsort((-areas, mask_index))  # stable: ties stay in reading order
    return Components(mask_index[by_area], boxes_xyxy[by_area], areas[by_area]), roots[by_area]
