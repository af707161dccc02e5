"""`explain_files`: many photos in, a panel picture each and manifest.json out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from sightline.data.images import PhotoSource
from sightline.data.items import expand_paths
from sightline.data.photos import VIEWS, PhotoBatch
from sightline.errors import InputError, unknown
from sightline.explanation import Explanation
from sightline.methods.observation import shared_passes
from sightline.methods.registry import get_method
from sightline.methods.spec import MethodSpec, parse_methods
from sightline.models.loading import LoadedModel, load_model
from sightline.options import check_fields
from sightline.pictures.overlay import colour_table
from sightline.pictures.panel import Cell, panel, unsure_note
from sightline.pipeline import explain, load_photos
from sightline.progress import Progress
from sightline.reports.manifest import describe_run
from sightline.reports.output_folder import OutputFolder, shortened
from sightline.targets import Classes, OutputTarget, parse_target
from sightline.types import BoxRule, Prediction

KIND = "explain"
Inputs = Sequence[str | os.PathLike[str]] | Mapping[str, PhotoSource] | str | os.PathLike[str]


@dataclass(frozen=True)
class ExplainOptions:
    """How photos are explained; validated on construction.

    ``methods``     method strings, NAME:OPTION=VALUE:combinator: one row of the panel each.
    ``method_options``  NAME=VALUE for every method that has that option, or METHOD.NAME=VALUE.
    ``classes``     as in `explain`; chosen once, from the first method's pass.
    ``target``      instead of classes: one of `sightline.targets`, or its text, such as "contrast:281,282".
    ``rule``        how maps become boxes.
    ``layers``      for methods that have a target layer; found automatically if empty.
    ``layout``      how a named layer's tensor is a map, as in `explain`.
    ``view``        "whole" | "crop", as in `explain`.
    ``batch_size``  photos per forward pass; ``workers``: threads that read photos.

    >>> ExplainOptions(methods=["cam", "layercam:flip"]).specs[1].flip
    True
    """

    methods: Sequence[str] = ("gradcam",)
    classes: str | int | Sequence[str | int] = "top1"
    rule: BoxRule = field(default_factory=BoxRule)
    layers: Sequence[str] = ()
    method_options: Sequence[str] = ()
    view: str = "whole"
    colormap: str = "turbo"
    batch_size: int = 8
    workers: int = 1
    target: str | OutputTarget | None = None
    layout: str = "auto"

    def __post_init__(self) -> None:
        for name in ("methods", "layers", "method_options"):  # one alone is a list of one
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, [getattr(self, name)])
        check_fields(self)
        if not self.methods:
            raise InputError("methods is empty; expected at least one method, e.g. 'gradcam'")
        if self.view not in VIEWS:
            raise unknown("view", self.view, VIEWS)
        if self.batch_size < 1 or self.workers < 1:
            raise InputError(
                f"batch_size={self.batch_size} and workers={self.workers}; expected 1 or more of each"
            )
        colour_table(self.colormap)
        object.__setattr__(self, "methods", list(dict.fromkeys(self.methods)))
        if isinstance(self.target, str):
            object.__setattr__(self, "target", parse_target(self.target))
        if self.target is not None and self.classes != "top1":
            raise InputError("give either classes or target, not both")
        _ = self.specs

    @cached_property
    def specs(self) -> list[MethodSpec]:
        """The methods, parsed."""
        return parse_methods(
            list(self.methods), list(self.method_options), list(self.layers), layout=self.layout
        )

    @property
    def common_threshold(self) -> float | None:
        """The threshold that all methods share; None if a named method has its own."""
        thresholds = {self.rule.or_threshold_of(spec.rule).threshold for spec in self.specs}
        return thresholds.pop() if len(thresholds) == 1 else None

    def as_dict(self) -> dict[str, Any]:
        """The options as written to manifest.json, the box rule's fields (also the old ``standard``) inline."""
        # Inlined; listed by method; without effect on the results; as text.
        elsewhere = ("rule", "method_options", "workers", "target", *(["layout"] * (self.layout == "auto")))
        plain = {name: value for name, value in asdict(self).items() if name not in elsewhere}
        target = {} if self.target is None else {"target": repr(self.target)}
        return {**plain, **target, **self.rule.as_dict(), "standard": self.rule.relative_to}


