"""`evaluate`: models × methods × box rules on a data set, with intervals, baselines and held-out thresholds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from sightline.data.classes import with_known_classes
from sightline.errors import InputError, kind_of
from sightline.evaluation.box_source import BoxSource
from sightline.evaluation.counting import Counts, OnProgress, Skipped
from sightline.evaluation.models import ModelSource
from sightline.evaluation.options import EvaluationOptions, Rules, Scoring, read_options
from sightline.evaluation.rows import baselines, compared
from sightline.evaluation.saved import SavedSource
from sightline.evaluation.selection import (
    Selection,
    check_choice,
    select_images,
    truth_of,
    with_published_boxes,
)
from sightline.methods.registry import get_method
from sightline.methods.spec import MethodSpec, parse_method
from sightline.metrics.accumulators import BoxTally
from sightline.models.loading import LoadedModel, load_model
from sightline.reports.tables import Report
from sightline.types import Dataset

Progress = Callable[[int, int], None]
Scorer = Callable[[ModelSource, Dataset, Sequence[int], Sequence[float], Skipped, OnProgress], Counts]
Models = nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module] | None
Source = ModelSource | SavedSource | BoxSource
SALIENCY_SMOOTH = 0.02


def evaluate(
    model: Models,
    dataset: Dataset,
    methods: str | MethodSpec | Sequence[str | MethodSpec] = ("cam",),
    *,
    rule: Rules = None,
    choose_on: Dataset | None = None,
    heatmaps: Sequence[str | Path] = (),
    options: EvaluationOptions | None = None,
    progress: Progress | None = None,
    scorer: Scorer | None = None,
    **shorthand: Any,
) -> Report:
    """Score every model with every method and box rule on one split; returns a `Report` of tables.

    Classification error; localisation error (top-1, top-5; with one box per class, and with the authors' five guesses);
    GT-known localisation (the true class's map, IoU ≥ 0.5; Zhou et al. 2016, Choe et al. 2020) at the rule's fixed
    threshold, at the one chosen on ``choose_on``, and, as an upper bound, at the best. Each has a 95 % bootstrap
    interval and the paired difference to the first row. One pass over the images covers all thresholds, and memory
    grows only by about 130 bytes per image and row.

    ``model``: from `load_model`, several (or name -> model), or None with ``heatmaps``: folders of saved maps of the
    true classes. ``methods``: names, ``NAME:OPTION=VALUE:…``, or `MethodSpec`; saliency is smoothed by 0.02 by
    default. ``rule``: a `BoxRule`, or several that differ in ``relative_to``. ``shorthand``: the fields of
    `BoxRule` and `EvaluationOptions` as keywords (``relative_to`` may be a list). A data set without boxes gives
    classification errors only. ``progress(done, total)`` is called as images are done. ``scorer`` replaces
    `ModelSource.score` to score the images elsewhere (`RayEngine.score`). Raises `InputError` for invalid or
    conflicting choices, and for bad images and maps.

    >>> import torch
    >>> from PIL import Image
    >>> from sightline.models.preprocess import Preprocess
    >>> from sightline.types import Sample
    >>> photo, box = Image.new("RGB", (8, 8)), torch.tensor([[2.0, 2, 6, 6]])
    >>> photo.paste((255, 0, 0), (2, 2, 6, 6))
    >>> net = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1))
    >>> for weights, values in zip(net.parameters(), ([1.0, 0, 0], [2.0], [0.0])):
    ...     weights.data = torch.tensor(values).view(weights.shape)
    >>> model = load_model(net, transform=Preprocess((8, 8), 8, (0.0,) * 3, (1.0,) * 3))
    >>> report = evaluate(model, Dataset("one", "val", [Sample("a", photo, 0, box)], ("red",)), ["cam"])
    >>> report.rows[0].scores["gt_known_fixed"].value
    1.0
    """
    rules, options = read_options(rule, options, shorthand)
    models = {name: load_model(one) for name, one in _named(model).items()}
    whole, others = dataset, list[str]()
    if options.unknown_classes == "skip":
        names = [one.categories for one in models.values()]
        dataset, others = with_known_classes(dataset, names)
        choose_on = choose_on and with_known_classes(choose_on, names)[0]
    dataset = with_published_boxes(dataset, options.protocol)
    choose_on = choose_on and with_published_boxes(choose_on, options.protocol)
    scoring = Scoring(options, rules, truth_of(dataset, options.protocol))
    check_choice(dataset, choose_on, scoring)
    sources = _sources(models, methods, heatmaps, scoring, [dataset, *([choose_on] if choose_on else [])])
    report = evaluate_sources(sources, dataset, scoring, choose_on, progress, scorer)
    report.settings["classes_left_out"] = others
    report.notes += left_out(whole, dataset, others)
    return report


def untrained(models: Mapping[str, LoadedModel]) -> list[str]:
    """The note on models whose classification layer has random weights; empty if there are none."""
    return [
        f"{name}: the classification layer is untrained: classes and boxes mean nothing."
        for name, one in models.items()
        if not one.trained_head
    ]


def left_out(whole: Dataset, scored: Dataset, classes: Sequence[str]) -> list[str]:
    """The note on classes that a model lacks and on their images; empty if there are none."""
    if not classes:
        return []
    images = len(whole) - len(scored)
    some = ", ".join(classes[:3]) + (", …" if len(classes) > 3 else "")
    return [
        f"Left out: {len(classes)} of {len(whole.categories)} classes, which the model lacks, with {images} of "
        f"{len(whole)} images: {some}."
    ]


def evaluate_sources(
    sources: Sequence[Source],
    dataset: Dataset,
    scoring: Scoring,
    choose_on: Dataset | None = None,
    progress: Progress | None = None,
    scorer: Scorer | None = None,
) -> Report:
    """Score the images once per source and compare all rows with the first: the core of `evaluate`."""
    options, splits = scoring.options, [dataset, *([choose_on] if choose_on else [])]
    selections = [
        select_images(one, scoring, sources, options.limit if one is dataset else None) for one in splits
    ]
    total = sum(len(selection.indices) for selection in selections) * len(sources)
    run = _Run(sources, progress, scorer or ModelSource.score, total)
    thresholds, chosen_on = run.choose(selections[1]) if choose_on else (list(map(fixed, sources)), None)
    counted = [
        run.count(source, selections[0], taus) for source, taus in zip(sources, thresholds, strict=True)
    ]
    return Report(
        _described(scoring, sources, selections, counted[-1], chosen_on),
        compared(sources, counted, thresholds, dataset, options),
        baselines(selections, counted[-1], chosen_on, scoring),
        {dataset[index].id: why for index, why in selections[0].skipped.reasons.items()},
        _notes(sources, scoring, dataset),
    )


@dataclass
class _Run:
    """The passes over the images, and their progress."""

    sources: Sequence[Source]
    progress: Progress | None
    scorer: Scorer
    total: int
    done: int = 0

    def count(
        self, source: Source, selection: Selection, thresholds: Sequence[Mapping[str, float]]
    ) -> Counts:
        """One pass; per-image IoUs are stored at the chosen threshold, or else at the fixed one."""
        shown = [taus.get("chosen", taus.get("fixed", 0.0)) for taus in thresholds]
        left = [index for index in selection.indices if index not in selection.skipped.reasons]
        told = (selection.dataset, left, shown, selection.skipped, self._advance)
        counted = self.scorer(source, *told) if isinstance(source, ModelSource) else source.score(*told)
        if not counted.indices:
            raise InputError(f"no image of {selection.dataset.name} {selection.dataset.split} can be scored")
        return counted

    def choose(self, selection: Selection) -> tuple[list[list[dict[str, float]]], Counts]:
        """The thresholds of every row of every source; the chosen one is the best on this other split."""
        found = []
        for source in self.sources:
            taus = fixed(source)
            counted = self.count(_without_guesses(source), selection, taus)
            for row, tally in zip(taus, counted.tallies, strict=True):
                assert isinstance(tally, BoxTally)  # validated in `check_choice`
                row["chosen"] = tally.best
            found.append(taus)
        return found, counted

    def _advance(self, images: int) -> None:
        self.done += images
        if self.progress is not None:
            self.progress(self.done, self.total)


def fixed(source: Source) -> list[dict[str, float]]:
    """The fixed threshold of each row of a source; empty for rows without a threshold."""
    return [{"fixed": line.rule.threshold} if line.rule else {} for line in source.lines]


def _sources(
    models: Mapping[str, LoadedModel],
    methods: Methods,
    folders: Sequence[str | Path],
    scoring: Scoring,
    splits: Sequence[Dataset],
) -> list[Source]:
    specs = resolved_methods(methods)
    found: list[Source] = []
    for name, one in models.items():
        source = ModelSource(name, one, specs, scoring)
        source.match(splits[0])  # fails now, not after the scoring
        found.append(source)
    found += [SavedSource(folder, scoring, splits) for folder in folders]
    if not found:
        raise InputError("nothing to evaluate: give a model, or a folder of saved heatmaps")
    if folders and scoring.truth == "none":
        raise InputError(
            f"{splits[0].name} {splits[0].split} has no boxes: saved heatmaps cannot be scored on it"
        )
    return found


def _named(model: Models) -> dict[str, nn.Module]:
    """Models by unique names."""
    if isinstance(model, Mapping):
        return dict(model)
    found: dict[str, nn.Module] = {}
    for one in [model] if isinstance(model, nn.Module) else model or []:
        name = str(getattr(one, "name", type(one).__name__))
        found[f"{name} ({len(found) + 1})" if name in found else name] = one
    return found


Methods = str | MethodSpec | Sequence[str | MethodSpec]


def resolved_methods(methods: Methods) -> list[MethodSpec]:
    """The specs of one or more method strings, each once, their options checked."""
    several = [methods] if isinstance(methods, (str, MethodSpec)) else list(methods)
    specs = list({spec.label: spec for spec in map(resolved_method, several)}.values())
    for spec in specs:
        get_method(spec.name).checked_options(dict(spec.options))
    return specs


def resolved_method(method: str | MethodSpec) -> MethodSpec:
    """The spec of a name; saliency gets its smoothing."""
    if not isinstance(method, (str, MethodSpec)):
        raise InputError(f"method is {kind_of(method)}; expected text such as 'cam:flip'")
    spec = parse_method(method) if isinstance(method, str) else method
    if spec.name == "saliency":
        return replace(spec, options={"smooth": SALIENCY_SMOOTH, **spec.options})
    return spec


def _without_guesses(source: Source) -> Source:
    """The same source with the maps of the true class only."""
    if not isinstance(source, ModelSource):
        return source
    scoring = replace(source.scoring, options=replace(source.options, gt_only=True))
    return ModelSource(source.name, source.model, source.specs, scoring)


def _described(
    scoring: Scoring,
    sources: Sequence[Source],
    selections: Sequence[Selection],
    counted: Counts,
    chosen_on: Counts | None,
) -> dict[str, Any]:
    """Everything that the numbers depend on, as written to results.json and manifest.json."""
    models = [
        one.classifier if isinstance(one, BoxSource) else one
        for one in sources
        if not isinstance(one, SavedSource)
    ]
    dataset, other = selections[0].dataset, selections[1].dataset if chosen_on else None
    return {
        "dataset": dataset.name,
        "split": dataset.split,
        "images": len(counted.indices),
        "available": len(dataset),
        **scoring.as_dict(),
        **_thresholds(sources, scoring),
        "choose_on": other.split if other else None,
        "choose_images": len(chosen_on.indices) if chosen_on else None,
        "choose_skipped": {other[i].id: why for i, why in selections[1].skipped.reasons.items()}
        if other
        else {},
        "models": [
            {
                "name": source.name,
                "architecture": source.model.name,
                "weights": source.model.weights,
                "weights_sha256": source.model.weights_sha256,
                "scores": source.score_rule,
                "input_hw": list(source.preprocess.input_hw),
            }
            for source in models
        ],
        "methods": [{**asdict(spec), "label": spec.label} for spec in (models[0].specs if models else [])],
        "heatmaps": [str(source.folder) for source in sources if isinstance(source, SavedSource)],
    }


def _thresholds(sources: Sequence[Source], scoring: Scoring) -> dict[str, Any]:
    """The fixed thresholds: the rules' own, unless named methods bring others for every row; and which bring others."""
    lines = [line for source in sources for line in source.lines if line.rule is not None]
    found: dict[str, float] = {}
    own: dict[str, dict[str, float]] = {}
    for rule in scoring.rules:
        taus = {
            line.method: line.rule.threshold
            for line in lines
            if line.rule is not None and line.relative_to == rule.relative_to
        }
        if not taus:
            continue
        common = rule.threshold if rule.threshold in taus.values() else next(iter(taus.values()))
        found[rule.relative_to] = common
        own[rule.relative_to] = {method: tau for method, tau in taus.items() if tau != common}
    return {"thresholds": found, "own_thresholds": {name: taus for name, taus in own.items() if taus}}


def _notes(sources: Sequence[Source], scoring: Scoring, dataset: Dataset) -> list[str]:
    """What else a reader of the table must know."""
    notes = untrained({one.name: one.model for one in sources if isinstance(one, ModelSource)})
    specs = [spec for source in sources if isinstance(source, ModelSource) for spec in source.specs]
    if any(spec.name == "saliency" and spec.options["smooth"] == SALIENCY_SMOOTH for spec in specs):
        notes.append(
            "saliency is smoothed by a Gaussian, σ = 2 % of the side: as a backprop baseline; Zhou et al. name no σ."
        )
    for source in sources:
        if isinstance(source, ModelSource) and source.outputs > len(dataset.categories):
            notes.append(
                f"{source.name}: {len(dataset.categories)} of its {source.outputs} classes are in the data set, "
                "matched by name; any other prediction counts as wrong."
            )
        if isinstance(source, SavedSource) and (strangers := len(source.strangers())):
            files = "1 file" if strangers == 1 else f"{strangers} files"
            notes.append(f"{files} in {source.folder.name} without an image in the split; left out.")
    if scoring.truth == "none":
        notes.append("The split has no boxes: classification only.")
    return notes
