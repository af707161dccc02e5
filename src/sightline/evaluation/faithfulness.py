"""`evaluate_faithfulness`: do maps show what the network uses? Methods compared with a random and a centre map."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sightline.data.classes import with_known_classes
from sightline.data.items import expand_paths
from sightline.errors import InputError, unknown
from sightline.evaluation.counting import Batch, Skipped, chunks
from sightline.evaluation.faithfulness_report import FaithfulnessReport
from sightline.evaluation.models import ModelSource
from sightline.evaluation.options import EvaluationOptions, Scoring
from sightline.evaluation.run import Progress, left_out, resolved_methods, untrained
from sightline.evaluation.selection import Selection, select_images
from sightline.heatmap import make_heatmaps
from sightline.methods.spec import MethodSpec
from sightline.metrics.bootstrap import Interval, bootstrap_interval, paired_difference
from sightline.metrics.faithfulness import Score, centre_maps, class_probability, random_maps, score_rule
from sightline.metrics.pointing import box_mask, class_mean_weights
from sightline.metrics.registry import Column, Metric, MetricContext, chosen_metrics
from sightline.models.loading import load_model
from sightline.options import Resamples, Seed, check_fields
from sightline.reports.tables import Row
from sightline.scores import ScoreRule
from sightline.types import Dataset, Sample

BASELINES = ("random", "centre")
# images (N, 3, H, W), classes (N, K) and the images' indices in the data set -> heatmaps (N, K, H, W)
Heat = Callable[[Tensor, Tensor, Sequence[int]], Tensor]


@dataclass(frozen=True)
class FaithfulnessOptions:
    """How the images of a data set are prepared and scored; raises `InputError` for an invalid choice.

    ``limit``         at most this many images, evenly spaced.
    ``view``          the part of the photo that the network sees: "whole" or "crop".
    ``input_size``    the input's side, instead of the model's own.
    ``on_bad``        "refuse" or "skip" images that cannot be scored.
    ``unknown_classes``  "refuse" or "skip" classes that the model lacks, if a metric needs the true class.
    ``steps``         of insertion and deletion.
    ``seed``          of noise and random maps.
    ``batch_size``, ``workers``  photos per forward pass; threads that read photos.
    ``resamples``     bootstrap resamples.
    """

    limit: int | None = None
    view: str = "whole"
    input_size: int | None = None
    on_bad: str = "refuse"
    steps: int = 56
    seed: Seed = 0
    batch_size: int = 32
    workers: int = 1
    resamples: Resamples = 2000
    unknown_classes: str = "refuse"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.steps < 1:
            raise InputError(f"steps={self.steps}; expected 1 or more")
        self.scoring  # noqa: B018  (constructing it checks the options)

    @property
    def scoring(self) -> Scoring:
        """The options by which `ModelSource` reads images."""
        names = (
            "view",
            "input_size",
            "on_bad",
            "unknown_classes",
            "batch_size",
            "workers",
            "limit",
            "resamples",
        )
        shared = {name: getattr(self, name) for name in names}
        return Scoring(EvaluationOptions(gt_only=True, **shared))


def evaluate_faithfulness(
    model: nn.Module,
    dataset: Dataset,
    methods: str | MethodSpec | Sequence[str | MethodSpec] = ("cam",),
    *,
    metrics: str | Sequence[str] | None = None,
    options: FaithfulnessOptions | None = None,
    progress: Progress | None = None,
    **choices: Any,
) -> FaithfulnessReport:
    """Faithfulness scores with 95 % intervals: one row per method, and the rows ``random`` and ``centre``.

    ``metrics``: names from `sightline.list_metrics`; None: all but the optional ones. The most
    probable class is explained; for metrics that need boxes, the true class. Heatmaps are normalised by "max".
    ``methods``: as in `sightline.evaluation.evaluate`. ``choices``: fields of `FaithfulnessOptions`, as a shorthand.
    Only a few numbers per image are stored. ``progress(done, total)`` is called after each method of each batch.
    Raises `InputError` for invalid choices and bad images.

    >>> from PIL import Image
    >>> from sightline.models.preprocess import Preprocess
    >>> net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    >>> model = load_model(net, transform=Preprocess((8, 8), 8, (0.0,) * 3, (1.0,) * 3))
    >>> photos = Dataset("one", "all", [Sample("a", Image.new("RGB", (8, 8)))], ())
    >>> [row.method for row in evaluate_faithfulness(model, photos, ["gradcam"], metrics=["drop"]).rows]
    ['gradcam', 'random', 'centre']
    """
    for name in choices:
        if name not in (known := [one.name for one in fields(FaithfulnessOptions)]):
            raise unknown("faithfulness option", name, known)
    options = replace(options or FaithfulnessOptions(), **choices)
    metrics = [metrics] if isinstance(metrics, str) else metrics
    chosen = chosen_metrics(metrics, boxes=any(len(sample.boxes_xyxy) for sample in dataset.samples))
    specs = resolved_methods(methods)
    loaded = load_model(model)
    whole, others = dataset, list[str]()
    if options.unknown_classes == "skip" and any("boxes" in metric.needs for metric in chosen):
        dataset, others = with_known_classes(dataset, [loaded.categories])
    source = ModelSource(loaded.name, loaded, specs, options.scoring)
    run = _Run(source, chosen, dataset, options)
    count = run.score_all(progress)
    if not count:
        raise InputError(f"no image of {dataset.name} {dataset.split} can be scored")
    columns = {name: column for metric in chosen for name, column in metric.columns.items()}
    rows, notes = _summary(run.rows, source.name, columns, options)
    filled = [metric.note.replace("{steps}", str(options.steps)) for metric in chosen if metric.note]
    return FaithfulnessReport(
        _described(run, count),
        rows,
        columns,
        list(dict.fromkeys(filled)),
        {dataset[index].id: why for index, why in run.selection.skipped.reasons.items()},
        [*untrained({loaded.name: loaded}), *notes, *left_out(whole, dataset, others)],
        per_image={row.method: {k: torch.cat(v).numpy() for k, v in row.scores.items()} for row in run.rows},
    )


def first_images(
    model: nn.Module, dataset: Dataset, count: int, view: str = "whole", input_size: int | None = None
) -> Tensor:
    """The first ``count`` images (N, 3, H, W), prepared for the model: for `randomisation_check`."""
    if count < 1 or not len(dataset):
        raise InputError(f"count={count} of {len(dataset)} images; expected at least 1")
    loaded = load_model(model)
    source = ModelSource(
        loaded.name, loaded, [], Scoring(EvaluationOptions(view=view, input_size=input_size), truth="none")
    )
    return source.read(dataset, range(min(count, len(dataset))), Skipped("refuse")).images


def photo_folder(root: str | Path) -> Dataset:
    """Any folder of photos as a data set without classes or boxes.

    >>> photo_folder("nowhere")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere: no such folder
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    paths = expand_paths([str(root)])
    return Dataset(root.name, "all", [Sample(path.relative_to(root).as_posix(), path) for path in paths], ())


