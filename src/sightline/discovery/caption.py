"""The `caption` experiment: predicted against true captions, and where each word's map points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn

from sightline.data.adapters.captions import CaptionedImage
from sightline.data.images import read_image
from sightline.discovery.answerer import pooled_model
from sightline.discovery.captioner import (
    EPOCHS,
    GRID,
    Captioner,
    Words,
    caption_target,
    feature_network,
    train_captioner,
)
from sightline.discovery.concept import words
from sightline.discovery.features import extract_features
from sightline.discovery.gallery import RIGHT, WRONG, Tile, gallery, mapped
from sightline.discovery.head_maps import heat
from sightline.discovery.result import Result, describe_model
from sightline.errors import InputError
from sightline.metrics.bootstrap import Interval, bootstrap_interval
from sightline.metrics.pointing import box_mask, pointing_game
from sightline.models.loading import LoadedModel
from sightline.pipeline import explain
from sightline.progress import tracked
from sightline.reports.tables import percent, spelled
from sightline.types import Dataset

Boxes = Mapping[str, Mapping[str, Tensor]]  # image -> word -> (B, 4)


def boxes_of_words(objects: Dataset) -> dict[str, dict[str, Tensor]]:
    """COCO's boxes, by image file and by each word of the category name.

    >>> from sightline.types import Sample
    >>> sample = Sample("a.jpg:king penguin", Path("v/a.jpg"), 0, torch.tensor([[0., 0., 4., 4.]]))
    >>> sorted(boxes_of_words(Dataset("coco", "val", [sample], ("king penguin",)))["v/a.jpg"])
    ['king', 'penguin']
    """
    found: dict[str, dict[str, Tensor]] = {}
    for sample in objects.samples:
        assert sample.label is not None
        for word in words(objects.categories[sample.label]):
            here = found.setdefault(str(sample.source), {})
            here[word] = torch.cat([here[word], sample.boxes_xyxy]) if word in here else sample.boxes_xyxy
    return found


def caption_images(
    model: nn.Module,
    train: Sequence[CaptionedImage],
    test: Sequence[CaptionedImage],
    *,
    boxes: Boxes | None = None,
    method: str = "gradcam",
    epochs: int = EPOCHS,
    grid: int = GRID,
    batch_size: int = 64,
    cache: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Result, LoadedModel]:
    """Train a small captioner on ``train``, caption ``test``, and explain each predicted word.

    The map of a word is ``method`` applied to log p(word | the words before it, image) at the trunk's last layer.
    ``boxes`` (from `boxes_of_words`) are used only for scoring: for each predicted word with a box, whether its
    map's maximum lies in the box, compared with the box's share of the area and with the map of another predicted
    word that has another box. Raises `InputError` if ``train`` and ``test`` share an image.
    """
    if shared := {str(i.source) for i in train} & {str(i.source) for i in test}:
        raise InputError(f"{len(shared)} test images are also in the training set; test on others")
    vocabulary = Words.of([caption for image in train for caption in image.captions])
    fit, new = (
        extract_features(
            model,
            [i.source for i in images],
            batch_size=batch_size,
            cache=cache,
            grid=grid,
            progress=progress,
        )
        for images in (train, test)
    )
    train, test = fit.of(train), new.of(test)
    channels = fit.values.shape[1] // grid**2
    captioner = train_captioner(
        feature_network(pooled_model(model, channels)), vocabulary, fit.values, [i.captions for i in train], grid=grid,
        epochs=epochs, seed=seed, progress=lambda steps: tracked(steps, "training", progress),
    )  # fmt: skip
    preprocess = getattr(model, "preprocess", None)
    loaded = LoadedModel(captioner, f"{getattr(model, 'name', 'model')}+gru", preprocess=preprocess)
    cells = torch.from_numpy(new.values).view(len(test), channels, grid, grid)
    tokens = captioner.greedy(captioner.encode(cells.to(captioner.mean.device))).cpu()
    predicted = [vocabulary.text(row) for row in tokens.tolist()]
    maps, sizes = word_maps(loaded, test, tokens, predicted, method, batch_size=batch_size, progress=progress)
    scores = _scores(test, predicted, maps, sizes, boxes or {})
    settings = {
        "images": len(test), "train_images": len(train), "words": len(vocabulary.known), "method": method,
        "epochs": epochs, "grid": grid, "seed": seed, "model": describe_model(model),
    }  # fmt: skip
    result = _result(scores, settings)
    result.pictures = {"words.png": _picture(test, predicted, maps, sizes, boxes or {}, method)}
    result.skipped = {**fit.errors, **new.errors}
    return result, loaded


def word_maps(
    model: LoadedModel,
    images: Sequence[CaptionedImage],
    tokens: Tensor,
    predicted: Sequence[Sequence[str]],
    method: str,
    *,
    batch_size: int = 64,
    progress: bool = True,
) -> tuple[list[list[Tensor]], list[tuple[int, int]]]:
    """For each image, the raw map (h, w) of each word; and the size (H, W) of each photo."""
    captioner = model.network
    assert isinstance(captioner, Captioner)
    found: list[list[Tensor]] = [[] for _ in images]
    sizes: list[tuple[int, int]] = []
    for start in tracked(range(0, len(images), batch_size), "maps", progress):
        part = range(start, min(start + batch_size, len(images)))
        photos = [read_image(images[i].source) for i in part]
        sizes += [(photo.height, photo.width) for photo in photos]
        for place in range(max((len(predicted[i]) for i in part), default=0)):
            here = [n for n, i in enumerate(part) if place < len(predicted[i])]
            target = caption_target(captioner, tokens[[part[n] for n in here]], word=place)
            explanation = explain(
                model, [photos[n] for n in here], method=method, layer="trunk", target=target
            )
            for n, raw in zip(here, explanation.maps[:, 0].cpu(), strict=True):
                found[part[n]].append(raw)
    return found, sizes


def _scores(
    images: Sequence[CaptionedImage],
    predicted: Sequence[Sequence[str]],
    maps: Sequence[Sequence[Tensor]],
    sizes: Sequence[tuple[int, int]],
    boxes: Boxes,
) -> dict[str, Interval]:
    """Caption accuracy over images, and pointing accuracy over words that have a box."""
    true = [{" ".join(words(caption)) for caption in image.captions} for image in images]
    exact = [" ".join(one) in those for one, those in zip(predicted, true, strict=True)]
    scores = {"exact": bootstrap_interval(np.asarray(exact, float))}
    pointing, other, area = [], [], []
    for i, image in enumerate(images):
        where = boxes.get(str(image.source), {})
        placed = [(t, word) for t, word in enumerate(predicted[i]) if word in where]
        for t, word in placed:
            mask = box_mask(where[word], sizes[i])[None]
            pointing.append(float(pointing_game(heat(maps[i][t], sizes[i])[None], mask)))
            area.append(float(mask.float().mean()))
            away = [u for u, second in placed if not torch.equal(where[second], where[word])]
            if away:
                other.append(float(pointing_game(heat(maps[i][away[0]], sizes[i])[None], mask)))
    for name, values in (("pointing", pointing), ("other", other), ("area", area)):
        if values:
            scores[name] = bootstrap_interval(values)
    if pointing:
        scores["words"] = Interval(float(len(pointing)), float("nan"), float("nan"))
    return scores


_LABELS = {
    "exact": "the caption matches a true one word for word",
    "pointing": "a word's map points at its object",
    "other": "the map of a word for another object points there",
    "area": "the object's box, share of the area",
}


def _result(scores: dict[str, Interval], settings: dict[str, Any]) -> Result:
    placed = scores.pop("words", None)
    rows, numbers = [], []
    for name, what in _LABELS.items():
        if name in scores:
            score = scores[name]
            rows.append([what, percent(score.value) if name == "area" else spelled(score)])
            numbers.append({"measure": name, **score._asdict()})
    notes = [
        f"A GRU on grid features of a frozen {settings['model']['name']}, trained on {settings['train_images']} "
        f"captioned images ({settings['words']} words); tested on {settings['images']} others.",
        f"Maps: {settings['method']} of the log-probability of each predicted word, given those before it.",
        "In per cent; 95 % bootstrap intervals in brackets, over images (over words for the maps).",
    ]
    if placed is not None:
        notes.insert(2, f"{placed.value:.0f} predicted words have a true box, used only for scoring.")
    return Result("Captions", ["", "result"], rows, settings, notes, numbers)


def _picture(
    images: Sequence[CaptionedImage],
    predicted: Sequence[Sequence[str]],
    maps: Sequence[Sequence[Tensor]],
    sizes: Sequence[tuple[int, int]],
    boxes: Boxes,
    method: str,
) -> PIL.Image.Image:
    """The first five images, one per row: the photo, and the map of each word."""
    rows = []
    for i, image in list(enumerate(images))[:5]:
        photo, where = read_image(image.source), boxes.get(str(image.source), {})
        true = " ".join(predicted[i]) in {" ".join(words(caption)) for caption in image.captions}
        tiles = [Tile(photo, ("✓ right" if true else "✗ wrong",), RIGHT if true else WRONG)]
        for word, raw in list(zip(predicted[i], maps[i], strict=True))[:9]:
            tiles.append(Tile(mapped(photo, heat(raw, sizes[i]), where.get(word)), (word,)))
        rows.append(("", tiles))
    return gallery(rows, f"{method} of each predicted word; true box of its object dashed", label=0, tile=112)
