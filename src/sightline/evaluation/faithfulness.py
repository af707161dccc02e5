"""`evaluate_faithfulness`: does the map show what the network uses? Methods beside a random and a centre map."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from sightline.data.items import expand_paths
from sightline.errors import InputError, unknown
from sightline.evaluation.counting import Batch, Skipped, chunks
from sightline.evaluation.faithfulness_report import COLUMNS, GROUPS, FaithfulnessReport
from sightline.evaluation.models import ModelSource
from sightline.evaluation.options import EvaluationOptions, Scoring
from sightline.evaluation.run import Progress, resolved_method
from sightline.evaluation.selection import Selection, select_images
from sightline.heatmap import make_heatmaps
from sightline.methods.spec import MethodSpec
from sightline.metrics import faithfulness as measure
from sightline.metrics.bootstrap import Interval, bootstrap_interval, paired_difference
from sightline.metrics.pointing import box_mask, energy_in_mask, pointing_game, relevance_rank_accuracy
from sightline.metrics.road import road
from sightline.metrics.sanity import max_sensitivity
from sightline.models.loading import load_model
from sightline.reports.tables import Row
from sightline.scores import ScoreRule
from sightline.types import Dataset, Sample

DEFAULT = ("drop", "insertion", "deletion", "road", "pointing")
BASELINES = ("random", "centre")
# images (N, 3, H, W), classes (N, K) and the images' places in the data set -> heatmaps (N, K, H, W)
Heat = Callable[[Tensor, Tensor, Sequence[int]], Tensor]


@dataclass
class _Scored:
    """The scores of one row, a tensor (n,) a batch; memory: some numbers an image."""

    method: str
    heat: Heat
    scores: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))


def evaluate_faithfulness(
    model: nn.Module,
    dataset: Dataset,
    methods: Sequence[str | MethodSpec] = ("cam",),
    *,
    limit: int | None = None,
    batch_size: int = 32,
    view: str = "whole",
    input_size: int | None = None,
    seed: int = 0,
    metrics: Sequence[str] = DEFAULT,
    steps: int = 56,
    on_bad: str = "refuse",
    workers: int = 1,
    resamples: int = 2000,
    progress: Progress | None = None,
) -> FaithfulnessReport:
    """One row a method, and the rows ``random`` and ``centre``, of faithfulness scores with 95 % intervals.

    ``metrics``: groups of columns, of "drop" (average drop, increase in confidence), "insertion", "deletion" (of
    ``steps`` steps), "road", "pointing" (pointing game, energy in box, rank accuracy; where boxes are known) and
    "sensitivity" (11 explanations a map). The most probable class is explained; for "pointing" the true class.
    Heatmaps are normalised by "max". ``methods``, ``limit``, ``view``, ``input_size``, ``on_bad``: as in
    `sightline.evaluation.evaluate`. Nothing but a few numbers an image is kept. ``progress(done, total)`` is called
    after each method of each batch. Raises `InputError` for choices that do not exist and for bad images.

    >>> from PIL import Image
    >>> from sightline.models.preprocess import Preprocess
    >>> net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    >>> model = load_model(net, transform=Preprocess((8, 8), 8, (0.0,) * 3, (1.0,) * 3))
    >>> photos = Dataset("one", "all", [Sample("a", Image.new("RGB", (8, 8)))], ())
    >>> [row.method for row in evaluate_faithfulness(model, photos, ["gradcam"], metrics=["drop"]).rows]
    ['gradcam', 'random', 'centre']
    """
    boxes = any(len(sample.boxes_xyxy) for sample in dataset.samples)
    groups = _groups(metrics, boxes)
    options = EvaluationOptions(
        view=view,
        gt_only=True,
        input_size=input_size,
        batch_size=batch_size,
        workers=workers,
        on_bad=on_bad,
        limit=limit,
        resamples=resamples,
    )
    scoring = Scoring(options)
    specs = list({spec.label: spec for spec in map(resolved_method, methods)}.values())
    loaded = load_model(model)
    source = ModelSource(loaded.name, loaded, specs, scoring)
    labels = torch.tensor(source.match(dataset)) if "pointing" in groups else None
    selection = (
        select_images(dataset, scoring, [], limit)
        if labels is not None
        else _selection(dataset, limit, on_bad)
    )
    rows = _rows(source, seed)
    work = _Work(source, groups, labels, steps, seed)
    done, total, count = 0, len(selection.indices) * len(rows), 0
    for chunk in chunks(selection.indices, batch_size):
        batch = source._batch(dataset, chunk, selection.skipped)
        count += len(batch.indices)
        prepared = work.prepare(batch) if batch.indices else None
        for row in rows:
            if prepared is not None:
                for name, scores in work.score(row.heat, prepared):
                    row.scores[name].append(scores.double().cpu())
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    if not count:
        raise InputError(f"no image of {dataset.name} {dataset.split} can be scored")
    made, notes = _summary(rows, source.name, resamples, seed)
    return FaithfulnessReport(
        {
            "dataset": dataset.name,
            "split": dataset.split,
            "images": count,
            "available": len(dataset),
            "model": source.name,
            "weights": loaded.weights,
            "weights_sha256": loaded.weights_sha256,
            "scores": work.rule.name if work.rule else loaded.scores,
            "input_hw": list(source.preprocess.input_hw),
            "methods": [spec.label for spec in specs],
            "metrics": groups,
            "normalise": "max",
            "view": view,
            "steps": steps,
            "seed": seed,
            "limit": limit,
            "batch_size": batch_size,
            "resamples": resamples,
        },
        made,
        {dataset[index].id: why for index, why in selection.skipped.reasons.items()},
        notes,
    )


def first_images(
    model: nn.Module, dataset: Dataset, count: int, view: str = "whole", input_size: int | None = None
) -> Tensor:
    """The first ``count`` images (N, 3, H, W) as the model takes them: for `randomisation_check`."""
    if count < 1 or not len(dataset):
        raise InputError(f"count={count} of {len(dataset)} images; expected at least 1")
    loaded = load_model(model)
    source = ModelSource(
        loaded.name, loaded, [], Scoring(EvaluationOptions(view=view, input_size=input_size), truth="none")
    )
    return source._batch(dataset, range(min(count, len(dataset))), Skipped("refuse")).images


def photo_folder(root: str | Path) -> Dataset:
    """Any folder of photos as a data set without classes and boxes, for what needs neither.

    >>> photo_folder("nowhere")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere: no such folder
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    paths = expand_paths([str(root)])
    return Dataset(root.name, "all", [Sample(path.relative_to(root).as_posix(), path) for path in paths], ())


