"""Per-image counts of one row of an evaluation table, and the scores and intervals computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sightline.errors import InputError
from sightline.metrics.bootstrap import Interval, bootstrap_interval, paired_difference
from sightline.metrics.localisation import BoxAccuracy, best_threshold, grid_index
from sightline.metrics.pixels import PxAP
from sightline.metrics.protocols import Map, Place, sweep_ious
from sightline.types import BoxRule

Array = NDArray[Any]
DELTA = 0.5  # the IoU at which a box counts as correct
V2_DELTAS = (0.3, 0.5, 0.7)


class BoxTally:
    """GT-known localisation of one row at every τ of the grid, from one pass over each map.

    Stores 125 bytes per image and δ (packed hits), and the IoU at ``rule``'s threshold (for the best and worst
    cases). δ = 0.3, 0.5, 0.7 with ``protocol="wsol-v2"``, otherwise 0.5.

    >>> import torch
    >>> tally = BoxTally("exact", BoxRule(0.2))
    >>> squares = torch.zeros(1, 8, 8); squares[:, 2:6, 2:6] = 1
    >>> tally.update(squares, [torch.tensor([[2.0, 2, 6, 6]])], [(8, 8)])
    >>> tally.hits(0.2), tally.ious
    (array([ True]), array([1.], dtype=float32))
    """

    def __init__(self, protocol: str, rule: BoxRule, workers: int = 1) -> None:
        deltas = V2_DELTAS if protocol == "wsol-v2" else (DELTA,)
        self.accuracy = BoxAccuracy(protocol, deltas, rule, keep=True)
        self.workers = workers
        self._ious: list[Array] = []

    def update(self, maps: Tensor | Sequence[Map], boxes: Sequence[Tensor], places: Sequence[Place]) -> None:
        """Count N images; arguments and errors as in `sweep_ious`."""
        score = self.accuracy
        found = sweep_ious(maps, boxes, places, (score.protocol,), score.rule, workers=self.workers)
        self.add_ious(found[score.protocol])

    def add_ious(self, ious: Array) -> None:
        """Count N images by their IoU at every τ, (N, 1000), as `sweep_ious` gives them."""
        self.accuracy.add_ious(ious)
        self._ious.append(ious[:, grid_index(self.shown)].astype(np.float32))

    def __add__(self, other: BoxTally) -> BoxTally:
        """The images of both, those of ``self`` first."""
        if self.shown != other.shown:
            raise InputError(f"cannot add IoUs kept at τ = {other.shown} to those at {self.shown}")
        total = BoxTally(self.accuracy.protocol, self.accuracy.rule, self.workers)
        total.accuracy = self.accuracy + other.accuracy
        total._ious = self._ious + other._ious
        return total

    @property
    def shown(self) -> float:
        """The threshold at which per-image IoUs are kept."""
        return self.accuracy.rule.threshold

    @property
    def ious(self) -> Array:
        """Each image's IoU at the threshold ``shown``: (N,) float32."""
        return np.concatenate([np.zeros(0, np.float32), *self._ious])

    @property
    def best(self) -> float:
        """The τ with the highest accuracy at δ = 0.5; the lowest of ties."""
        return best_threshold(self.accuracy, DELTA)

    @property
    def curve(self) -> Array:
        """GT-known localisation (δ = 0.5) at each τ of the grid: (1000,)."""
        return self.accuracy.accuracies[self.accuracy.deltas.index(DELTA)]  # type: ignore[no-any-return]

    def hits(self, tau: float) -> Array:
        """Whether each image's box is correct at τ, δ = 0.5: (N,) bool."""
        hits: Array = self.accuracy.per_image[:, self.accuracy.deltas.index(DELTA), grid_index(tau)]
        return hits

    def swept(self) -> Array:
        """The hits at every τ, δ = 0.5: (N, 1000) bool."""
        hits: Array = self.accuracy.per_image[:, self.accuracy.deltas.index(DELTA)]
        return hits


