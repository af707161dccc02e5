"""`audit`: what a model looks at, by class, on a labelled data set; with everything an auditor has to state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.boxes import iou, make_boxes
from sightline.data.classes import match_classes
from sightline.data.photos import VIEWS
from sightline.errors import InputError, unknown
from sightline.evaluation.audit_report import Audit, ClassAudit
from sightline.evaluation.randomisation import randomisation_check
from sightline.explanation import Explanation
from sightline.methods.spec import parse_method
from sightline.metrics.bootstrap import Interval, bootstrap_interval, paired_difference
from sightline.metrics.calibration import calibration
from sightline.metrics.complexity import border_share, entropy, gini
from sightline.metrics.pointing import energy_in_mask
from sightline.metrics.sanity import max_sensitivity
from sightline.models.loading import LoadedModel
from sightline.pictures.contact_sheet import Case
from sightline.pipeline import explain, load_photos
from sightline.types import BoxRule, Dataset, Geometry, Sample

Progress = Callable[[int, int], None]
SUSPECT_BORDER = 0.38  # twice the frame's area
FEWEST = 5  # images of a class, below which the bootstrap says nothing


@dataclass(frozen=True)
class AuditOptions:
    """What an audit measures; validated on construction.

    ``method``, ``rule``, ``view``: as in `explain`; the true class's map is measured. ``limit``: at most N images,
    evenly spaced. ``checked``: images of the randomisation check and of the sensitivity; 0 leaves both out.
    ``pictures``: how many photos of a suspect class are shown.
    """

    method: str = "gradcam"
    rule: BoxRule = field(default_factory=BoxRule)
    view: str = "whole"
    limit: int | None = None
    batch_size: int = 16
    checked: int = 8
    pictures: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        parse_method(self.method)
        if self.view not in VIEWS:
            raise unknown("view", self.view, VIEWS)
        if self.batch_size < 1 or (self.limit is not None and self.limit < 1) or self.checked < 0:
            raise InputError("batch_size and limit: expected 1 or more; checked: 0 or more")


@dataclass
class _Measured:
    """One image: per-image numbers, NaN where there is none."""

    sample: Sample
    label: int
    correct: bool
    confidence: float
    numbers: dict[str, float]
    boxes: list[list[float]]
    predicted: str


def audit(
    model: LoadedModel,
    dataset: Dataset,
    options: AuditOptions | None = None,
    *,
    progress: Progress | None = None,
    **changes: Any,
) -> Audit:
    """Measure accuracy, localisation, where the heat lies, calibration and two sanity checks; returns an `Audit`.

    Heat is the true class's map, normalised by its maximum (negative values 0), at the network's input size. With true
    boxes: ``heat_in_box``, the share of heat inside them, ``box_area``, the share of the input they cover, and
    ``gt_known``, whether the box has IoU ≥ 0.5. ``heat_on_border``: the share in a frame of 5 %, 19 % of the area.
    ``blank``: the share of maps without a positive value, which have no heat to measure.
    A class is a **suspect** if its heat prefers the surroundings (``heat_in_box`` < ``box_area``) or lies on the border
    (``heat_on_border`` > 0.38); a **sure** one if the 95 % bootstrap interval over its images, five or more, does too.
    Raises `InputError` for classes that the model lacks.
    """
    names = [one.name for one in fields(AuditOptions)]
    for name in changes:
        if name not in names:
            raise unknown("audit option", name, names)
    options = replace(options or AuditOptions(), **changes)
    if not len(dataset):
        raise InputError(f"{dataset.name} {dataset.split} has no images")
    count = len(dataset) if options.limit is None else min(options.limit, len(dataset))
    indices = [place * len(dataset) // count for place in range(count)]
    run = _Run(model, dataset, options)
    for start in range(0, len(indices), options.batch_size):
        run.measure(indices[start : start + options.batch_size])
        if progress is not None:
            progress(min(start + options.batch_size, len(indices)), len(indices))
    return run.result(len(indices))


class _Run:
    def __init__(self, model: LoadedModel, dataset: Dataset, options: AuditOptions) -> None:
        self.model, self.dataset, self.options = model, dataset, options
        self.rule = options.rule.or_defaults_of(parse_method(options.method).rule)
        self.matched: list[int] | None = None
        self.found: list[_Measured] = []
        self.skipped: dict[str, str] = {}
        self.digests: list[str] = []
        self.images: list[Tensor] = []
        self.classes: list[int] = []
        self.probabilities = True

    def measure(self, indices: list[int]) -> None:
        """One batch of images."""
        samples = [self.dataset[i] for i in indices]
        for sample in samples:
            if sample.label is None:
                self.skipped[sample.id] = "no label"
        samples = [sample for sample in samples if sample.label is not None]
        if not samples:
            return
        sources = [sample.source for sample in samples]
        photos = load_photos(self.model, sources, self.options.view, on_error="collect", checksums=True)
        self.skipped |= {samples[place].id: why for place, why in photos.errors.items()}
        samples = [samples[place] for place in photos.indices]
        if not samples:
            return
        self.digests += [f"{s.id} {digest}" for s, digest in zip(samples, photos.sha256, strict=True)]
        photos = photos.to(self.model)
        labels = torch.tensor([self._own(sample) for sample in samples])
        explanation = explain(self.model, photos, self.options.method, labels[:, None])
        self.found += self._measured(explanation, samples, labels.tolist())
        room = max(self.options.checked - sum(map(len, self.images)), 0)
        if room:
            self.images.append(photos.images[:room])
            self.classes += labels[:room].tolist()

    def _own(self, sample: Sample) -> int:
        """The model's output for the sample's class."""
        if self.matched is None:
            outputs = self._outputs()
            self.matched = match_classes(
                self.dataset.categories, self.model.categories, outputs, self.model.name
            )
        assert sample.label is not None
        return self.matched[sample.label]

    def _outputs(self) -> int:
        if self.model.categories:
            return len(self.model.categories)
        height, width = self.model.preprocess.input_hw  # type: ignore[union-attr]
        like = next(self.model.parameters())
        with torch.no_grad():
            return int(self.model(torch.zeros(1, 3, height, width).to(like)).shape[1])

    def _measured(
        self, explanation: Explanation, samples: list[Sample], labels: list[int]
    ) -> Iterator[_Measured]:
        logits, score_rule = explanation.logits, explanation.score_rule
        if logits is None or score_rule is None:
            raise InputError("the network has no scores (N, C); an audit needs a classifier")
        self.probabilities &= score_rule.gives_probabilities
        best = score_rule.probabilities(logits.float()).max(1)
        heat = explanation.heatmaps(normalise="max")[:, 0].float().cpu()
        spread = {"heat_on_border": border_share(heat), "gini": gini(heat), "entropy": entropy(heat)}
        ruled = explanation.heatmaps(normalise=self.rule.normalise, percentile=self.rule.percentile)
        boxes = make_boxes(ruled, self.rule)
        for i, (sample, label) in enumerate(zip(samples, labels, strict=True)):
            own = explanation.geometries[i].to_photo(boxes[i][0])
            numbers = {name: float(values[i]) for name, values in spread.items()}
            numbers["blank"] = float(not bool(heat[i].any()))
            if len(sample.boxes_xyxy):
                numbers |= _on_object(heat[i], own, sample, explanation.geometries[i])
            index = int(best.indices[i])
            names = explanation.categories
            yield _Measured(
                sample,
                int(sample.label or 0),
                index == label,
                float(best.values[i]),
                numbers,
                own.tolist(),
                names[index] if names else f"class {index}",
            )

    def result(self, asked: int) -> Audit:
        """Everything, after the last batch."""
        if not self.found:
            raise InputError(f"no image of {self.dataset.name} {self.dataset.split} could be measured")
        confidence = torch.tensor([one.confidence for one in self.found])
        correct = torch.tensor([one.correct for one in self.found])
        classes = [self._class(label) for label in sorted({one.label for one in self.found})]
        images = torch.cat(self.images) if self.images else torch.empty(0)
        digest = hashlib.sha256("\n".join(sorted(self.digests)).encode()).hexdigest()
        settings = {
            "dataset": self.dataset.name,
            "split": self.dataset.split,
            "images": len(self.found),
            "available": len(self.dataset),
            "asked": asked,
            "data_sha256": digest,
            "method": self.options.method,
            "view": self.options.view,
            "rule": self.rule.as_dict(),
            "checked": len(images),
            "seed": self.options.seed,
            "model": self.model.describe(),
        }
        return Audit(
            settings,
            classes,
            {"accuracy": float(correct.double().mean()), **_means(self.found)},
            calibration(confidence, correct) if self.probabilities else None,
            randomisation_check(self.model, images, [self.options.method], seed=self.options.seed)
            if len(images)
            else None,
            self._sensitivity(images) if len(images) else None,
            {
                self.dataset.categories[one.label]: self._cases(one.label)
                for one in self.found
                if any(c.suspect and c.label == one.label for c in classes)
            },
            self.skipped,
        )

    def _class(self, label: int) -> ClassAudit:
        of = [one for one in self.found if one.label == label]
        reasons, sure = [], False
        pairs = _numbers(of, "heat_in_box", "box_area")
        if len(pairs):
            away = paired_difference(pairs[:, 0], pairs[:, 1])
            if away.value < 0:
                reasons.append(
                    f"{pairs[:, 0].mean():.1%} of the heat is in the object, which covers {pairs[:, 1].mean():.1%}"
                    f" (difference {_ends(away)})"
                )
                sure |= away.high < 0 and len(pairs) >= FEWEST
        border = _numbers(of, "heat_on_border")[:, 0]
        if len(border):
            share = bootstrap_interval(border)
            if share.value > SUSPECT_BORDER:
                reasons.append(f"{share.value:.0%} of the heat is on the border ({_ends(share)})")
                sure |= share.low > SUSPECT_BORDER and len(border) >= FEWEST
        accuracy = sum(one.correct for one in of) / len(of)
        return ClassAudit(
            label,
            self.dataset.categories[label],
            len(of),
            {"accuracy": accuracy, **_means(of)},
            reasons,
            sure,
        )

    def _cases(self, label: int) -> list[Case]:
        """Photos of a class: those with the least heat in the object, or the most on the border, first."""
        of = [one for one in self.found if one.label == label]
        of = [one for one in of if not one.numbers["blank"]]
        of.sort(key=lambda one: one.numbers.get("heat_in_box", -one.numbers["heat_on_border"]))
        return [
            Case(
                "worst",
                one.sample.id,
                one.sample.source,
                one.sample.boxes_xyxy.tolist(),
                one.boxes,
                one.numbers.get("iou", 0.0),
                self.dataset.categories[label],
                one.predicted,
            )
            for one in of[: self.options.pictures]
        ]

    def _sensitivity(self, images: Tensor) -> float:
        classes = torch.tensor(self.classes)[:, None]
        explained = partial(_heat, self.model, self.options.method, classes)
        found = max_sensitivity(explained, images, seed=self.options.seed)
        return float(found[found.isfinite()].mean()) if bool(found.isfinite().any()) else float("inf")


def _heat(model: LoadedModel, method: str, classes: Tensor, images: Tensor) -> Tensor:
    return explain(model, images, method, classes).heatmaps(normalise="max")[:, 0]


def _on_object(heat: Tensor, own: Tensor, sample: Sample, geometry: Geometry) -> dict[str, float]:
    """How much of the heat (H, W) is in the true boxes, their area there, and the best IoU of the map's box."""
    mask = torch.zeros(heat.shape, dtype=torch.bool)
    for x0, y0, x1, y1 in geometry.to_input(sample.boxes_xyxy).round().long().clamp(min=0).tolist():
        mask[y0:y1, x0:x1] = True
    fits = float(iou(own.float().cpu(), sample.boxes_xyxy).max()) if len(own) else 0.0
    if not mask.any():
        return {"iou": fits, "gt_known": float(fits >= 0.5)}
    return {
        "heat_in_box": float(energy_in_mask(heat[None], mask[None])[0]) if bool(heat.any()) else float("nan"),
        "box_area": float(mask.float().mean()),
        "iou": fits,
        "gt_known": float(fits >= 0.5),
    }


def _numbers(found: list[_Measured], *names: str) -> NDArray[np.float64]:
    """These numbers (images, names), of the images that have them all."""
    rows = [[one.numbers.get(name, np.nan) for name in names] for one in found]
    return np.array([row for row in rows if np.isfinite(row).all()], np.float64).reshape(-1, len(names))


def _ends(found: Interval) -> str:
    value, low, high = (round(100 * one, 1) + 0.0 for one in (found.value, found.low, found.high))  # no -0.0
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _means(found: list[_Measured]) -> dict[str, float]:
    """The mean of every number over the images that have it."""
    names = dict.fromkeys(name for one in found for name in one.numbers)
    means = {}
    for name in names:
        values = [
            one.numbers[name] for one in found if one.numbers.get(name, float("nan")) == one.numbers.get(name)
        ]
        if values:
            means[name] = sum(values) / len(values)
    return means
