"""Boxes for the training photos, from a classifier's maps for their known labels. No true box is read."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from sightline.boxes import areas, make_boxes
from sightline.data.images import read_image
from sightline.data.photos import PhotoBatch
from sightline.errors import InputError
from sightline.files import read_text, reader
from sightline.heatmap import make_heatmaps
from sightline.metrics.accumulators import DELTA
from sightline.metrics.localisation import BoxAccuracy, grid_index
from sightline.metrics.protocols import TAUS, sweep_boxes
from sightline.metrics.sweep import best_overlaps
from sightline.models.loading import LoadedModel
from sightline.models.preprocess import Preprocess
from sightline.pipeline import explain
from sightline.progress import tracked
from sightline.reports.output_folder import write_atomically
from sightline.training.data import Photos
from sightline.training.refine_recipe import TeacherOptions
from sightline.types import Dataset, Geometry, Sample

Array = NDArray[Any]
COLUMNS = ("id", "label", "x0", "y0", "x1", "y1", "confidence", "used")


@dataclass(frozen=True)
class PseudoBoxes:
    """One box per photo, x0, y0, x1, y1 relative to its width and height, in the order of ``ids``.

    ``boxes`` (N, 4); ``confidence`` (N,): the classifier's probability of the label; ``used`` (N,) bool.
    """

    ids: tuple[str, ...]
    labels: tuple[int, ...]
    boxes: Tensor
    confidence: Tensor
    used: Tensor

    def save(self, path: Path) -> None:
        """Write a CSV, atomically."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        for i, (name, label) in enumerate(zip(self.ids, self.labels, strict=True)):
            edges = [f"{edge:.6f}" for edge in self.boxes[i].tolist()]
            writer.writerow([name, label, *edges, f"{float(self.confidence[i]):.6f}", int(self.used[i])])
        write_atomically(path, lambda file: file.write(text.getvalue().encode()))


@reader
def read_pseudo_boxes(path: Path) -> PseudoBoxes:
    """Read what `PseudoBoxes.save` wrote; raises `InputError` for any other file."""
    header, *rows = list(csv.reader(io.StringIO(read_text(path), newline=""))) or [[]]
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
    """The box of each photo from ``model``'s maps for its label, at ``threshold``.

    Only the samples' ``id``, ``source`` and ``label`` are read. If a map is blank, the box is the
    whole photo, and it is not used.
    """
    labels = labels_for(model, dataset)
    boxes, confidence = [], []
    with torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=options.half):
        for batch in _heatmaps(model, dataset.samples, labels, options, photos):
            boxes.append(boxes_at(batch.heatmaps.float(), threshold, options))
            confidence.append(batch.confidence)
    found, sure = torch.cat(boxes), torch.cat(confidence)
    used = is_plausible(found, options.area) & (sure >= options.min_confidence)
    shown = found.clone()
    shown[found.isnan().any(1)] = found.new_tensor([0.0, 0.0, 1.0, 1.0])
    own = tuple(s.label for s in dataset.samples if s.label is not None)
    return PseudoBoxes(tuple(s.id for s in dataset.samples), own, shown, sure, used)


def choose_threshold(
    model: LoadedModel, held_out: Dataset, options: TeacherOptions, grid: Sequence[float] | None = None
) -> tuple[float, dict[float, float]]:
    """The threshold whose boxes match (IoU ≥ 0.5) most true boxes of ``held_out``, and each threshold's share.

    All 1,000 thresholds of `TAUS`, or only those of ``grid``, are scored in one pass over each map. Ties go to the
    lowest. This is the only place where true boxes are read: those of a held-out part of the training set, and only
    this one number is taken from them.
    """
    lacking = next((sample for sample in held_out.samples if len(sample.boxes_xyxy) == 0), None)
    if lacking is not None:
        raise InputError(
            f"{held_out.name} {held_out.split}: {lacking.id} has no box to choose a threshold by; "
            "give teacher.threshold"
        )
    accuracy, samples = BoxAccuracy("exact", (DELTA,)), iter(held_out.samples)
    for batch in _heatmaps(model, held_out.samples, labels_for(model, held_out), options):
        each = zip(batch.heatmaps, batch.sizes_hw, samples, strict=False)
        accuracy.add_ious(np.stack([_swept_ious(*one, options) for one in each]))
    tried = TAUS if grid is None else grid
    shares = {round(float(tau), 3): float(accuracy.accuracies[0, grid_index(tau)]) for tau in tried}
    return max(shares, key=lambda tau: (shares[tau], -tau)), shares