def explain_files(
    model: LoadedModel,
    inputs: Inputs,
    out: str | os.PathLike[str],
    options: ExplainOptions | None = None,
    *,
    progress: Progress | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Explain many photos: one panel picture each, and manifest.json with classes, scores and boxes, in ``out``.

    ``inputs``: files, folders and patterns, or a dictionary of names and photos (whatever `explain` reads).
    ``options``, or its fields as keywords: ``methods=["cam", "layercam:flip"]``, ``rule=BoxRule(0.3)``,
    ``classes="top5"``. ``progress(done, total)`` counts photos. A photo that cannot be read is listed in the
    manifest's ``errors``, and the run continues. If interrupted, finished panels and their manifest stay. Panels of an
    earlier run in ``out`` are not explained again, and no input is overwritten. Pixel-level methods report no boxes:
    their scattered pixels form no region. Returns the manifest.

    >>> import tempfile, PIL.Image
    >>> from sightline import load_model
    >>> photos = {"red": PIL.Image.new("RGB", (9, 9), "red")}
    >>> manifest = explain_files(load_model(), photos, tempfile.mkdtemp(), methods=["gradcam"], classes="top2")
    >>> manifest["images"][0]["panel"], len(manifest["images"][0]["results"])
    ('red.png', 2)
    """
    options = replace(options or ExplainOptions(), **known_options(changes))
    photos = photos_to_explain(inputs, out)
    if not isinstance(model, LoadedModel):
        model = load_model(model)
    manifest = describe(model, options)
    with OutputFolder(out, KIND) as folder:
        folder.begin(manifest, [photo.panel for photo in photos])
        try:
            for start in range(0, len(photos), options.batch_size):
                chunk = photos[start : start + options.batch_size]
                for entry in explain_chunk(model, chunk, options, folder, manifest):
                    manifest["images"].append(entry)  # one at a time: an interrupt keeps the finished ones
                if progress is not None:
                    progress(start + len(chunk), len(photos))
            manifest["complete"] = True
            manifest["files"] = sorted(entry["panel"] for entry in manifest["images"])
        finally:
            if manifest["images"] or manifest["errors"]:
                folder.finish(manifest)
            else:
                folder.abandon()
    return {"kind": KIND, **manifest}


@dataclass(frozen=True)
class NamedPhoto:
    """A photo to explain: the user's name for it, its source, and the file name of its panel."""

    name: str
    source: PhotoSource
    panel: str


def photos_to_explain(inputs: Inputs, out: str | os.PathLike[str]) -> list[NamedPhoto]:
    """The photos in ``inputs``, except panels that an earlier run wrote into ``out``.

    Photos of the same name get different panel names, and a panel never has the name of an input file.
    """
    taken = [os.path.splitext(name)[0] for name in OutputFolder(out, KIND).taken()]
    if isinstance(inputs, Mapping):
        sources: list[PhotoSource] = list(inputs.values())
        if not sources:
            raise InputError("no photos given; expected a dictionary of names and photos")
        names = list(inputs)
        return [NamedPhoto(*one) for one in zip(names, sources, panel_names(names, taken), strict=True)]
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    paths = expand_paths(given, without=[out])
    panels = panel_names([path.stem for path in paths], taken)
    return [NamedPhoto(str(path), path, panel) for path, panel in zip(paths, panels, strict=True)]


def panel_names(names: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """One file name per name; names that differ only in case, or are ``taken``, get a number.

    >>> panel_names(["cat", "Cat", "a/dog"], taken=["dog"])
    ['cat.png', 'Cat-2.png', 'a_dog.png']
    """
    used = {name.lower() for name in taken}
    found = []
    for name in names:
        plain = "".join("_" if c in '/\\:*?"<>|' or ord(c) < 32 else c for c in name).lstrip(".") or "photo"
        plain = shortened(plain)
        stem, number = plain, 1
        while stem.lower() in used:
            number += 1
            stem = f"{plain}-{number}"
        used.add(stem.lower())
        found.append(f"{stem}.png")
    return found


def known_options(changes: dict[str, Any]) -> dict[str, Any]:
    """The keywords, each checked to be a field of `ExplainOptions`."""
    valid = list(ExplainOptions.__dataclass_fields__)
    for name in changes:
        if name not in valid:
            raise unknown("explain_files option", name, valid)
    return changes


def describe(model: LoadedModel, options: ExplainOptions) -> dict[str, Any]:
    """The manifest of a run that has explained nothing yet."""
    device = next((str(p.device) for p in model.parameters()), "cpu")
    return describe_run(
        model={**model.describe(), "device": device, "scores": model.scores},
        options=options.as_dict(),
        methods={},
        complete=False,
        images=[],
        errors=[],
    )


@dataclass(frozen=True, eq=False)
class _MethodResult:
    """One method's results for a batch: heatmaps (N, K, H, W) on the CPU, N × K predictions."""

    method: str
    heatmaps: Tensor
    signed: Tensor | None
    predictions: list[list[Prediction]]
    probabilities: bool  # whether the scores are probabilities
    sure: list[bool] | None  # see `Explanation.sure`; the same for every method

    @classmethod
    def of(cls, method: str, explanation: Explanation, rule: BoxRule) -> _MethodResult:
        heatmaps = explanation.heatmaps(normalise=rule.normalise, percentile=rule.percentile)
        predictions = explanation.predictions(rule)
        signed = None if explanation.signed is None else explanation.signed.cpu()
        if signed is not None:
            predictions = [
                [Prediction(p.class_index, p.category, p.score) for p in row] for row in predictions
            ]
        probabilities = explanation.score_rule is None or explanation.score_rule.gives_probabilities
        return cls(method, heatmaps.cpu(), signed, predictions, probabilities, explanation.sure)

    def cells(self, i: int) -> list[Cell]:
        return [
            Cell(
                self.heatmaps[i, k],
                p.category,
                _known_score(p),
                p.boxes_xyxy,
                self._signed(i, k),
                self.probabilities,
            )
            for k, p in enumerate(self.predictions[i])
        ]

    def _signed(self, i: int, k: int) -> Tensor | None:
        return None if self.signed is None else self.signed[i, k]

    def entries(self, i: int) -> list[dict[str, Any]]:
        return [
            {
                "method": self.method,
                "class_index": p.class_index,
                "category": p.category,
                "score": _known_score(p),
                "boxes_xyxy": [[round(x, 2) for x in box] for box in p.boxes_xyxy.tolist()],
            }
            for p in self.predictions[i]
        ]


def _known_score(prediction: Prediction) -> float | None:
    """The score; None where a target was explained, which has no probability."""
    return None if prediction.score != prediction.score else prediction.score


def explain_chunk(
    model: LoadedModel,
    chunk: Sequence[NamedPhoto],
    options: ExplainOptions,
    folder: OutputFolder,
    manifest: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """One batch: every method for the same classes, then a panel and a manifest entry per photo.

    What cannot be read is added to the manifest's ``errors``, and what the methods did to its ``methods``.
    """
    photos = load_photos(
        model, [photo.source for photo in chunk], options.view, workers=options.workers, on_error="collect"
    )
    manifest["errors"] += [
        {"path": chunk[place].name, "error": reason} for place, reason in photos.errors.items()
    ]
    if not len(photos):
        return
    with shared_passes():
        results = _run_methods(model, photos.to(model), options, manifest)
    for i, place in enumerate(photos.indices):
        geometry = photos.geometries[i]
        rows = [(result.method, result.cells(i)) for result in results]
        sure = None if results[0].sure is None else results[0].sure[i]
        note = unsure_note(len(model.categories or ())) if sure is False else ""
        yield {
            "path": chunk[place].name,
            "panel": _save_panel(model, chunk[place], photos, i, rows, options, folder, note),
            "photo_hw": list(geometry.photo_hw),
            "input_hw": list(geometry.input_hw),
            "shown_xyxy": list(geometry.shown_xyxy),
            "sure": sure,
            "results": [entry for result in results for entry in result.entries(i)],
        }


def _run_methods(
    model: LoadedModel, photos: PhotoBatch, options: ExplainOptions, manifest: dict[str, Any]
) -> list[_MethodResult]:
    """Every method's results; the classes are chosen once, from the first method's scores."""
    results: list[_MethodResult] = []
    classes: Classes = options.classes
    for name, spec in zip(options.methods, options.specs, strict=True):
        explanation = explain(model, photos, spec, classes, target=options.target)  # type: ignore[arg-type]
        classes = explanation.classes if options.target is None else classes
        manifest["methods"][name] = {
            "layers": explanation.layers,
            "options": explanation.options,
            "scores": _score_rules(manifest["methods"].get(name), explanation),
        }
        results.append(_MethodResult.of(name, explanation, options.rule.or_defaults_of(spec.rule)))
    return results


def _score_rules(before: dict[str, Any] | None, explanation: Explanation) -> str | None:
    """The score rules used so far: those of earlier batches, and this batch's if it differs."""
    names = before["scores"].split(", ") if before and before["scores"] else []
    rule = explanation.score_rule
    return ", ".join(dict.fromkeys([*names, *([rule.name] if rule else [])])) or None


def _save_panel(
    model: LoadedModel,
    photo: NamedPhoto,
    photos: PhotoBatch,
    i: int,
    rows: Sequence[tuple[str, Sequence[Cell]]],
    options: ExplainOptions,
    folder: OutputFolder,
    note: str,
) -> str:
    assert photos.photos is not None  # `_explain` loads them
    picture = panel(
        photos.photos[i],
        rows,
        title=Path(photo.name).name,
        caption=" · ".join(filter(None, [note, caption_of(model.name, options)])),
        shown_xyxy=photos.geometries[i].shown_xyxy,
        colormap=options.colormap,
        threshold=options.common_threshold if options.rule.relative_to == "max" else None,
    )
    folder.write_picture(photo.panel, picture)
    return photo.panel


def caption_of(model_name: str, options: ExplainOptions) -> str:
    """A one-line caption: what the panel shows.

    >>> caption_of("resnet50", ExplainOptions(["cam"]))
    'resnet50 · view: whole · heat: minmax · box: largest region ≥ 0.2 of the maximum'
    >>> caption_of("lite0", ExplainOptions(["localise", "cam"]))
    'lite0 · view: whole · heat: minmax · box: largest region ≥ 0.3 or 0.2 of the maximum'
    """
    rules = [options.rule.or_defaults_of(spec.rule) for spec in options.specs]
    heat = " or ".join(dict.fromkeys(rule.normalise for rule in rules))
    parts = [model_name, f"view: {options.view}", f"heat: {heat}"]
    if any(not get_method(spec.name).signed or spec.combines for spec in options.specs):
        shares = " or ".join(dict.fromkeys(f"{rule.threshold:g}" for rule in rules))
        parts.append("box: " + rules[0].describe().replace(f"≥ {rules[0].threshold:g}", f"≥ {shares}"))
    return " · ".join(parts)
