"""Boxes for the training photos, from the maps of a classifier for their known label. No true box is read."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightline.boxes import areas, best_ious, make_boxes
from sightline.data.photos import read_image
from sightline.errors import InputError
from sightline.heatmap import make_heatmaps
from sightline.models.loading import LoadedModel
from sightline.models.preprocess import Preprocess
from sightline.pipeline import explain
from sightline.progress import tracked
from sightline.reports.output_folder import write_atomically
from sightline.training.data import Photos
from sightline.training.refine_recipe import TeacherOptions
from sightline.types import BoxRule, Dataset, Sample

GRID = tuple(float(t) for t in np.round(np.arange(0.02, 0.96, 0.02), 2))  # the thresholds to choose from
COLUMNS = ("id", "label", "x0", "y0", "x1", "y1", "confidence", "used")


@dataclass(frozen=True)
class PseudoBoxes:
    """One box a photo, x0, y0, x1, y1 as shares of its width and height, in the order of ``ids``.

    ``boxes`` (N, 4); ``confidence`` (N,): the classifier's probability of the label; ``used`` (N,) bool.
    """

    ids: tuple[str, ...]
    labels: tuple[int, ...]
    boxes: Tensor
    confidence: Tensor
    used: Tensor

    def save(self, path: Path) -> None:
        """Write a CSV, whole or not at all."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        for i, (name, label) in enumerate(zip(self.ids, self.labels, strict=True)):
            edges = [f"{edge:.6f}" for edge in self.boxes[i].tolist()]
            writer.writerow([name, label, *edges, f"{float(self.confidence[i]):.6f}", int(self.used[i])])
        write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def read_pseudo_boxes(path: Path) -> PseudoBoxes:
    """What `PseudoBoxes.save` wrote; raises `InputError` for another file."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if tuple(header) != COLUMNS or not rows:
        raise InputError(f"{path} holds no pseudo-boxes; expected the columns {', '.join(COLUMNS)}")
    numbers = torch.tensor([[float(value) for value in row[2:]] for row in rows])
    return PseudoBoxes(
        tuple(row[0] for row in rows),
        tuple(int(row[1]) for row in rows),
        numbers[:, :4],
        numbers[:, 4],
        numbers[:, 5] > 0,
    )


def pseudo_boxes(
    model: LoadedModel,
    dataset: Dataset,
    options: TeacherOptions,
    threshold: float,
    photos: Photos | None = None,
) -> PseudoBoxes:
    """The box that the maps of ``model`` give each photo for its label, cut at ``threshold``.

    Of the samples only ``id``, ``source`` and ``label`` are read. Where the map shows nothing the box is the
    whole photo, and it is not used.
    """
    labels = labels_for(model, dataset)
    boxes, confidence = [], []
    with torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=options.half):
        for heatmaps, probable in _heatmaps(model, dataset.samples, labels, options, photos):
            boxes.append(boxes_at(heatmaps.float(), threshold, options))
            confidence.append(probable)
    found, sure = torch.cat(boxes), torch.cat(confidence)
    used = is_plausible(found, options.area) & (sure >= options.min_confidence)
    shown = found.clone()
    shown[found.isnan().any(1)] = found.new_tensor([0.0, 0.0, 1.0, 1.0])
    own = tuple(s.label for s in dataset.samples if s.label is not None)
    return PseudoBoxes(tuple(s.id for s in dataset.samples), own, shown, sure, used)


def choose_threshold(
    model: LoadedModel,
    held_out: Dataset,
    options: TeacherOptions,
    grid: Sequence[float] = GRID,
) -> tuple[float, dict[float, float]]:
    """The threshold whose boxes fit (IoU ≥ 0.5) most true boxes of ``held_out``, and the share of each tried.

    This is the one place where true boxes are read: those of a held-out part of the training set, from which
    nothing but this one number is taken. Of equals the lowest wins.
    """
    heatmaps, truth = [], []
    for batch, _ in _heatmaps(model, held_out.samples, labels_for(model, held_out), options):
        heatmaps.append(batch)
    for sample in held_out.samples:
        if len(sample.boxes_xyxy) == 0:
            raise InputError(
                f"{held_out.name} {held_out.split}: {sample.id} has no box to choose a threshold by; "
                "give teacher.threshold"
            )
        truth.append(as_shares(sample.boxes_xyxy, read_image(sample.source)))
    shares = {}
    for threshold in grid:
        boxes = torch.cat([boxes_at(batch, threshold, options) for batch in heatmaps])
        shares[threshold] = float((best_ious(boxes, truth) >= 0.5).double().mean())
    return max(shares, key=lambda t: (shares[t], -t)), shares


def as_shares(boxes_xyxy: Tensor, photo: Image.Image) -> Tensor:
    """Boxes (B, 4) in pixels of ``photo`` as shares of its width and height; IoU is the same there.

    >>> as_shares(torch.tensor([[0.0, 0.0, 2.0, 8.0]]), Image.new("RGB", (4, 8)))
    tensor([[0.0000, 0.0000, 0.5000, 1.0000]])
    """
    return boxes_xyxy / boxes_xyxy.new_tensor([photo.width, photo.height, photo.width, photo.height])


def boxes_at(heatmaps: Tensor, threshold: float, options: TeacherOptions) -> Tensor:
    """One box for each heatmap of (N, H, W), as shares (N, 4); NaN where nothing is left.

    With ``options.spread`` s: the median, edge by edge, of the boxes at (1 - s)·τ, τ and (1 + s)·τ.

    >>> boxes_at(torch.tensor([[[0.1, 1.0, 1.0, 0.1]]]), 0.5, TeacherOptions())
    tensor([[0.2500, 0.0000, 0.7500, 1.0000]])
    """
    height, width = heatmaps.shape[-2:]
    factors = (1 - options.spread, 1.0, 1 + options.spread) if options.spread else (1.0,)
    every = []
    for factor in factors:
        rule = BoxRule(min(1.0, threshold * factor), options.standard, percentile=options.percentile)
        found = make_boxes(heatmaps[:, None], rule)
        empty = heatmaps.new_full((4,), float("nan")).cpu()
        every.append(torch.stack([row[0][0] if len(row[0]) else empty for row in found]))
    boxes = torch.stack(every).nanmedian(0).values
    return boxes / boxes.new_tensor([width, height, width, height])


def is_plausible(boxes: Tensor, area: Sequence[float]) -> Tensor:
    """Whether the area of each box (N, 4), a share of the photo, is within ``area``; False for no box (NaN).

    >>> is_plausible(torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0]]), [0.1, 0.9])
    tensor([ True, False])
    """
    shares = areas(boxes)
    return (shares >= area[0]) & (shares <= area[1])


def labels_for(model: LoadedModel, dataset: Dataset) -> Tensor:
    """The label of each sample as the number that ``model`` gives that class, (N,) int64."""
    names = model.categories
    if names is None:
        raise InputError(
            f"model {model.name} has no class names; it cannot be told what {dataset.name} shows"
        )
    lacking = [name for name in dataset.categories if name not in names]
    wanted = {s.label for s in dataset.samples}
    for name in lacking:
        if dataset.categories.index(name) in wanted:
            raise InputError(
                f"model {model.name} was not trained on class {name!r} of {dataset.name} {dataset.split}"
            )
    number = {i: names.index(name) for i, name in enumerate(dataset.categories) if name in names}
    labels = []
    for sample in dataset.samples:
        if sample.label is None:
            raise InputError(f"{dataset.name} {dataset.split}: {sample.id} has no label; its map needs one")
        labels.append(number[sample.label])
    return torch.tensor(labels, dtype=torch.int64)


def preprocess_of(model: LoadedModel) -> Preprocess:
    """The model's preprocessing, or `InputError` where it has none."""
    if model.preprocess is None:
        raise InputError(f"model {model.name} does not say how photos are prepared for it")
    return model.preprocess