class PixelTally:
    """PxAP of one row, with a Poisson bootstrap interval: image i counts Poisson(1) times in each resample.

    The state is one pair of histograms per resample, whatever the number of images; the draws for image i
    depend on i alone, so that two rows are compared on the same resamples.

    >>> tally = PixelTally(BoxRule(), resamples=20)
    >>> truth = np.zeros((224, 224), np.uint8); truth[:112] = 1
    >>> tally.update([truth.astype(np.float32)] * 9, [truth] * 9, range(9))
    >>> tally.interval()
    Interval(value=1.0, low=1.0, high=1.0)
    """

    def __init__(self, rule: BoxRule, resamples: int = 500) -> None:
        self.score = PxAP("wsol", rule)
        self.resampled = np.zeros((resamples, *self.score.counts.shape))

    def update(self, maps: Sequence[Map], masks: Sequence[Array], indices: Sequence[int]) -> None:
        """Count N images: raw maps (h, w), true masks (see `PxAP`), and each image's index in the data set."""
        for one, mask, index in zip(maps, masks, indices, strict=True):
            single = PxAP("wsol", self.score.rule)
            single.update([one], [mask])
            self.score += single
            times = np.random.default_rng(index).poisson(1, len(self.resampled))
            self.resampled += times[:, None, None] * single.counts

    def __add__(self, other: PixelTally) -> PixelTally:
        """The images of both; the resampled counts are integers, so the order does not matter."""
        total = PixelTally(self.score.rule, len(self.resampled))
        total.score = self.score + other.score
        total.resampled = self.resampled + other.resampled
        return total

    def interval(self, minus: PixelTally | None = None) -> Interval:
        """PxAP, or its difference from another row's, with the 95 % interval."""
        value, draws = self.score.compute(), self._draws()
        if minus is not None:
            value, draws = value - minus.score.compute(), draws - minus._draws()
        low, high = np.quantile(draws, [0.025, 0.975])
        return Interval(value, float(low), float(high))

    def _draws(self) -> Array:
        found = []
        for counts in self.resampled:
            one = PxAP("wsol", self.score.rule)
            one.counts = counts
            found.append(one.compute() if counts[1].sum() > 0 else 0.0)
        return np.array(found)


def per_image_scores(
    tally: BoxTally | None,
    taus: Mapping[str, float],
    top1: Array | None = None,
    top5: Array | None = None,
    heuristics: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """Per-image scores: (N,), whose mean is the row's score, or (N, T), whose best mean over T is.

    ``taus`` names thresholds ("fixed", "chosen"); ``top1`` and ``top5`` (N,): whether the true class is among the
    k most probable. Each image has boxes of one class, so with one box per class the top-k localisation error
    needs no other map: 1 - mean(top_k · hit), hit being that of the true class's map.

    >>> per_image_scores(None, {}, top1=np.array([True, False]))["top1_cls_error"]
    array([False,  True])
    """
    scores: dict[str, Array] = {}
    ranks = {name: right for name, right in (("top1", top1), ("top5", top5)) if right is not None}
    for name, right in ranks.items():
        scores[f"{name}_cls_error"] = ~right
    if tally is not None:
        for which, tau in taus.items():
            hits = tally.hits(tau)
            scores[f"gt_known_{which}"] = hits
            for name, right in ranks.items():
                scores[f"{name}_loc_error_{which}"] = ~(right & hits)
        scores["gt_known_swept"] = tally.swept()
        if len(tally.accuracy.deltas) > 1:
            scores["max_box_acc_v2"] = tally.accuracy.per_image
    for name, right in (heuristics or {}).items():
        scores[f"{name}_error_heuristics"] = ~right
    return scores


def intervals(scores: Mapping[str, Array], resamples: int) -> dict[str, Interval]:
    """Each score with its 95 % bootstrap interval.

    >>> intervals({"gt_known_fixed": np.array([True, True])}, 10)
    {'gt_known_fixed': Interval(value=1.0, low=1.0, high=1.0)}
    """
    return {name: bootstrap_interval(_exact(values), resamples) for name, values in scores.items()}


def differences(
    scores: Mapping[str, Array], first: Mapping[str, Array], resamples: int
) -> dict[str, Interval]:
    """Each score minus the first row's score of that name, paired: both on the same resampled images.

    >>> row = {"gt_known_fixed": np.array([True, False])}
    >>> differences(row, row, 10)["gt_known_fixed"].high
    0.0
    """
    return {
        name: paired_difference(_exact(values), _exact(first[name]), resamples)
        for name, values in scores.items()
        if name in first
    }


def _exact(values: Array) -> Array:
    """Per-image hits as float64, so that means are exact shares; (N, T) stays boolean, to save memory."""
    return values.astype(np.float64) if values.ndim == 1 else values
