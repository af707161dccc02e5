"""Informative objects in scenes (Zhou et al. 2016, section 4): what lies in the high region of a scene's map."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.data.adapters.scenes import Mask, Scenes
from sightline.data.images import read_image
from sightline.discovery.features import Features, extract_features
from sightline.discovery.gallery import Tile, gallery, mapped
from sightline.discovery.head_maps import head_maps, heat
from sightline.discovery.linear import COSTS, attach_head, fit_linear
from sightline.discovery.result import Result, describe_model
from sightline.discovery.subsets import check_disjoint, labels_of, only_classes
from sightline.errors import InputError
from sightline.metrics.bootstrap import Interval, bootstrap_interval
from sightline.reports.tables import percent, spelled
from sightline.types import Dataset

HIGH = 0.5  # of the maximum: where a map's high region begins


@dataclass(frozen=True)
class Informative:
    """One object in one scene class; every number is a share of images in [0, 1].

    ``frequency``: images of the class where the object lies in the high region of the class's map. ``shuffled``: the
    same with the map of another image of the class. ``predicted``: the same with the map of the class that the image
    was classified as, as in the paper. ``in_class``, ``in_data``: images of the class, and of the whole data set, that
    contain the object.
    """

    scene: str
    object: str
    frequency: Interval
    shuffled: float
    predicted: float
    in_class: float
    in_data: float

    @property
    def lift(self) -> float:
        """frequency / in_data: above 1, the object lies under this map more often than it occurs in the data."""
        return self.frequency.value / self.in_data


def lies_under(mask: Mask, region: Mask) -> bool:
    """|m ∩ R| ≥ ½ · min(|m|, |R|): half of the object is in the region, or half of the region is on the object.

    >>> lies_under(np.array([[True, True, False]]), np.array([[False, True, True]]))
    True
    """
    return bool(mask.any() and (mask & region).sum() >= 0.5 * min(mask.sum(), region.sum()) > 0)


def high_part(raw: Tensor, size_hw: tuple[int, int], threshold: float = HIGH) -> Mask:
    """R = {H ≥ τ}, H the map upsampled to the photo and scaled to [0, 1]: (H, W) bool; empty for a constant map.

    >>> high_part(Tensor([[0.0, 1.0]]), (1, 4)).astype(int)
    array([[0, 0, 1, 1]])
    """
    heatmap = heat(raw, size_hw)
    region: Mask = ((heatmap >= threshold) & (heatmap > 0)).numpy()
    return region


def rank_objects(
    scenes: Scenes,
    maps: Tensor,
    sizes: Sequence[tuple[int, int]],
    threshold: float = HIGH,
    predicted: Tensor | None = None,
) -> list[Informative]:
    """Every object of every scene class, most frequent first.

    f(c, o) = (1 / N_c) Σ_i 1[o lies under R_i], over the N_c images of class c, with R_i the high region of
    image i's map for c and "lies under" as in `lies_under`. ``maps`` (N, h, w) and ``sizes`` follow the order of
    the scenes' images; ``predicted`` are the maps of the classes that they were classified as (by default ``maps``).
    """
    answered = maps if predicted is None else predicted
    labels = np.asarray(labels_of(scenes.dataset))
    hits: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros((4, len(labels))))
    for label in range(len(scenes.dataset.categories)):
        members = [i for i, own in enumerate(labels) if own == label]
        for i, other in zip(members, members[-1:] + members[:-1], strict=True):
            masks = scenes.objects[scenes.dataset.samples[i].id](sizes[i])
            shown = maps[i], maps[other], answered[i]
            regions = [high_part(one, sizes[i], threshold) for one in shown]
            for name, mask in masks.items():
                hits[name][:, i] = [float(mask.any()), *(float(lies_under(mask, r)) for r in regions)]
    found = []
    for label, scene in enumerate(scenes.dataset.categories):
        of_class = labels == label
        ranked = [
            Informative(
                scene,
                name,
                bootstrap_interval(under[of_class]),
                float(shuffled[of_class].mean()),
                float(answer[of_class].mean()),
                float(there[of_class].mean()),
                float(there.mean()),
            )
            for name, (there, under, shuffled, answer) in sorted(hits.items())
            if there[of_class].any()
        ]
        found += sorted(ranked, key=lambda one: (-one.frequency.value, -one.lift))
    return found


def informative_objects(
    model: nn.Module,
    train: Scenes,
    test: Scenes,
    *,
    classes: Sequence[str] | None = None,
    threshold: float = HIGH,
    top: int = 6,
    batch_size: int = 64,
    cache: str | Path | None = None,
    costs: Sequence[float] = COSTS,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Result, list[Informative]]:
    """For each scene class, the objects most often in the high region of its map (Zhou et al. 2016, section 4).

    A one-vs-all linear SVM on the GAP features of ``train`` classifies the scenes; its weights give the map of an
    image's own class, M_c = Σ_k w_k^c A_k. Objects come from ``test`` and are never trained on. ``threshold`` in
    [0, 1] is the share of the maximum above which a map counts as high. Raises `InputError` for fewer than two
    scene classes common to both splits, a shared image, or whatever `fit_linear` raises.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"threshold is {threshold}; expected a value above 0, at most 1")
    names = classes or [c for c in train.dataset.categories if c in test.dataset.categories]
    fit_split, test_split = (only_classes(scenes.dataset, list(names)) for scenes in (train, test))
    check_disjoint(fit_split, test_split)
    options = {"batch_size": batch_size, "cache": cache, "progress": progress}
    fit, new = (extract_features(model, d.samples, **options) for d in (fit_split, test_split))  # type: ignore[arg-type]
    head = fit_linear(fit, fit.of(labels_of(fit_split)), fit_split.categories, costs=costs, seed=seed)
    kept = Scenes(_readable(test_split, new), test.objects)
    labels = labels_of(kept.dataset)
    with_head = attach_head(model, head)
    maps, sizes = head_maps(with_head, kept.dataset.samples, labels, batch_size=batch_size, progress=progress)
    answers = head.predict(new)
    wrong = np.flatnonzero(answers != np.asarray(labels)).tolist()
    predicted = maps.clone()
    if len(wrong):
        missed = [kept.dataset.samples[i] for i in wrong]
        taken_for = [int(answers[i]) for i in wrong]
        predicted[wrong] = head_maps(with_head, missed, taken_for, batch_size=batch_size, progress=progress)[
            0
        ]
    ranked = rank_objects(kept, maps, sizes, threshold, predicted)
    right = answers == np.asarray(labels)
    settings = {
        "dataset": test_split.name, "train": fit_split.split, "test": test_split.split, "images": len(kept.dataset),
        "train_images": len(fit), "classes": list(test_split.categories), "threshold": threshold, "C": head.cost,
        "accuracy": bootstrap_interval(right.astype(float))._asdict(), "seed": seed, "model": describe_model(model),
    }  # fmt: skip
    result = _result(ranked, settings, top)
    result.skipped = {**fit.errors, **new.errors}
    result.pictures = {"objects.png": _picture(kept, maps, head.scores(new), ranked, with_head.name)}
    return result, ranked