def _heatmaps(
    model: LoadedModel,
    samples: Sequence[Sample],
    labels: Tensor,
    options: TeacherOptions,
    photos: Photos | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of averaged heatmaps (n, H, W) on the CPU, and the probability (n,) of each photo's label."""
    for start in tracked(range(0, len(samples), options.batch_size), "maps"):
        part = range(start, min(start + options.batch_size, len(samples)))
        batch = [read_image(samples[i].source) if photos is None else photos[i] for i in part]
        yield average_heatmaps(model, batch, labels[part.start : part.stop], options)


def average_heatmaps(
    model: LoadedModel, photos: Sequence[Image.Image], labels: Tensor, options: TeacherOptions
) -> tuple[Tensor, Tensor]:
    """The mean heatmap (N, H, W) of every method, size and mirror image, and the mean probability (N,)."""
    preprocess = preprocess_of(model)
    where = next(model.parameters()).device
    sizes = [(side, side) for side in options.sizes] or [preprocess.input_hw]
    size_hw = (max(h for h, _ in sizes), max(w for _, w in sizes))
    labels = labels.to(where)
    heatmaps, confidence = [], []
    for input_hw in sizes:
        sized = replace(preprocess, input_hw=input_hw)
        images = torch.stack([sized.prepare(photo)[0] for photo in photos]).to(where)
        for mirrored in (False, True) if options.flip else (False,):
            shown = images.flip(-1) if mirrored else images
            for method in options.methods:
                found = explain(
                    model, shown, method, classes=labels[:, None], **options.options.get(method, {})
                )
                maps = found.maps[:, 0].flip(-1) if mirrored else found.maps[:, 0]
                heatmaps.append(make_heatmaps(maps, size_hw, options.normalise, options.percentile))
                if found.scores is not None:
                    confidence.append(found.scores[:, 0])
    return torch.stack(heatmaps).mean(0).cpu(), torch.stack(confidence).mean(0).cpu()