def _selection(dataset: Dataset, limit: int | None, on_bad: str) -> Selection:
    """The images, evenly spaced; they need neither label nor box."""
    count = len(dataset) if limit is None else min(limit, len(dataset))
    return Selection(dataset, [place * len(dataset) // count for place in range(count)], Skipped(on_bad))


@dataclass
class _Scored:
    """The scores of one row, a tensor (n,) per batch: a few numbers per image."""

    method: str
    heat: Heat
    scores: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))


def _rows(source: ModelSource, seed: int) -> list[_Scored]:
    """One empty row per method and baseline."""

    def heat(number: int) -> Heat:
        def of(images: Tensor, classes: Tensor, places: Sequence[int]) -> Tensor:
            maps = source.makers[number](source.model, images, classes)
            return make_heatmaps(maps, (images.shape[2], images.shape[3]), "max").to(images.dtype)

        return of

    def random(images: Tensor, classes: Tensor, places: Sequence[int]) -> Tensor:
        size_hw = (images.shape[2], images.shape[3])
        maps = torch.cat([random_maps(1, size_hw, seed + place) for place in places])
        return maps[:, None].to(images).expand(-1, classes.shape[1], -1, -1)

    def centre(images: Tensor, classes: Tensor, places: Sequence[int]) -> Tensor:
        maps = centre_maps(len(images), (images.shape[2], images.shape[3]))
        return maps[:, None].to(images).expand(-1, classes.shape[1], -1, -1)

    own = [_Scored(spec.label, heat(number)) for number, spec in enumerate(source.specs)]
    return [*own, *(_Scored(*pair) for pair in zip(BASELINES, (random, centre), strict=True))]


