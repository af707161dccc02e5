"""Box accuracy at every threshold, summed over images: MaxBoxAcc and MaxBoxAccV2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sightline.errors import InputError, unknown
from sightline.metrics.protocols import PROTOCOLS, TAUS, Map, Place, sweep_ious
from sightline.types import BoxRule

Array = NDArray[Any]
A = TypeVar("A", bound="BoxAccuracy")


@dataclass
class BoxAccuracy:
    """The share of images whose box is correct (IoU ≥ δ), for every δ in ``deltas`` and every τ of the grid.

    The state is a count, (D, 1000) int64, whatever the number of images, and merges by ``a + b``.
    ``keep`` also stores each image's hits, packed to 125·D bytes, for `bootstrap`. `MaxBoxAcc` and `MaxBoxAccV2`
    use the papers' settings. Raises `InputError` for an unknown protocol.
    """

    protocol: str
    deltas: tuple[float, ...]
    rule: BoxRule = field(default_factory=BoxRule)
    keep: bool = False
    images: int = 0
    hits: Array = field(init=False, repr=False)
    packed: list[Array] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise unknown("protocol", self.protocol, PROTOCOLS)
        self.hits = np.zeros((len(self.deltas), len(TAUS)), np.int64)

    def update(
        self,
        maps: Tensor | Array | Sequence[Map],
        boxes: Sequence[Tensor],
        places: Sequence[Place],
        map_hw: tuple[int, int] | None = None,
        workers: int = 1,
    ) -> None:
        """Count N images; arguments and errors as in `sweep_ious`."""
        ious = sweep_ious(maps, boxes, places, (self.protocol,), self.rule, map_hw, workers)
        self.add_ious(ious[self.protocol])

    def add_ious(self, ious: Array) -> None:
        """Count N images by their IoU at every τ, (N, 1000), from `sweep_ious`."""
        if ious.ndim != 2 or ious.shape[1] != len(TAUS):
            raise InputError(
                f"IoUs have shape {ious.shape}; expected (N, {len(TAUS)}), one for each threshold"
            )
        fits = np.stack([ious >= delta for delta in self.deltas], axis=1)  # (N, D, 1000)
        self.hits += fits.sum(0)
        self.images += len(fits)
        if self.keep:
            self.packed.append(np.packbits(fits, axis=-1))

    def __add__(self: A, other: A) -> A:
        own, others = ((a.protocol, a.deltas, a.rule, a.keep) for a in (self, other))
        if own != others:
            raise InputError(f"cannot add the scores of {others} to those of {own}")
        total = type(self)(self.protocol, self.deltas, self.rule, self.keep, self.images + other.images)
        total.hits = self.hits + other.hits
        total.packed = self.packed + other.packed
        return total

    @property
    def accuracies(self) -> Array:
        """The share of correct images for each δ and τ: (D, 1000) float64."""
        if self.images == 0:
            raise InputError("no image has been scored yet")
        shares: Array = self.hits / self.images
        return shares

    @property
    def per_image(self) -> Array:
        """Each image's hits, (N, D, 1000) bool; needs ``keep``."""
        if not self.keep:
            raise InputError("per-image hits were not kept; create the accumulator with keep=True")
        rows = np.concatenate([np.zeros((0, len(self.deltas), len(TAUS) // 8), np.uint8), *self.packed])
        return np.unpackbits(rows, axis=-1, count=len(TAUS)).astype(np.bool_)

    def compute(self) -> float:
        """The mean over δ of the accuracy at each δ's own best τ, in [0, 1]."""
        return float(self.accuracies.max(1).mean())

    def at(self, tau: float) -> float:
        """The mean over δ of the accuracy at one threshold τ of the grid, in [0, 1]."""
        return float(self.accuracies[:, grid_index(tau)].mean())


@dataclass
class MaxBoxAcc(BoxAccuracy):
    """MaxBoxAcc(δ = 0.5): max over τ of the share of images whose box is correct (Choe et al., CVPR 2020).

    >>> import torch
    >>> maps = torch.zeros(1, 7, 7); maps[0, 2:5, 2:5] = 1
    >>> score = MaxBoxAcc()
    >>> score.update(maps, [torch.tensor([[64.0, 64.0, 160.0, 160.0]])], [(224, 224)])
    >>> score.compute(), score.images
    (1.0, 1)
    """

    protocol: str = "wsol-v1"
    deltas: tuple[float, ...] = (0.5,)


@dataclass
class MaxBoxAccV2(BoxAccuracy):
    """MaxBoxAccV2: the mean over δ ∈ {0.3, 0.5, 0.7} of each δ's own maximum over τ (Choe et al., TPAMI 2022).

    >>> score = MaxBoxAccV2()
    >>> score.add_ious(np.full((4, 1000), 0.6))
    >>> round(score.compute(), 4)
    0.6667
    """

    protocol: str = "wsol-v2"
    deltas: tuple[float, ...] = (0.3, 0.5, 0.7)


def best_threshold(score: BoxAccuracy, delta: float | None = None) -> float:
    """The τ with the highest accuracy, the lowest of ties; choose it on one split and use it on another.

    For one ``delta``, or (None) for the mean over the accumulator's deltas. Raises `InputError` for a delta it
    does not count.

    >>> score = MaxBoxAcc()
    >>> score.add_ious(np.where(np.arange(1000) == 250, 0.9, 0.1)[None])
    >>> best_threshold(score), score.at(0.25), score.at(0.2)
    (0.25, 1.0, 0.0)
    """
    if delta is None:
        return float(TAUS[score.accuracies.mean(0).argmax()])
    if delta not in score.deltas:
        raise unknown("delta", delta, [str(d) for d in score.deltas])
    return float(TAUS[score.accuracies[score.deltas.index(delta)].argmax()])


def grid_index(tau: float) -> int:
    """The index of τ on the grid 0, 0.001, …, 0.999; other values raise `InputError`.

    >>> grid_index(0.2)
    200
    """
    index = round(tau * len(TAUS))
    if not 0 <= index < len(TAUS) or abs(float(TAUS[index]) - tau) > 1e-9:
        raise InputError(f"threshold {tau} is not on the grid 0, 0.001, …, 0.999")
    return index
