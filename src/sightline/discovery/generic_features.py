"""Generic features (Zhou et al. 2016, section 4.4): a linear SVM on them, and its weights as class maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from torch import nn

from sightline.data.images import read_image
from sightline.discovery.features import Features, extract_features
from sightline.discovery.gallery import RIGHT, WRONG, Tile, framed, gallery, mapped
from sightline.discovery.linear import COSTS, LinearHead, attach_head, fit_linear
from sightline.discovery.result import Result, describe_model
from sightline.discovery.subsets import check_disjoint, labels_of
from sightline.errors import InputError
from sightline.evaluation.run import evaluate
from sightline.methods.spec import parse_method
from sightline.metrics.bootstrap import Interval, bootstrap_interval, paired_difference
from sightline.models.loading import LoadedModel
from sightline.pipeline import explain
from sightline.reports.tables import Report, interval_ends, percent, spelled
from sightline.types import DEFAULT_THRESHOLDS, Dataset


@dataclass
class FeatureEvaluation:
    """The result for one network's features: the head, the network with that head, and which images are correct.

    ``right`` (N,): 0 or 1 for each image of ``rows``, indices into the test split.
    """

    name: str
    head: LinearHead
    model: LoadedModel
    right: NDArray[np.float64]
    rows: NDArray[np.int64]
    errors: Mapping[str, str]
    train_images: int
    features: Mapping[str, Features]

    @property
    def accuracy(self) -> Interval:
        return bootstrap_interval(self.right)


def learn(
    name: str,
    model: nn.Module,
    train: Dataset,
    test: Dataset,
    *,
    costs: Sequence[float] = COSTS,
    seed: int = 0,
    **options: Any,
) -> FeatureEvaluation:
    """A one-vs-all linear SVM on the features of ``train``, tested on ``test``; ``options`` as in `extract_features`.

    Raises `InputError` if the splits share an image, and whatever `fit_linear` raises.
    """
    check_disjoint(train, test)
    found = {split.split: extract_features(model, split.samples, **options) for split in (train, test)}
    fit, new = found[train.split], found[test.split]
    head = fit_linear(fit, fit.of(labels_of(train)), train.categories, costs=costs, seed=seed)
    right = head.predict(new) == np.asarray(new.of(labels_of(test)))
    return FeatureEvaluation(
        name, head, attach_head(model, head), right.astype(np.float64), new.rows, {**fit.errors, **new.errors},
        len(fit), found,
    )  # fmt: skip


def generic_features(
    models: Mapping[str, nn.Module],
    train: Dataset,
    test: Dataset,
    *,
    choose_on: Dataset | None = None,
    batch_size: int = 64,
    cache: str | Path | None = None,
    view: str = "whole",
    method: str = "cam",
    costs: Sequence[float] = COSTS,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Result, list[FeatureEvaluation]]:
    """For each network: accuracy of a linear SVM on its GAP features, and GT-known localisation of its maps.

    The map of class c is Σ_k w_k^c A_k with the SVM's weights (Zhou et al. 2016, section 4.4). If ``test`` has
    boxes, the maps are scored as in `sightline evaluate`: IoU ≥ 0.5, at a threshold chosen on ``choose_on`` (or
    fixed at 0.2), with a centre box for comparison. ``method`` is "cam", or NAME:OPTION=VALUE as there:
    "cam:nwc=true" drops negative weights from the maps. Intervals are 95 % bootstraps over test images; the
    difference from the first network is paired. Chance is the accuracy of always answering the most frequent class.
    """
    if not models:
        raise InputError("no network to extract features with")
    if choose_on is not None:
        check_disjoint(train, choose_on)
        check_disjoint(choose_on, test)
    evaluated = [
        learn(name, model, train, test, costs=costs, seed=seed, batch_size=batch_size, cache=cache, view=view,
              progress=progress)
        for name, model in models.items()
    ]  # fmt: skip
    report = None
    if all(len(sample.boxes_xyxy) for sample in test.samples):
        maps = {one.name: one.model for one in evaluated}
        report = evaluate(
            maps,
            test,
            [method],
            choose_on=choose_on,
            gt_only=True,
            view=view,
            batch_size=batch_size,
            on_bad="skip",
        )
    result = _result(evaluated, models, report, train, test, choose_on, view, method, seed)
    taus = (
        [row.thresholds[row.shown] for row in report.rows]
        if report
        else [DEFAULT_THRESHOLDS["max"]] * len(evaluated)
    )
    result.pictures = {"maps.png": head_gallery(evaluated, test, taus, result.title, method)}
    return result, evaluated


def _result(
    evaluated: Sequence[FeatureEvaluation],
    models: Mapping[str, nn.Module],
    report: Report | None,
    train: Dataset,
    test: Dataset,
    choose_on: Dataset | None,
    view: str,
    method: str,
    seed: int,
) -> Result:
    which = "chosen" if choose_on is not None else "fixed"
    counts = np.bincount(labels_of(test), minlength=len(test.categories))
    numbers: list[dict[str, Any]] = []
    rows = []
    for number, one in enumerate(evaluated):
        line: dict[str, Any] = {
            "features": one.name,
            "channels": one.head.weight.shape[1],
            "C": one.head.cost,
        }
        line |= interval_ends("accuracy", one.accuracy)
        cells = [one.name, str(one.head.weight.shape[1]), f"{one.head.cost:g}", spelled(one.accuracy)]
        cells.append(spelled(_difference(one, evaluated[0]), sign=True) if number else "")
        if report is not None:
            row = report.rows[number]
            line |= interval_ends("gt_known", row.scores[f"gt_known_{which}"]) | {
                "threshold": row.thresholds[which]
            }
            cells.append(
                spelled(row.scores[f"gt_known_{which}"]).replace(" [", f" at τ={row.thresholds[which]:g} [")
            )
        numbers.append(line)
        rows.append(cells)
    chance = float(counts.max() / counts.sum())
    rows.append(["chance: the most frequent class", "", "", percent(chance), ""])
    numbers.append({"features": "chance", "accuracy": chance})
    if report is not None:
        rows[-1].append("")
        for base in report.baselines:
            if base.kind == "swept":  # chosen on the reported split: an upper bound, not a baseline
                continue
            rows.append([base.name, "", "", "", "", spelled(base.score)])
            numbers.append({"features": base.name, **interval_ends("gt_known", base.score)})
    headings = ["features", "channels", "C", "accuracy", "Δ to row 1"]
    settings = {
        "dataset": test.name, "train": train.split, "test": test.split, "images": len(test),
        "train_images": evaluated[0].train_images, "choose_on": None if choose_on is None else choose_on.split,
        "classes": list(test.categories), "view": view, "method": method, "seed": seed,
        "models": [{"row": name, **describe_model(model)} for name, model in models.items()],
    }  # fmt: skip
    return Result(
        f"Generic features: {test.name}, {len(test.categories)} classes",
        [*headings, "GT-known of the maps"] if report is not None else headings,
        rows,
        settings,
        _notes(evaluated, train, test, choose_on, method if report is not None else None),
        numbers,
        skipped={image: why for one in evaluated for image, why in one.errors.items()},
    )


def _difference(one: FeatureEvaluation, first: FeatureEvaluation) -> Interval:
    """Paired over the images that both could read."""
    both = np.intersect1d(one.rows, first.rows)
    a, b = (each.right[np.isin(each.rows, both)] for each in (one, first))
    return paired_difference(a, b)


def _notes(
    evaluated: Sequence[FeatureEvaluation],
    train: Dataset,
    test: Dataset,
    choose_on: Dataset | None,
    method: str | None,
) -> list[str]:
    notes = [
        f"{test.name}: one-vs-all linear SVM, C by 5-fold cross-validation, on GAP features of "
        f"{evaluated[0].train_images} images of {train.split}; tested on {len(evaluated[0].right)} of {test.split}.",
        f"Classes: {', '.join(test.categories)}.",
    ]
    if method is not None:
        chosen = f"chosen on {choose_on.split}, {len(choose_on)} images" if choose_on else "fixed at 0.2"
        notes.append(
            f"Maps: {method} with the SVM's weights, Σ_k w_k A_k, for the true class; GT-known: the map's box "
            f"has IoU ≥ 0.5 with a true box; threshold {chosen}. No box was used for training."
        )
    notes.append("In per cent; 95 % bootstrap intervals over test images in brackets; Δ is paired.")
    return notes


def head_gallery(
    evaluated: Sequence[FeatureEvaluation],
    test: Dataset,
    thresholds: Sequence[float],
    title: str,
    method: str = "cam",
) -> PIL.Image.Image:
    """The first test photo of each class, and below it each network's map for that class, with its box."""
    spec = parse_method(method)
    first = [next(s for s in test.samples if s.label == label) for label in range(len(test.categories))]
    photos = [read_image(sample.source) for sample in first]
    tiles = [
        Tile(framed(photo, sample.boxes_xyxy), (test.categories[label],))
        for label, (photo, sample) in enumerate(zip(photos, first, strict=True))
    ]
    rows: list[tuple[str, list[Tile]]] = [("photo\ntrue box dashed", tiles)]
    for one, tau in zip(evaluated, thresholds, strict=True):
        explanation = explain(one.model, photos, spec.name, _class_column(range(len(photos))), **spec.options)
        heatmaps, boxes = explanation.heatmaps().cpu(), explanation.boxes(threshold=tau)
        assert explanation.logits is not None
        predicted = explanation.logits.argmax(1).tolist()
        tiles = [
            Tile(
                mapped(photo, heatmaps[i, 0], first[i].boxes_xyxy, boxes[i][0].cpu()),
                (f"{'✓' if predicted[i] == i else '✗'} {test.categories[predicted[i]]}",),
                RIGHT if predicted[i] == i else WRONG,
            )
            for i, photo in enumerate(photos)
        ]
        rows.append((f"{one.name}\nmap of the SVM\nτ = {tau:g}", tiles))
    return gallery(rows, title)


def _class_column(labels: Sequence[int]) -> Any:
    import torch

    return torch.tensor(list(labels))[:, None]
