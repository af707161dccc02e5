"""The images that activate a unit most, kept in heaps: memory does not grow with the data set."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Peak:
    """Image ``number`` activates a unit to ``value``, at position (``y``, ``x``) of the layer's map."""

    value: float
    number: int
    y: int
    x: int


class TopPeaks:
    """Each unit's ``top`` images by the maximum of its map, one peak per image.

    Images are ranked by max_xy A_k(x, y), as in Zhou et al. 2016, Figure 13. The earlier of tied images is kept.

    >>> import torch
    >>> best = TopPeaks([1], top=2)
    >>> best.update(torch.tensor([[[[9.0]], [[1.0]]], [[[9.0]], [[3.0]]], [[[9.0]], [[2.0]]]]), first=0)
    >>> [(peak.value, peak.number) for peak in best.ranked()[1]]
    [(3.0, 1), (2.0, 2)]
    """

    def __init__(self, units: Sequence[int], top: int) -> None:
        self.units, self.top = tuple(dict.fromkeys(units)), top
        self._heaps: dict[int, list[tuple[float, int, int, int]]] = {unit: [] for unit in self.units}

    def update(self, activations: Tensor, first: int, numbers: Sequence[int] | None = None) -> None:
        """Add images ``first``, first + 1, … (or ``numbers``): activations (N, C, h, w)."""
        width = activations.shape[3]
        values, places = activations[:, list(self.units)].flatten(2).max(2)
        numbers = range(first, first + len(activations)) if numbers is None else numbers
        for i, number in enumerate(numbers):
            for j, unit in enumerate(self.units):
                y, x = divmod(int(places[i, j]), width)
                self._push(self._heaps[unit], (float(values[i, j]), -number, y, x))

    def _push(self, heap: list[tuple[float, int, int, int]], entry: tuple[float, int, int, int]) -> None:
        if len(heap) < self.top:
            heapq.heappush(heap, entry)
        elif entry > heap[0]:
            heapq.heapreplace(heap, entry)

    def ranked(self) -> dict[int, list[Peak]]:
        """Each unit's peaks, strongest first."""
        return {
            unit: [Peak(value, -number, y, x) for value, number, y, x in sorted(heap, reverse=True)]
            for unit, heap in self._heaps.items()
        }
