"""Fine-grained recognition (Zhou et al. 2016, section 4.4.1, Table 4): whole image, predicted box, true box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.boxes import best_ious
from sightline.data.images import read_image
from sightline.discovery.features import Features, crop, extract_features
from sightline.discovery.gallery import RIGHT, WRONG, Tile, framed, gallery
from sightline.discovery.linear import COSTS, LinearHead, fit_linear
from sightline.discovery.maps import CHUNK, ClassMapper, ClassMaps, own_head
from sightline.discovery.result import Result, describe_model
from sightline.discovery.subsets import check_disjoint, labels_of, true_boxes
from sightline.errors import InputError
from sightline.evaluation.rows import CENTRE
from sightline.metrics.accumulators import DELTA, BoxTally
from sightline.metrics.baselines import constant_box_hits
from sightline.metrics.bootstrap import bootstrap_interval, paired_difference
from sightline.reports.tables import interval_ends, percent, spelled
from sightline.types import BoxRule, Dataset, Geometry

ROWS = ("full image", "crop to the predicted box", "crop to the true box")
MARGIN = 0.1  # of the box's width and height, on each side
TWENTY = 0.2  # of the maximum: the paper's rule


@dataclass(frozen=True, eq=False)
class FineGrained:
    """``predicted`` (3, N): the class each row's SVM gives each test image; ``labels`` (N,): the true class.

    ``boxes`` (N, 4): predicted boxes in photo pixels; ``ious`` (N,): their IoU with the true ones; ``threshold``:
    the maps' threshold; ``costs`` (3,): each SVM's C; ``maps_of``: whose weights made the maps.
    """

    predicted: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: Tensor
    ious: NDArray[np.float64]
    geometries: tuple[Geometry, ...]
    threshold: float
    costs: tuple[float, ...]
    maps_of: str

    @property
    def right(self) -> NDArray[np.float64]:
        """(3, N): 1 where the predicted class is correct."""
        right: NDArray[np.float64] = (self.predicted == self.labels).astype(np.float64)
        return right


def fine_grained(
    model: nn.Module,
    train: Dataset,
    test: Dataset,
    *,
    threshold: float | None = TWENTY,
    margin: float = MARGIN,
    batch_size: int = 64,
    cache: str | Path | None = None,
    costs: Sequence[float] = COSTS,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Result, FineGrained]:
    """Accuracy of a linear SVM on features of the whole image, of the predicted box, and of the true box.

    As in Zhou et al. 2016, Table 4, features are extracted again from the crops, for training and testing; each row
    has its own SVM. Boxes are predicted without labels: the map M_c = Σ_k w_k^c A_k of the top-scoring class of
    ``train`` is thresholded at ``threshold`` of its maximum, and its largest component gives the box. w is the
    network's own head if it knows all the classes, otherwise that of the whole-image SVM. The paper's rule is 20 % of
    the maximum, without true boxes; with ``threshold=None`` the one whose boxes match (IoU ≥ 0.5) most true boxes of
    ``train`` is chosen. The boxes of ``test`` are used only for scoring and for the third row. ``margin``: added on
    each side before cropping, a share of the box's width and height.

    Raises `InputError` if the splits share an image, an image has no box, or a class has too few images.
    """
    check_disjoint(train, test)
    if not 0 <= margin <= 1:
        raise InputError(f"margin={margin}; expected a share of the box, 0 to 1")
    options: dict[str, Any] = {"batch_size": batch_size, "cache": cache, "progress": progress}
    whole = [extract_features(model, split.samples, **options) for split in (train, test)]
    skipped = {image: why for features in whole for image, why in features.errors.items()}
    splits = [
        replace(split, samples=features.of(split.samples))
        for split, features in zip((train, test), whole, strict=True)
    ]
    truth = [true_boxes(split) for split in splits]
    labels = [np.asarray(labels_of(split)) for split in splits]
    rows = [_learn(whole, labels, train.categories, costs, seed)]
    head = own_head(model, train.categories)
    mapper = ClassMapper(model, head or rows[0][0], cache, batch_size)
    maps = [mapper.maps(split.samples, progress) for split in splits]
    tau = choose_threshold(maps[0], truth[0]) if threshold is None else threshold
    predicted = [one.boxes(tau) for one in maps]
    for boxes in (predicted, truth):
        cropped = [
            extract_features(model, split.samples, boxes=widened(part, margin), **options)
            for split, part in zip(splits, boxes, strict=True)
        ]
        rows.append(_learn(cropped, labels, train.categories, costs, seed))
    found = FineGrained(
        np.stack([named for _, named in rows]),
        labels[1],
        predicted[1],
        best_ious(predicted[1], list(truth[1][:, None])).numpy(),
        maps[1].geometries,
        tau,
        tuple(fitted.cost for fitted, _ in rows),
        "the network's own head" if head is not None else "the whole-image SVM",
    )
    settings = {
        "dataset": test.name, "train": train.split, "train_images": len(splits[0]), "test": test.split,
        "images": len(splits[1]), "classes": list(train.categories), "margin": margin, "seed": seed,
        "threshold": tau, "threshold_chosen_on": train.split if threshold is None else None,
        "maps_of": found.maps_of, "model": describe_model(model),
    }  # fmt: skip
    result = _result(found, truth[1], settings)
    result.skipped = skipped
    result.pictures = {"crops.png": picture(found, splits[1], truth[1], margin)}
    return result, found


def _learn(
    features: Sequence[Features],
    labels: Sequence[NDArray[Any]],
    classes: Sequence[str],
    costs: Sequence[float],
    seed: int,
) -> tuple[LinearHead, NDArray[np.int64]]:
    """The SVM trained on the training features, and its prediction for each test image."""
    head = fit_linear(features[0], labels[0], classes, costs=costs, seed=seed)
    return head, head.predict(features[1])


def choose_threshold(maps: ClassMaps, truth: Tensor) -> float:
    """The τ whose boxes match (IoU ≥ 0.5) most of the true boxes (N, 4); the lowest of ties."""
    tally = BoxTally("exact", BoxRule())
    for start in range(0, len(truth), CHUNK):
        part = slice(start, start + CHUNK)
        tally.update(maps.maps[part], list(truth[part, None]), list(maps.geometries[part]))
    return tally.best


def widened(boxes_xyxy: Tensor, margin: float) -> Tensor:
    """Boxes (N, 4) with ``margin`` of their width and height added on each side.

    >>> widened(Tensor([[10, 10, 20, 30]]), 0.1)
    tensor([[ 9.,  8., 21., 32.]])
    """
    extra = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]) * margin
    return torch.cat([boxes_xyxy[:, :2] - extra, boxes_xyxy[:, 2:] + extra], 1)


def _result(found: FineGrained, truth: Tensor, settings: dict[str, Any]) -> Result:
    rows, numbers = [], []
    for number, name in enumerate(ROWS):
        accuracy = bootstrap_interval(found.right[number])
        line: dict[str, Any] = {
            "features of": name,
            "C": found.costs[number],
            **interval_ends("accuracy", accuracy),
        }
        cells = [name, f"{found.costs[number]:g}", spelled(accuracy), ""]
        if number:
            gained = paired_difference(found.right[number], found.right[0])
            line |= interval_ends("difference", gained)
            cells[-1] = spelled(gained, sign=True)
        rows.append(cells)
        numbers.append(line)
    chance = float(np.bincount(found.labels).max() / len(found.labels))
    rows.append(["chance: the most frequent class", "", percent(chance), ""])
    numbers.append({"features of": "chance", "accuracy": chance})
    s = settings
    sizes = [g.photo_hw for g in found.geometries]
    centre = constant_box_hits(torch.tensor(CENTRE), list(truth[:, None]), sizes).double().numpy()
    chosen = (
        f"chosen on the true boxes of {s['threshold_chosen_on']}" if s["threshold_chosen_on"] else "fixed"
    )
    fit = bootstrap_interval((found.ious >= DELTA).astype(np.float64))
    settings["localisation"] = {
        "predicted box": fit._asdict(),
        "centre box": bootstrap_interval(centre)._asdict(),
    }
    notes = [
        f"{s['dataset']}: one-vs-all linear SVMs on GAP features of {s['train_images']} images of {s['train']}; "
        f"tested on {s['images']} of {s['test']}. Classes: {', '.join(s['classes'])}.",
        f"Features extracted again from the crops, in training and test; margin {s['margin']:g} of the box per side.",
        f"Predicted box: map of the class that {found.maps_of} ranks first, cut at τ={s['threshold']:g}, {chosen}. "
        f"It is correct (IoU ≥ 0.5) on {spelled(fit)} of the test images; a centre box (margin 1/8) "
        f"{spelled(bootstrap_interval(centre))}.",
        "In per cent; 95 % bootstrap intervals over test images in brackets; Δ is paired.",
    ]  # fmt: skip
    headings = ["features of", "C", "accuracy", "Δ to the full image"]
    return Result(f"Fine-grained: {s['dataset']}", headings, rows, settings, notes, numbers)


def picture(found: FineGrained, test: Dataset, truth: Tensor, margin: float) -> PIL.Image.Image:
    """For each of the first 8 classes: its first test photo with both boxes, the two crops, and each SVM's answer."""
    columns: list[list[Tile]] = [[], [], []]
    for label in range(min(len(test.categories), 8)):
        i = next((i for i, s in enumerate(test.samples) if s.label == label), None)
        if i is None:
            continue
        photo = read_image(test.samples[i].source)
        both = [widened(boxes[i : i + 1], margin)[0] for boxes in (found.boxes, truth)]
        shown = [framed(photo, truth[i : i + 1], found.boxes[i : i + 1]), *(crop(photo, box) for box in both)]
        for row, one in enumerate(shown):
            named, right = test.categories[found.predicted[row, i]], bool(found.right[row, i])
            columns[row].append(Tile(one, (f"{'✓' if right else '✗'} {named}",), RIGHT if right else WRONG))
    headings = [test.categories[label] for label in range(len(columns[0]))]
    labels = (
        "full image\ntrue box dashed\npredicted box red",
        "crop to the\npredicted box",
        "crop to the\ntrue box",
    )
    return gallery(list(zip(labels, columns, strict=True)), "Prediction of each row's SVM", headings=headings)
