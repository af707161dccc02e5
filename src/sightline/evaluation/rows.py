"""From counts to the rows of a table, its baselines, its per-class scores and its cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sightline.evaluation.box_source import BoxSource
from sightline.evaluation.counting import Counts
from sightline.evaluation.models import ModelSource
from sightline.evaluation.options import EvaluationOptions, Scoring
from sightline.evaluation.saved import SavedSource
from sightline.evaluation.selection import Selection
from sightline.metrics.accumulators import BoxTally, PixelTally, differences, intervals, per_image_scores
from sightline.metrics.baselines import best_constant_box, constant_box_hits
from sightline.metrics.bootstrap import bootstrap_interval
from sightline.metrics.protocols import TAUS
from sightline.pictures.contact_sheet import Case
from sightline.reports.tables import Baseline, ClassScore, Row
from sightline.types import Dataset

Array = NDArray[Any]
Source = ModelSource | SavedSource | BoxSource
CENTRE = (0.125, 0.125, 0.875, 0.875)  # a margin of one eighth: 8 of 64 pixels


def compared(
    sources: Sequence[Source],
    counted: Sequence[Counts],
    thresholds: Sequence[Sequence[dict[str, float]]],
    dataset: Dataset,
    options: EvaluationOptions,
) -> list[Row]:
    """The rows of all sources, each compared with the first."""
    rows: list[Row] = []
    first: tuple[dict[str, Array], Any] | None = None
    for source, found, all_taus in zip(sources, counted, thresholds, strict=True):
        for number, taus in enumerate(all_taus):
            row, scores = _row(source, number, found, dict(taus), dataset, options)
            tally = found.tallies[number]
            if first is None:
                first = scores, tally
            else:
                row.differences = differences(scores, first[0], options.resamples)
                if isinstance(tally, PixelTally):
                    row.differences["pxap"] = tally.interval(minus=first[1])
            rows.append(row)
    return rows


def _row(
    source: Source,
    number: int,
    found: Counts,
    taus: dict[str, float],
    dataset: Dataset,
    options: EvaluationOptions,
) -> tuple[Row, dict[str, Array]]:
    """One row, and its per-image scores."""
    line, tally = source.lines[number], found.tallies[number]
    boxes = tally if isinstance(tally, BoxTally) else None
    guesses = {}
    if found.guesses:
        guesses = {
            name: found.guesses[line.spec].per_image(name).numpy() for name in ("top1_loc", "top5_loc")
        }
    scores = per_image_scores(boxes, taus, found.right(1), found.right(5), guesses)
    row = Row(source.name, line.method, line.relative_to, intervals(scores, options.resamples), taus)
    if isinstance(tally, PixelTally):
        row.scores["pxap"] = tally.interval()
        precision, recall = tally.score.curve()
        row.curve = (recall[1:].tolist(), precision[1:].tolist())
    if boxes is not None:
        taus["swept"] = boxes.best
        row.mean_iou = float(boxes.ious.mean(dtype=np.float64))
        row.curve = (TAUS.tolist(), boxes.curve.tolist())
        row.cases = _cases(source, number, found, taus[row.shown], dataset, options)
    hits = scores[f"gt_known_{row.shown}"] if boxes is not None else None
    row.per_class = _per_class(dataset, found, hits)
    return row, scores


def _per_class(dataset: Dataset, found: Counts, hits: Array | None) -> list[ClassScore]:
    """Each class's accuracy and GT-known localisation, worst first."""
    labels, right = np.array([dataset[index].label for index in found.indices]), found.right(1)
    scores = []
    for label in np.unique(labels):
        of = labels == label
        shares = [None if values is None else float(values[of].mean()) for values in (right, hits)]
        scores.append(ClassScore(dataset.categories[label], int(of.sum()), *shares))
    return sorted(scores, key=lambda one: (one.gt_known or 0.0, one.accuracy or 0.0))


def _cases(
    source: Source, number: int, found: Counts, tau: float, dataset: Dataset, options: EvaluationOptions
) -> list[Case]:
    """The best, median and worst images of a row by IoU; ties go to the earlier image."""
    tally = found.tallies[number]
    assert isinstance(tally, BoxTally)
    count = len(tally.ious)
    each = min(options.cases, max(count // 3, 1))
    falling = np.argsort(-tally.ious, kind="stable")
    middle = (count - each) // 2
    kinds = {"best": falling[:each], "median": falling[middle : middle + each], "worst": falling[::-1][:each]}
    places = [(kind, int(place)) for kind, chosen in kinds.items() for place in chosen]
    if each == 0:
        return []
    if count < 3:
        places = [("best", int(place)) for place in falling]
    indices = [found.indices[place] for _, place in places]
    looks = source.look(dataset, indices, source.lines[number], tau)
    cases = []
    for (kind, place), index, (boxes, predicted) in zip(places, indices, looks, strict=True):
        sample = dataset[index]
        category = dataset.categories[sample.label or 0]
        true, iou = sample.boxes_xyxy.tolist(), float(tally.ious[place])
        cases.append(Case(kind, sample.id, sample.source, true, boxes.tolist(), iou, category, predicted))
    return cases


def baselines(
    selections: Sequence[Selection], counted: Counts, chosen_on: Counts | None, scoring: Scoring
) -> list[Baseline]:
    """The centre box, and the best constant box: chosen on the other split, or on this one if there is no other."""
    if scoring.truth != "boxes":
        return []
    here = [selections[0].dataset[index].boxes_xyxy for index in counted.indices], counted.sizes_hw
    boxes = [("centre box (margin 1/8)", torch.tensor(CENTRE), "fixed")]
    if chosen_on is not None:
        there = [selections[1].dataset[index].boxes_xyxy for index in chosen_on.indices], chosen_on.sizes_hw
        boxes.append(
            (f"best constant box of {selections[1].dataset.split}", best_constant_box(*there), "chosen")
        )
    else:
        boxes.append(("best constant box", best_constant_box(*here), "swept"))
    found = []
    for name, box, kind in boxes:
        hits = constant_box_hits(box, *here).double().numpy()
        found.append(Baseline(name, box.tolist(), bootstrap_interval(hits, scoring.options.resamples), kind))
    return found