@dataclass
class _Question:
    """Some images of a batch and one class each: ``column`` of the batch's classes."""

    rows: Tensor  # which images of the batch
    column: int
    images: Tensor
    classes: Tensor  # (n, 1)
    places: list[int]
    score: Score
    masks: Tensor | None = None

    def explain(self, heat: Heat, images: Tensor) -> Tensor:
        """Heatmaps (n, H, W) of changed versions of these images, for the same classes."""
        return heat(images, self.classes, self.places)[:, 0]


@dataclass
class _Prepared:
    """A batch and its questions: the most probable class, and the true one if the view shows an object."""

    images: Tensor
    places: list[int]
    classes: Tensor  # (N, 1), or (N, 2) with the true class
    top: _Question
    true: _Question | None


class _Run:
    """One pass over the images of a data set: every metric for every method and baseline."""

    def __init__(
        self, source: ModelSource, metrics: Sequence[Metric], dataset: Dataset, options: FaithfulnessOptions
    ) -> None:
        self.source, self.metrics, self.dataset, self.options = source, metrics, dataset, options
        self.needs_boxes = any("boxes" in metric.needs for metric in metrics)
        self.labels = torch.tensor(source.match(dataset)) if self.needs_boxes else None
        self.selection = (
            select_images(dataset, options.scoring, [], options.limit)
            if self.needs_boxes
            else _selection(dataset, options.limit, options.on_bad)
        )
        self.rows = _rows(source, options.seed)
        self.true_classes: list[Tensor] = []  # of the images whose view shows an object
        self.rule: ScoreRule | None = None  # determined on the first images, used for all

    def score_all(self, progress: Progress | None) -> int:
        """Fill the rows; returns how many images were scored."""
        done, total, count = 0, len(self.selection.indices) * len(self.rows), 0
        for chunk in chunks(self.selection.indices, self.options.batch_size):
            batch = self.source.read(self.dataset, chunk, self.selection.skipped)
            count += len(batch.indices)
            prepared = self._prepare(batch) if batch.indices else None
            for row in self.rows:
                if prepared is not None:
                    for name, scores in self._scores(row.heat, prepared):
                        row.scores[name].append(scores.double().cpu())
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
            if prepared is not None and prepared.true is not None:
                self.true_classes.append(prepared.true.classes[:, 0].cpu())
        self._average_over_classes()
        return count

    def _average_over_classes(self) -> None:
        """Add the columns that are class means: scores weighted so that their mean is that over the classes."""
        of = {k: c.class_mean_of for m in self.metrics for k, c in m.columns.items() if c.class_mean_of}
        if not of or not self.true_classes:
            return
        weights = class_mean_weights(torch.cat(self.true_classes)).double()
        for row in self.rows:
            row.scores.update(
                {name: [torch.cat(row.scores[source]) * weights] for name, source in of.items()}
            )

    def _prepare(self, batch: Batch) -> _Prepared:
        images, places = batch.images, batch.indices
        self.rule = self.rule or score_rule(self.source.model, images)
        classes = self.source.ranked(images)[:, :1]
        if self.labels is not None:
            true = self.labels[[sample.label or 0 for sample in batch.samples]]
            classes = torch.cat([classes, true[:, None]], 1)
        classes = classes.to(images.device)
        top = self._ask(torch.arange(len(images)), 0, images, classes, places)
        if self.labels is None:
            return _Prepared(images, places, classes, top, None)
        masks = _masks(batch)
        seen = masks.flatten(1).any(1).nonzero()[:, 0]
        return _Prepared(
            images, places, classes, top, self._ask(seen, 1, images, classes, places, masks[seen])
        )

    def _ask(
        self,
        rows: Tensor,
        column: int,
        images: Tensor,
        classes: Tensor,
        places: Sequence[int],
        masks: Tensor | None = None,
    ) -> _Question:
        where = rows.to(images.device)
        own = classes[where, column]
        score = class_probability(self.source.model, own, rule=self.rule)
        chosen = [places[row] for row in rows.tolist()]
        masks = None if masks is None else masks.to(images.device)
        return _Question(where, column, images[where], own[:, None], chosen, score, masks)

    def _scores(self, heat: Heat, on: _Prepared) -> Iterator[tuple[str, Tensor]]:
        """(column, (n,) scores) of one row and batch; images whose view shows no object are not counted."""
        maps = heat(on.images, on.classes, on.places)
        for metric in self.metrics:
            asked = on.true if "boxes" in metric.needs else on.top
            assert asked is not None  # a metric needs boxes, so the true classes are known
            context = MetricContext(
                asked.score,
                partial(asked.explain, heat),
                asked.masks,
                self.options.steps,
                self.options.seed,
            )
            heatmaps = maps[asked.rows, asked.column]
            yield from metric.measure(context, asked.images, heatmaps).items()