def _readable(dataset: Dataset, features: Features) -> Dataset:
    return Dataset(dataset.name, dataset.split, features.of(dataset.samples), dataset.categories)


def _result(ranked: Sequence[Informative], settings: dict[str, Any], top: int) -> Result:
    rows, numbers = [], []
    for scene in settings["classes"]:
        objects = [one for one in ranked if one.scene == scene]
        for place, one in enumerate(objects, 1):
            if place <= top:
                rows.append([
                    scene if place == 1 else "", one.object, spelled(one.frequency), percent(one.shuffled),
                    percent(one.predicted), percent(one.in_class), percent(one.in_data), f"{one.lift:.2f}",
                ])  # fmt: skip
            numbers.append({
                "scene": scene, "rank": place, "object": one.object, "frequency": one.frequency.value,
                "frequency_low": one.frequency.low, "frequency_high": one.frequency.high,
                "shuffled": one.shuffled, "predicted": one.predicted,
                "in_class": one.in_class, "in_data": one.in_data, "lift": one.lift,
            })  # fmt: skip
    accuracy = Interval(**settings["accuracy"])
    notes = [
        f"{settings['dataset']}: linear SVM on GAP features of {settings['train_images']} images of "
        f"{settings['train']}; scene accuracy on {settings['images']} images of {settings['test']}: "
        f"{spelled(accuracy)} %, chance {percent(1 / len(settings['classes']))} %.",
        f"Frequency: share of a class's images where the object lies in the region of the class's map at or above "
        f"{settings['threshold']:g} of its maximum (half of one lies in the other).",
        "Predicted class: the same with the map of the class that the image was classified as, as in the paper.",
        "Another map: the same with the map of another image of the class. Lift: frequency / in data.",
        "In per cent except the lift; 95 % bootstrap intervals over images in brackets.",
    ]
    headings = [
        "scene",
        "object",
        "under its map",
        "another map",
        "predicted class",
        "in class",
        "in data",
        "lift",
    ]
    return Result(f"Informative objects: {settings['dataset']}", headings, rows, settings, notes, numbers)


def _picture(
    scenes: Scenes, maps: Tensor, scores: NDArray[np.float32], ranked: Sequence[Informative], title: str
) -> PIL.Image.Image:
    """One row per scene class: its top-scoring images under their maps."""
    labels, rows = np.asarray(labels_of(scenes.dataset)), []
    for label, scene in enumerate(scenes.dataset.categories):
        members = np.flatnonzero(labels == label)
        best = members[np.argsort(-scores[members, label], kind="stable")][:6]
        tiles = []
        for i in best:
            photo = read_image(scenes.dataset.samples[i].source)
            tiles.append(Tile(mapped(photo, heat(maps[i], (photo.height, photo.width)))))
        first = [one for one in ranked if one.scene == scene][:3]
        lines = [f"{percent(one.frequency.value)} % {one.object}" for one in first]
        rows.append(("\n".join([scene, *lines]), tiles))
    return gallery(rows, f"{title}: objects most often under the map of each scene", label=190)