def _groups(metrics: Sequence[str], boxes: bool) -> list[str]:
    """The groups of columns, in the table's order; pointing silently needs boxes only where it is the default."""
    for name in metrics:
        if name not in GROUPS:
            raise unknown("metric", name, GROUPS)
    if "pointing" in metrics and not boxes and tuple(metrics) != DEFAULT:
        raise InputError("metric pointing needs true boxes, and the split has none")
    chosen = [name for name in GROUPS if name in metrics and (name != "pointing" or boxes)]
    if not chosen:
        raise InputError(f"no metrics were given; expected some of {', '.join(GROUPS)}")
    return chosen


def _selection(dataset: Dataset, limit: int | None, on_bad: str) -> Selection:
    """The images, evenly spread; they need neither label nor box."""
    count = len(dataset) if limit is None else min(limit, len(dataset))
    return Selection(dataset, [place * len(dataset) // count for place in range(count)], Skipped(on_bad))


def _rows(source: ModelSource, seed: int) -> list[_Scored]:
    """One empty row a spec and baseline."""

    def heat(number: int) -> Heat:
        def of(images: Tensor, classes: Tensor, places: Sequence[int]) -> Tensor:
            maps = source.makers[number](source.model, images, classes)
            return make_heatmaps(maps, (images.shape[2], images.shape[3]), "max").to(images.dtype)

        return of

    def random(images: Tensor, classes: Tensor, places: Sequence[int]) -> Tensor:
        size_hw = (images.shape[2], images.shape[3])
        maps = torch.cat([measure.random_maps(1, size_hw, seed + place) for place in places])
        return maps[:, None].to(images).expand(-1, classes.shape[1], -1, -1)

    def centre(images: Tensor, classes: Tensor, places: Sequence[int]) -> Tensor:
        maps = measure.centre_maps(len(images), (images.shape[2], images.shape[3]))
        return maps[:, None].to(images).expand(-1, classes.shape[1], -1, -1)

    own = [_Scored(spec.label, heat(number)) for number, spec in enumerate(source.specs)]
    return [*own, *(_Scored(*pair) for pair in zip(BASELINES, (random, centre), strict=True))]


@dataclass
class _Prepared:
    """A batch with what is asked of it: the classes (N, 1 or 2), the scorer of the first, the masks of the boxes."""

    images: Tensor
    places: list[int]
    classes: Tensor
    score: measure.Score
    masks: Tensor | None


@dataclass
class _Work:
    source: ModelSource
    groups: list[str]
    labels: Tensor | None  # the model's output for each class of the data set
    steps: int
    seed: int
    rule: ScoreRule | None = None  # found on the first images, used for all

    def prepare(self, batch: Batch) -> _Prepared:
        """The most probable class, the true one where it is asked for, and the boxes in the network's pixels."""
        images, model = batch.images, self.source.model
        top = self.source._ranked(images)[:, :1]
        classes, masks = top, None
        if self.labels is not None:
            true = self.labels[[sample.label or 0 for sample in batch.samples]]
            classes = torch.cat([top, true[:, None]], 1)
            size_hw = (images.shape[2], images.shape[3])
            masks = torch.stack(
                [
                    box_mask(geometry.to_input(sample.boxes_xyxy), size_hw)
                    for sample, geometry in zip(batch.samples, batch.geometries, strict=True)
                ]
            ).to(images.device)
        classes = classes.to(images.device)
        self.rule = self.rule or measure.score_rule(model, images)
        score = measure.class_probability(model, classes[:, 0], rule=self.rule)
        return _Prepared(images, batch.indices, classes, score, masks)

    def score(self, heat: Heat, on: _Prepared) -> Iterator[tuple[str, Tensor]]:
        """(column, (n,) scores) of one row and batch; images without an object in sight are not counted."""
        maps = heat(on.images, on.classes, on.places)
        first = maps[:, 0]
        if "drop" in self.groups:
            found = measure.drop_and_increase(on.score, on.images, first)
            yield "average_drop", found.drop
            yield "increase", found.increase
        if "insertion" in self.groups:
            yield "insertion", measure.insertion(on.score, on.images, first, self.steps).auc
        if "deletion" in self.groups:
            yield "deletion", measure.deletion(on.score, on.images, first, self.steps).auc
        if "road" in self.groups:
            removed = road(on.score, on.images, first, seed=self.seed)
            yield "road_morf", removed.morf.mean(1)
            yield "road_lerf", removed.lerf.mean(1)
            yield "road_combined", removed.combined
        if on.masks is not None:
            seen = on.masks.flatten(1).any(1)
            true, masks = maps[seen, 1], on.masks[seen]
            yield "pointing", pointing_game(true, masks)
            yield "energy", energy_in_mask(true, masks)
            yield "rank_accuracy", relevance_rank_accuracy(true, masks) if len(true) else true.new_zeros(0)
        if "sensitivity" in self.groups:
            top = on.classes[:, :1]
            yield (
                "sensitivity",
                max_sensitivity(lambda x: heat(x, top, on.places)[:, 0], on.images, seed=self.seed),
            )


def _summary(rows: Sequence[_Scored], model: str, resamples: int, seed: int) -> tuple[list[Row], list[str]]:
    """Means with their intervals, what each method has beyond the centre map, and images without a number."""
    made, notes = [], []
    joined = [{name: torch.cat(parts) for name, parts in row.scores.items()} for row in rows]
    centre = joined[-1]
    for row, found in zip(rows, joined, strict=True):
        for name, scores in found.items():
            left_out = int((~scores.isfinite()).sum())
            if left_out:
                heading = COLUMNS[name].heading
                notes.append(f"{row.method}, {heading}: {left_out} images without a number are left out.")
        finite = {name: scores[scores.isfinite()].numpy() for name, scores in found.items()}
        scored = {
            name: bootstrap_interval(scores, resamples, seed=seed)
            for name, scores in finite.items()
            if len(scores)
        }
        beyond = {} if row.method in BASELINES else _beyond(found, centre, resamples, seed)
        made.append(Row(model, row.method, "", scored, differences=beyond))
    return made, notes


def _beyond(
    found: Mapping[str, Tensor], centre: Mapping[str, Tensor], resamples: int, seed: int
) -> dict[str, Interval]:
    """Each score minus the centre map's, paired over the images for which both have a number."""
    differences = {}
    for name, scores in found.items():
        both = scores.isfinite() & centre[name].isfinite() if name in centre else scores.new_zeros(0)
        if both.any():
            pair = scores[both].numpy(), centre[name][both].numpy()
            differences[name] = paired_difference(*pair, resamples=resamples, seed=seed)
    return differences