def _masks(batch: Batch) -> Tensor:
    """The network's input pixels that lie in a true box: (N, H, W) bool."""
    size_hw = (batch.images.shape[2], batch.images.shape[3])
    return torch.stack(
        [
            box_mask(geometry.to_input(sample.boxes_xyxy), size_hw)
            for sample, geometry in zip(batch.samples, batch.geometries, strict=True)
        ]
    )


def _described(run: _Run, count: int) -> dict[str, Any]:
    """Everything that the numbers depend on, as written to results.json and manifest.json."""
    model, dataset = run.source.model, run.dataset
    return {
        "dataset": dataset.name,
        "split": dataset.split,
        "images": count,
        "available": len(dataset),
        "model": run.source.name,
        "weights": model.weights,
        "weights_sha256": model.weights_sha256,
        "scores": run.rule.name if run.rule else model.scores,
        "input_hw": list(run.source.preprocess.input_hw),
        "methods": [spec.label for spec in run.source.specs],
        "metrics": [metric.name for metric in run.metrics],
        "normalise": "max",
        **asdict(run.options),
    }


def _summary(
    rows: Sequence[_Scored], model: str, columns: Mapping[str, Column], options: FaithfulnessOptions
) -> tuple[list[Row], list[str]]:
    """Means with their intervals, differences to the centre map, and notes on images without a score."""
    found_rows, notes = [], []
    resamples, seed = options.resamples, options.seed
    joined = [{name: torch.cat(parts) for name, parts in row.scores.items()} for row in rows]
    centre = joined[-1]
    for row, found in zip(rows, joined, strict=True):
        for name, scores in found.items():
            left_out = int((~scores.isfinite()).sum())
            if left_out:
                heading = columns[name].heading
                notes.append(f"{row.method}, {heading}: {left_out} images without a score are left out.")
        finite = {name: scores[scores.isfinite()].numpy() for name, scores in found.items()}
        scored = {
            name: bootstrap_interval(scores, resamples, seed=seed)
            for name, scores in finite.items()
            if len(scores)
        }
        beyond = {} if row.method in BASELINES else _beyond(found, centre, resamples, seed)
        found_rows.append(Row(model, row.method, "", scored, differences=beyond))
    return found_rows, notes


def _beyond(
    found: Mapping[str, Tensor], centre: Mapping[str, Tensor], resamples: int, seed: int
) -> dict[str, Interval]:
    """Each score minus the centre map's, paired over the images that have both."""
    differences = {}
    for name, scores in found.items():
        both = scores.isfinite() & centre[name].isfinite() if name in centre else scores.new_zeros(0)
        if both.any():
            pair = scores[both].numpy(), centre[name][both].numpy()
            differences[name] = paired_difference(*pair, resamples=resamples, seed=seed)
    return differences
