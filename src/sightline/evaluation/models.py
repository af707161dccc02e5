"""A model and its methods, scored in one pass over the photos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sightline.boxes import five_guesses
from sightline.data.class_names import way_out
from sightline.data.classes import match_classes
from sightline.data.images import PhotoSource
from sightline.data.photos import PhotoBatch
from sightline.engine import logits_with_graph
from sightline.errors import InputError
from sightline.evaluation.counting import (
    Batch,
    Counts,
    OnProgress,
    Skipped,
    box_outside,
    boxes_of,
    chunks,
    true_mask,
    update,
)
from sightline.evaluation.options import Line, Scoring
from sightline.heatmap import make_heatmaps
from sightline.inspection.guard import unwrapped
from sightline.methods.combinators import Maps
from sightline.methods.observation import observe_for, shareable, shared_passes
from sightline.methods.registry import get_method
from sightline.methods.spec import MethodSpec
from sightline.metrics.ilsvrc import ILSVRC
from sightline.metrics.protocols import in_threads
from sightline.models.loading import LoadedModel
from sightline.models.preprocess import Preprocess
from sightline.pipeline import explain
from sightline.scores import rule_for
from sightline.types import Dataset, Sample

if TYPE_CHECKING:
    pass

GUESSED = 3  # the heuristics use boxes of the three most probable classes only


class ModelSource:
    """A model and its methods: rows = methods × box rules, all scored in one pass over the photos."""

    def __init__(self, name: str, model: LoadedModel, specs: Sequence[MethodSpec], scoring: Scoring) -> None:
        self.name, self.model, self.scoring, self.options = name, model, scoring, scoring.options
        self.preprocess = _preprocess(model, scoring.options.input_size)
        self.specs = list(specs) if scoring.truth != "none" else []
        self.makers = [map_maker(spec) for spec in self.specs]
        self.lines = [
            line
            for number, spec in enumerate(self.specs)
            for line in scoring.lines(spec.label, number, spec.rule)
        ] or [Line("")]
        self.outputs, self.score_rule = _outputs(self)
        self._matched: dict[tuple[str, ...], list[int]] = {}

    @property
    def guessing(self) -> bool:
        """Whether the authors' five guesses are made: they need the maps of other classes."""
        chosen = self.options.protocol == "exact" and not self.options.gt_only
        return self.scoring.truth == "boxes" and chosen

    def match(self, dataset: Dataset) -> list[int]:
        """The model's output index for each class of the data set; raises `InputError` if there is none."""
        known = self._matched.get(dataset.categories)  # looked up for every batch
        if known is None:
            known = match_classes(
                dataset.categories,
                self.model.categories,
                self.outputs,
                self.name,
                way_out(dataset.categories),
            )
            self._matched[dataset.categories] = known
        return known

    def score(
        self,
        dataset: Dataset,
        indices: Sequence[int],
        shown: Sequence[float],
        skipped: Skipped,
        advance: OnProgress,
    ) -> Counts:
        """Score the images; ``shown``: for each row, the τ at which its IoUs are stored."""
        counted = Counts([self.scoring.tally(line, tau) for line, tau in zip(self.lines, shown, strict=True)])
        counted.guesses = [ILSVRC(keep=True) for _ in self.specs] if self.guessing else []
        for chunk in chunks(indices, self.options.batch_size):
            batch = self.read(dataset, chunk, skipped)
            if batch.indices:
                self._count(batch, self.labels(dataset, batch), counted)
            advance(len(chunk))
        return counted

    def _count(self, batch: Batch, labels: Tensor, counted: Counts) -> None:
        with shared_passes():
            self._count_shared(batch, labels, counted)

    def _count_shared(self, batch: Batch, labels: Tensor, counted: Counts) -> None:
        ranked = self.ranked(batch.images)
        counted.add(batch, ranked == labels[:, None])
        classes = torch.cat([labels[:, None], ranked[:, : GUESSED if self.guessing else 0]], 1)
        for number in range(len(self.specs)):
            maps = self._maps(number, batch, classes)
            if self.guessing:
                self._guess(counted.guesses[number], maps[:, 1:], ranked, labels, batch)
            for line, tally in zip(self.lines, counted.tallies, strict=True):
                if line.spec == number:
                    update(tally, list(maps[:, 0]), batch)

    def _maps(self, number: int, batch: Batch, classes: Tensor) -> Tensor:
        """One method's maps (N, K, h, w), on the CPU; photos are read again for other input sizes."""
        sources: list[PhotoSource] = [sample.source for sample in batch.samples]
        photos = PhotoBatch(batch.images, batch.geometries, sources=sources, view=self.options.view)
        classes = classes.to(batch.images.device)
        return explain(self.model, photos, self.specs[number], classes=classes).maps.cpu()

    def ranked(self, images: Tensor) -> Tensor:
        """The five most probable classes of each image, or all if there are fewer: (N, ≤ 5)."""
        logits = self._shared_logits(images)
        if logits is None:
            with torch.no_grad():
                logits = self.model(images)
        return logits.topk(min(5, self.outputs), dim=1).indices.cpu()

    def _shared_logits(self, images: Tensor) -> Tensor | None:
        """The logits of the forward pass that the methods share; None if none of them can."""
        plain = (spec for spec in self.specs if not spec.layers and not spec.scales)
        method = next((m for m in (get_method(spec.name) for spec in plain) if shareable(m)), None)
        return None if method is None else observe_for(method, self.model.network, images)[0].logits

    def _guess(self, score: ILSVRC, maps: Tensor, ranked: Tensor, labels: Tensor, batch: Batch) -> None:
        """Count the five guesses: loose₁, tight₁, loose₂, tight₂, loose₃ of the most probable classes."""
        rule, input_hw = self.scoring.rules[0], batch.geometries[0].input_hw
        heatmaps = make_heatmaps(maps, input_hw, rule.normalise, rule.percentile)
        heatmaps = torch.cat([heatmaps, heatmaps.new_zeros(len(maps), 5 - maps.shape[1], *input_hw)], 1)
        classes = torch.cat([ranked, ranked.new_full((len(ranked), 5 - ranked.shape[1]), -1)], 1)
        guesses = [five_guesses(one, "heuristics") for one in heatmaps]
        boxes = [g.to_photo(one.boxes_xyxy) for g, one in zip(batch.geometries, guesses, strict=True)]
        chosen = torch.stack([row[one.class_ranks] for row, one in zip(classes, guesses, strict=True)])
        score.update(chosen, torch.stack(boxes), labels, [sample.boxes_xyxy for sample in batch.samples])

    def look(
        self, dataset: Dataset, indices: Sequence[int], line: Line, tau: float
    ) -> list[tuple[Tensor, str | None]]:
        """A few images once more: the predicted boxes (B, 4) in photo pixels and the predicted class's name."""
        batch = self.read(dataset, indices, Skipped("refuse"))
        outputs, labels = self.match(dataset), self.labels(dataset, batch)
        with shared_passes():
            maps = self._maps(line.spec, batch, labels[:, None])
            first = self.ranked(batch.images)[:, 0].tolist()
        boxes = [
            boxes_of(one, geometry, line.at(tau))
            for one, geometry in zip(maps[:, 0], batch.geometries, strict=True)
        ]
        back = {output: dataset.categories[label] for label, output in enumerate(outputs)}
        names = self.model.categories or [f"class {index}" for index in range(self.outputs)]
        return [(box, back.get(index, names[index])) for box, index in zip(boxes, first, strict=True)]

    def labels(self, dataset: Dataset, batch: Batch) -> Tensor:
        """The model's output index of each image's true class, (N,) int64."""
        outputs = self.match(dataset)
        return torch.tensor([outputs[sample.label or 0] for sample in batch.samples])

    def read(
        self, dataset: Dataset, indices: Sequence[int], skipped: Skipped, keep_photos: bool = False
    ) -> Batch:
        """The images that can be scored, preprocessed; the others are added to ``skipped``."""
        samples, workers = [dataset[index] for index in indices], self.options.workers
        photos = PhotoBatch.load(
            [sample.source for sample in samples],
            self.preprocess,
            self.options.view,
            workers=workers,
            keep_photos=keep_photos,
            on_error="collect",
        )

        def fault(row: int) -> str | None:
            return _fault(samples[photos.indices[row]], photos.geometries[row].photo_hw, self.scoring.truth)

        faults = dict(zip(photos.indices, in_threads(fault, range(len(photos)), workers), strict=True))
        for place, reason in sorted({**photos.errors, **faults}.items()):
            if reason is not None:
                skipped.add({indices[place]: reason})
        usable = [row for row, place in enumerate(photos.indices) if faults[place] is None]
        chosen, batch = photos.select(usable).to(self.model), Batch()
        for place, geometry in zip(chosen.indices, chosen.geometries, strict=True):
            batch.add(indices[place], samples[place], geometry)
        batch.photos = chosen.photos or []
        batch.images = chosen.images
        return batch