def _swept_ious(heatmap: Tensor, photo_hw: tuple[int, int], sample: Sample, options: TeacherOptions) -> Array:
    """The best IoU of a photo's box with a true one, at every threshold: (1000,).

    The heatmap is a mean of normalised ones, so it is only scaled here. With ``options.spread`` the three thresholds
    are the nearest on the grid.
    """
    height, width = photo_hw
    place = Geometry(photo_hw, (heatmap.shape[0], heatmap.shape[1]), (0.0, 0.0, float(width), float(height)))
    boxes = sweep_boxes(heatmap.float(), place, replace(options.rule(0.0), normalise="max"))
    if options.spread:
        places = np.arange(len(TAUS))[:, None] * np.array([1 - options.spread, 1.0, 1 + options.spread])
        three = boxes[np.minimum(places.round().astype(np.int64), len(TAUS) - 1)]
        boxes = torch.from_numpy(three).nanmedian(1).values.numpy()
    return np.asarray(best_overlaps(np.nan_to_num(boxes), sample.boxes_xyxy.double().numpy(), 0.0))


def boxes_at(heatmaps: Tensor, threshold: float, options: TeacherOptions) -> Tensor:
    """One box per heatmap (N, H, W), relative (N, 4); NaN if nothing is above the threshold.

    With ``options.spread`` s: the median, edge by edge, of the boxes at (1 - s)·τ, τ and (1 + s)·τ.

    >>> boxes_at(torch.tensor([[[0.1, 1.0, 1.0, 0.1]]]), 0.5, TeacherOptions())
    tensor([[0.2500, 0.0000, 0.7500, 1.0000]])
    """
    height, width = heatmaps.shape[-2:]
    factors = (1 - options.spread, 1.0, 1 + options.spread) if options.spread else (1.0,)
    every = []
    for factor in factors:
        found = make_boxes(heatmaps[:, None], options.rule(min(1.0, threshold * factor)))
        empty = heatmaps.new_full((4,), float("nan")).cpu()
        every.append(torch.stack([row[0][0] if len(row[0]) else empty for row in found]))
    boxes = torch.stack(every).nanmedian(0).values
    return boxes / boxes.new_tensor([width, height, width, height])


def is_plausible(boxes: Tensor, area: Sequence[float]) -> Tensor:
    """Whether each box's area (N, 4), relative to the photo, is within ``area``; False for no box (NaN).

    >>> is_plausible(torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0]]), [0.1, 0.9])
    tensor([ True, False])
    """
    shares = areas(boxes)
    return (shares >= area[0]) & (shares <= area[1])


def labels_for(model: LoadedModel, dataset: Dataset) -> Tensor:
    """Each sample's label as ``model``'s index of that class, (N,) int64."""
    names = model.categories
    if names is None:
        raise InputError(f"model {model.name} has no class names to match with those of {dataset.name}")
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
    """The model's preprocessing; raises `InputError` if it has none."""
    if model.preprocess is None:
        raise InputError(f"model {model.name} does not say how photos are prepared for it")
    return model.preprocess


class _Heatmaps(NamedTuple):
    """Averaged heatmaps (n, H, W) on the CPU, the probability (n,) of each photo's label, and the photo sizes."""

    heatmaps: Tensor
    confidence: Tensor
    sizes_hw: list[tuple[int, int]]


def _heatmaps(
    model: LoadedModel,
    samples: Sequence[Sample],
    labels: Tensor,
    options: TeacherOptions,
    photos: Photos | None = None,
) -> Iterator[_Heatmaps]:
    """The classifier's heatmaps of its photos, batch by batch."""
    for start in tracked(range(0, len(samples), options.batch_size), "maps"):
        part = range(start, min(start + options.batch_size, len(samples)))
        batch = [read_image(samples[i].source) if photos is None else photos[i] for i in part]
        averaged = average_heatmaps(model, batch, labels[part.start : part.stop], options)
        yield _Heatmaps(*averaged, [(photo.height, photo.width) for photo in batch])


def average_heatmaps(
    model: LoadedModel, photos: Sequence[Image.Image], labels: Tensor, options: TeacherOptions
) -> tuple[Tensor, Tensor]:
    """The mean heatmap (N, H, W) over every method, size and mirror image, and the mean probability (N,)."""
    preprocess = preprocess_of(model)
    where = next(model.parameters()).device
    sizes = [(side, side) for side in options.sizes] or [preprocess.input_hw]
    size_hw = (max(h for h, _ in sizes), max(w for _, w in sizes))
    labels = labels.to(where)
    heatmaps, confidence = [], []
    for input_hw in sizes:
        sized = replace(preprocess, input_hw=input_hw)
        for mirrored in (False, True) if options.flip else (False,):
            # The photos themselves, not only tensors: a method with ``scales`` reads them at its own sizes.
            seen = [ImageOps.mirror(photo) for photo in photos] if mirrored else photos
            shown = PhotoBatch.load(seen, sized).to(where)
            for method in options.methods:
                found = explain(
                    model, shown, method, classes=labels[:, None], **options.options.get(method, {})
                )
                maps = found.maps[:, 0].flip(-1) if mirrored else found.maps[:, 0]
                heatmaps.append(make_heatmaps(maps, size_hw, options.normalise, options.percentile))
                if found.scores is not None:
                    confidence.append(found.scores[:, 0])
    return torch.stack(heatmaps).mean(0).cpu(), torch.stack(confidence).mean(0).cpu()
