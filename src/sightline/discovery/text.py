"""A text detector (Zhou et al. 2016, section 4): trained on images with and without text, never on boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from torch import Tensor, nn

from sightline.data.images import read_image
from sightline.discovery.features import extract_features
from sightline.discovery.gallery import RIGHT, WRONG, Tile, gallery, mapped
from sightline.discovery.head_maps import head_maps, heat
from sightline.discovery.linear import COSTS, attach_head, fit_linear
from sightline.discovery.result import Result, describe_model
from sightline.discovery.subsets import check_disjoint, labels_of
from sightline.errors import InputError
from sightline.metrics.bootstrap import Interval, bootstrap_interval, paired_difference
from sightline.metrics.pointing import box_mask, energy_in_mask, pointing_game
from sightline.reports.tables import percent, spelled
from sightline.targets import find_category
from sightline.types import Dataset, Sample


def text_detector(
    model: nn.Module,
    train: Dataset,
    test: Dataset,
    *,
    positive: str = "text",
    batch_size: int = 64,
    cache: str | Path | None = None,
    costs: Sequence[float] = COSTS,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """A linear SVM on GAP features that separates images with text from those without, and its map Σ_k w_k A_k.

    If the positive images of ``test`` have boxes, it reports the share of the map's energy inside them,
    Σ_box L / Σ L with L = max(map, 0) at the photo's size, and, as chance level, the boxes' share of the area. All
    positive images count, including those classified as negative. Both data sets must have two classes;
    ``positive`` names the one with text. Raises `InputError` for another number of classes, or an image in both
    data sets.
    """
    for dataset in (train, test):
        if len(dataset.categories) != 2:
            raise InputError(
                f"{dataset.name} {dataset.split} has {len(dataset.categories)} classes; expected 2: with and without"
            )
    wanted = find_category(positive, train.categories)
    check_disjoint(train, test)
    fit, new = (
        extract_features(model, d.samples, batch_size=batch_size, cache=cache, progress=progress)
        for d in (train, test)
    )
    head = fit_linear(fit, fit.of(labels_of(train)), train.categories, costs=costs, seed=seed)
    samples, labels = new.of(test.samples), np.asarray(new.of(labels_of(test)))
    predicted = head.predict(new)
    right = (predicted == labels).astype(np.float64)
    places = [i for i, sample in enumerate(samples) if labels[i] == wanted and len(sample.boxes_xyxy)]
    scores = {"accuracy": bootstrap_interval(right)}
    chance = float(np.bincount(labels).max() / len(labels))
    pictures: dict[str, PIL.Image.Image] = {}
    if places:
        shown = [samples[i] for i in places]
        maps, sizes = head_maps(
            attach_head(model, head), shown, [wanted] * len(shown), batch_size=batch_size, progress=progress
        )
        scores |= energy_scores(maps, sizes, shown)
        found = [bool(predicted[i] == wanted) for i in places]
        pictures["text.png"] = _picture(shown, maps, sizes, found, positive)
    settings = {
        "dataset": test.name, "train": train.split, "test": test.split, "images": len(samples),
        "train_images": len(fit), "with_boxes": len(places), "classes": list(train.categories), "C": head.cost,
        "positive": positive, "seed": seed, "model": describe_model(model),
    }  # fmt: skip
    result = _result(scores, chance, settings)
    result.pictures, result.skipped = pictures, {**fit.errors, **new.errors}
    return result


def energy_scores(
    maps: Tensor, sizes: Sequence[tuple[int, int]], samples: Sequence[Sample]
) -> dict[str, Interval]:
    """Energy in the boxes, their share of the area, the difference, and the pointing game, over images."""
    inside, area, pointed = [], [], []
    for raw, size, sample in zip(maps, sizes, samples, strict=True):
        heatmap, mask = heat(raw, size, "max")[None], box_mask(sample.boxes_xyxy, size)[None]
        inside.append(float(energy_in_mask(heatmap, mask)))
        area.append(float(mask.float().mean()))
        pointed.append(float(pointing_game(heatmap, mask)))
    return {
        "energy": bootstrap_interval(inside),
        "area": bootstrap_interval(area),
        "energy_minus_area": paired_difference(inside, area),
        "pointing": bootstrap_interval(pointed),
    }


_LABELS = {
    "accuracy": "classification accuracy",
    "energy": "map energy inside the true boxes",
    "energy_minus_area": "energy minus the boxes' share of the area (paired)",
    "pointing": "the map's maximum is in a box",
}


def _result(scores: dict[str, Interval], chance: float, settings: dict[str, object]) -> Result:
    chances = {"accuracy": chance}
    if "area" in scores:
        chances |= {"energy": scores["area"].value, "pointing": scores["area"].value}
    rows, numbers = [], []
    for name, what in _LABELS.items():
        if name in scores:
            score, without = scores[name], chances.get(name)
            rows.append([what, spelled(score, sign=name == "energy_minus_area"), percent(without)])
            numbers.append({"measure": name, **score._asdict(), "chance": without})
    notes = [
        f"Linear SVM on GAP features of {settings['train_images']} images of {settings['train']} "
        f"({' and '.join(settings['classes'])}); tested on {settings['images']} of {settings['test']}, "  # type: ignore[arg-type]
        f"{settings['with_boxes']} of them with {settings['positive']} boxes. No box was used for training.",
        "Chance: the more frequent class; for the map, the boxes' share of the area.",
        "In per cent; 95 % bootstrap intervals over images in brackets.",
    ]
    return Result(
        f"Detector: {settings['positive']}",
        ["", "result", "chance"],
        rows,
        settings,
        notes,
        numbers,
    )


def _picture(
    samples: Sequence[Sample],
    maps: Tensor,
    sizes: Sequence[tuple[int, int]],
    found: Sequence[bool],
    name: str,
) -> PIL.Image.Image:
    """The first twelve positive images under their maps; true boxes dashed."""
    tiles = []
    for sample, raw, size, right in list(zip(samples, maps, sizes, found, strict=True))[:12]:
        picture = mapped(read_image(sample.source), heat(raw, size, "max"), sample.boxes_xyxy)
        caption = f"✓ {name}" if right else f"✗ no {name}"
        tiles.append(Tile(picture, (caption,), RIGHT if right else WRONG))
    rows = [("first held-out\nimages" if not i else "", tiles[i : i + 6]) for i in range(0, len(tiles), 6)]
    return gallery(rows, f"Maps of {name}; true boxes (never trained on) dashed")