def _fault(sample: Sample, photo_hw: tuple[int, int], truth: str) -> str | None:
    """Why this image cannot be scored although its photo can be read, in one line, or None."""
    try:
        if truth == "masks":
            true_mask(sample)  # only to find out whether it can be read
        return box_outside(sample, photo_hw)
    except InputError as error:
        return str(error)


def map_maker(spec: MethodSpec) -> Maps:
    """The spec, with its combinators, as a function of a model, images and classes."""

    def maps(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
        return explain(model, images, spec, classes=classes, layer=layer).maps

    return maps


def _preprocess(model: LoadedModel, input_size: int | None) -> Preprocess:
    """The model's preprocessing, at another input size if given (the resize before a crop scales with it)."""
    own = model.preprocess
    if own is None:
        raise InputError(f"{model.name} has no preprocessing; give one: load_model(model, transform=...)")
    if input_size is None:
        return own
    if not own.resizes:
        raise InputError(
            f"{model.name} prepares photos with its own code, whose input size cannot be changed"
        )
    return own.at_size((input_size, input_size))


def _outputs(source: ModelSource) -> tuple[int, str]:
    """The number of classes, and how they become probabilities, found by running one empty image of the input size."""
    like = next(source.model.parameters(), torch.zeros(0))
    height, width = source.preprocess.input_hw
    blank = torch.zeros(1, len(source.preprocess.mean), height, width).to(like.device, like.dtype)
    try:
        with torch.no_grad():
            logits = source.model(blank)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{source.name} does not accept an input of {height}×{width}: {reason}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise InputError(f"{source.name} returns no class scores (N, C); only classifiers can be evaluated")
    network = unwrapped(source.model.network)
    rule = rule_for(logits, source.model.scores, lambda: logits_with_graph(network, blank))
    return logits.shape[1], rule.name
