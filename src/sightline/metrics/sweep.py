"""Kernels that turn component lives into an answer for every threshold, and pixel counting."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.metrics.compiled import compiled
from sightline.metrics.components import HIGH, LOW

Array = NDArray[Any]


@compiled
def _offer(best: Array, k: int, start: int, row: int, score: Array) -> None:
    """Assign the block starting at ``start`` to ``row`` if it beats the current row."""
    rival = best[k, start]
    if rival < 0 or score[row] > score[rival]:
        best[k, start] = row


@compiled
def highest(table: Array, score: Array, top: int) -> Array:
    """For each mask 0 … top - 1, the row of the live component with the highest score, or -1.

    A life covers its masks with two blocks of power-of-two length; each block keeps its best row, and at the end
    long blocks pass theirs down to their halves: one step per row, whatever its range.
    """
    sizes = 1
    while (1 << sizes) <= top:
        sizes += 1
    best = np.full((sizes, max(top, 1)), -1, np.int32)
    for row in range(table.shape[0]):
        low, high = table[row, LOW], table[row, HIGH]
        k = 0
        while (2 << k) <= high - low + 1:
            k += 1
        _offer(best, k, low, row, score)
        _offer(best, k, high + 1 - (1 << k), row, score)
    for k in range(sizes - 1, 0, -1):
        half = 1 << (k - 1)
        for start in range(top + 1 - 2 * half):
            row = best[k, start]
            if row >= 0:
                _offer(best, k - 1, start, row, score)
                _offer(best, k - 1, start + half, row, score)
    return best[0, :top]


@compiled
def best_overlaps(boxes: Array, true_boxes: Array, plus: float) -> Array:
    """Each box's (n, 4) best IoU with the true boxes (B, 4), float64 (n,).

    ``plus`` is 1 for inclusive corners and 0 for edges.
    """
    best = np.zeros(boxes.shape[0], np.float64)
    for t in range(true_boxes.shape[0]):
        tx0, ty0, tx1, ty1 = true_boxes[t, 0], true_boxes[t, 1], true_boxes[t, 2], true_boxes[t, 3]
        true_area = (tx1 - tx0 + plus) * (ty1 - ty0 + plus)
        for i in range(boxes.shape[0]):
            wide = min(boxes[i, 2], tx1) - max(boxes[i, 0], tx0) + plus
            tall = min(boxes[i, 3], ty1) - max(boxes[i, 1], ty0) + plus
            if wide > 0 and tall > 0:
                area = (boxes[i, 2] - boxes[i, 0] + plus) * (boxes[i, 3] - boxes[i, 1] + plus)
                overlap = wide * tall / (area + true_area - wide * tall)
                best[i] = max(best[i], overlap)
    return best


@compiled
def levels_at_least(values: Array, cuts: Array) -> Array:
    """How many of the ascending ``cuts`` each positive value of (H, W) reaches (≥), uint16; 0 for others."""
    level = np.zeros(values.shape, np.uint16)
    scale = cuts.size / max(float(cuts[-1]), 1e-38)
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            value = values[y, x]
            if value > 0:
                k = min(int(min(float(value) * scale, 65535.0)), cuts.size)  # a guess, then corrected
                while k < cuts.size and cuts[k] <= value:
                    k += 1
                while k > 0 and cuts[k - 1] > value:
                    k -= 1
                level[y, x] = k
    return level


@compiled
def count_in_bins(scores: Array, truth: Array, edges: Array) -> Array:
    """Histograms (2, bins) int64 of the scores in [0, 1] where ``truth`` is 0 and where it is 1.

    Bin b holds edges[b] ≤ score < edges[b + 1] (as `numpy.histogram`); other values of ``truth`` are
    ignored. Edges 1 / (bins - 2) apart make the first guess good; correctness does not depend on it.
    """
    bins = edges.size - 1
    counts = np.zeros((2, bins), np.int64)
    for y in range(scores.shape[0]):
        for x in range(scores.shape[1]):
            if truth[y, x] <= 1:
                score = scores[y, x]
                b = min(int(score * (bins - 2)), bins - 1)
                while b < bins - 1 and edges[b + 1] <= score:
                    b += 1
                while b > 0 and edges[b] > score:
                    b -= 1
                counts[truth[y, x], b] += 1
    return counts
