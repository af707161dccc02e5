"""Run lengths of masks, in COCO's order: down the columns, background first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InputError

Rle = tuple[int, ...]


def encode(mask: NDArray[np.bool_]) -> Rle:
    """The run lengths of a mask (H, W).

    >>> encode(np.array([[False, True], [True, True]]))
    (1, 3)
    """
    flat = np.asarray(mask, dtype=bool).reshape(-1, order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [len(flat)]])).tolist()
    return tuple([0, *counts] if len(flat) and flat[0] else counts)


def decode(rle: Sequence[int], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of its run lengths; raises `InputError` if they do not fill it.

    >>> decode((1, 3), (2, 2)).astype(int).tolist()
    [[0, 1], [1, 1]]
    """
    if sum(rle) != size_hw[0] * size_hw[1]:
        raise InputError(f"run lengths for {sum(rle)} pixels; the mask has {size_hw[0]}×{size_hw[1]}")
    values = np.arange(len(rle)) % 2 == 1
    return np.repeat(values, rle).reshape(size_hw, order="F")


def area(rle: Sequence[int]) -> int:
    """The number of pixels in the mask.

    >>> area((1, 3))
    3
    """
    return sum(rle[1::2])
