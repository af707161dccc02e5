"""Pixel scores against true masks: PxAP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.errors import InputError, need, unknown
from sightline.heatmap import make_heatmaps
from sightline.metrics.protocols import (
    SIDE,
    TAUS,
    Map,
    as_map,
    check_size,
    in_threads,
    wsol_scoremap,
)
from sightline.metrics.sweep import count_in_bins
from sightline.types import BoxRule

Array = NDArray[Any]

PIXEL_PROTOCOLS = ("wsol", "exact")
IGNORED = 255
EDGES: Array = np.append(TAUS, [1.0, 2.0, 3.0])


@dataclass
class PxAP:
    """The area under the pixel-wise precision-recall curve (Choe et al., CVPR 2020), in [0, 1].

    PxAP = Σ_i P_i (R_i - R_{i-1}) over the thresholds 2, 1, 0.999, …, 0 (the first has no pixels and no term);
    precision and recall are over all pixels of all images, and a pixel is positive if its score is ≥ τ. Pixels
    with mask 255 are ignored. ``wsol``: exactly as in wsolevaluation, with float64 scores and masks at 224×224.
    ``exact``: sightline's heatmap at the size of the mask. The state is two histograms of 1002 bins and merges by
    ``a + b``.

    >>> truth = np.zeros((224, 224), np.uint8); truth[:112] = 1
    >>> score = PxAP()
    >>> score.update(truth[None].astype(np.float32), [truth])
    >>> score.compute()
    1.0
    """

    protocol: str = "wsol"
    rule: BoxRule = field(default_factory=BoxRule)
    images: int = 0
    counts: Array = field(
        init=False, repr=False, default_factory=lambda: np.zeros((2, len(EDGES) - 1), np.int64)
    )

    def __post_init__(self) -> None:
        if self.protocol not in PIXEL_PROTOCOLS:
            raise unknown("protocol", self.protocol, PIXEL_PROTOCOLS)

    def update(
        self,
        maps: Tensor | Array | Sequence[Map],
        masks: Sequence[Array | Tensor],
        map_hw: tuple[int, int] | None = None,
        workers: int = 1,
    ) -> None:
        """Count N images: raw maps (h, w) and masks (H, W) of 0, 1, or 255 for ignored pixels.

        Raises `InputError` for different lengths, a map that is not of the stated size ``map_hw``, or, under
        ``wsol``, a mask that is not 224×224 (see `truth_mask`).
        """
        if len(maps) != len(masks):
            raise InputError(f"{len(maps)} maps and {len(masks)} masks; expected one each")

        def one(i: int) -> Array:
            truth = _as_truth(masks[i])
            scores = self._scores(as_map(maps[i], map_hw), truth)
            counted: Array = count_in_bins(scores, truth, EDGES)
            return counted

        for counted in in_threads(one, range(len(maps)), workers):
            self.counts += counted
            self.images += 1

    def _scores(self, raw: Array, truth: Array) -> Array:
        if self.protocol == "wsol":
            check_size(truth, (SIDE, SIDE), "the mask")
            return wsol_scoremap(raw, self.rule)
        size_hw = (truth.shape[0], truth.shape[1])
        scaled = make_heatmaps(
            torch.from_numpy(raw).double(), size_hw, self.rule.normalise, self.rule.percentile
        )
        scores: Array = scaled.numpy()
        return scores

    def __add__(self, other: PxAP) -> PxAP:
        if (self.protocol, self.rule) != (other.protocol, other.rule):
            raise InputError(f"cannot add the scores of {other} to those of {self}")
        total = PxAP(self.protocol, self.rule, self.images + other.images)
        total.counts = self.counts + other.counts
        return total

    def curve(self) -> tuple[Array, Array]:
        """Precision and recall at the thresholds 2, 1, 0.999, …, 0: each (1002,); the precision of no pixels is 0."""
        false, true = (np.cumsum(count[::-1]) for count in self.counts)
        if true[-1] == 0:
            raise InputError("no mask contains an object pixel; recall is undefined")
        chosen = true + false
        return true / np.maximum(chosen, 1), true / true[-1]

    def compute(self) -> float:
        """PxAP in [0, 1]."""
        precision, recall = self.curve()
        return float((precision[1:] * np.diff(recall)).sum())


def truth_mask(
    masks: Sequence[Array], ignore: Array | None = None, size_hw: tuple[int, int] | None = (SIDE, SIDE)
) -> Array:
    """Combine the masks of all instances: (H, W) uint8 with 1 inside any, 255 where ignored, else 0.

    As in wsolevaluation, each is resized to ``size_hw`` by nearest neighbour and thresholded at 0.5; instances take
    precedence over ignored regions. Masks are boolean, 0/1 or 0/255.

    >>> truth_mask([np.eye(2), np.array([[0, 1], [0, 0]])], np.ones((2, 2)), size_hw=None).tolist()
    [[1, 1], [255, 1]]
    """
    if len(masks) == 0:
        raise InputError("no masks; expected at least one")

    def read(mask: Array) -> Array:
        cv2 = need("cv2", "evaluate")

        values: Array = np.asarray(mask, np.float32)
        if size_hw is not None:
            values = cv2.resize(values, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_NEAREST)
        return np.asarray(values > 0.5)

    inside = np.any([read(mask) for mask in masks], axis=0)
    truth: Array = inside.astype(np.uint8)
    if ignore is not None:
        truth[read(ignore) & ~inside] = IGNORED
    return truth


def _as_truth(mask: Array | Tensor) -> Array:
    truth = np.asarray(torch.as_tensor(mask).cpu())
    if truth.ndim != 2 or not np.isin(truth, (0, 1, IGNORED)).all():
        raise InputError(
            f"a mask of shape {truth.shape} is not (H, W), or has values other than 0, 1 and 255"
        )
    return truth.astype(np.uint8)
