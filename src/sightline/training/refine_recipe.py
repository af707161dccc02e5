"""Refinement recipes: whose boxes are learned, by which network, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sightline.errors import InputError, unknown, with_new_names
from sightline.methods import get_method
from sightline.methods.spec import parse_method
from sightline.models.families.refined import HEADS
from sightline.training.recipe import RunOptions, build_options, read_yaml
from sightline.types import NORMALISATIONS, RELATIVE_TO, RENAMED, BoxRule


@dataclass
class PhotoOptions:
    """``train``: the split to learn from; ``choose_on``: to choose the threshold on; ``test``: scored once, at the end.

    ``per_class``: photos per class to learn from, chosen by a hash of their ids (None: all).
    """

    root: str = ""
    dataset: str | None = "tiny-imagenet"
    train: str = "train-fit"
    per_class: int | None = None
    choose_on: str | None = "train-heldout"
    test: str | None = "val"
    cache: bool = True  # keep the decoded photos in memory
    workers: int = 0  # processes that load photos
    skip_unreadable: bool = False  # leave out the photos that cannot be read, and list them


@dataclass
class TeacherOptions:
    """Whose maps give the pseudo-boxes, and by which rule.

    The heatmaps of all ``methods`` (names or method strings, such as ``localise``), of all input ``sizes`` (default:
    the model's own) and, with ``flip``, of the mirrored photo are averaged. ``options``: method -> its options.
    ``threshold`` None: chosen on ``data.choose_on``. With ``spread`` s the box is the edge-wise median of those at
    (1-s)·τ, τ and (1+s)·τ. Boxes whose share of the photo is outside ``area``, and photos whose label the classifier
    gives less than ``min_confidence``, are not used. ``half``: compute the training photos' maps in bfloat16, a third
    of the time on CPUs that support it; thresholds and scores always use single precision.
    """

    model: str = "bundled"
    methods: list[str] = field(default_factory=lambda: ["cam"])
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    flip: bool = True
    normalise: str = "minmax"
    relative_to: str = "max"
    percentile: float = 90.0
    threshold: float | None = None
    spread: float = 0.0
    area: list[float] = field(default_factory=lambda: [0.02, 1.0])
    min_confidence: float = 0.0
    half: bool = False
    batch_size: int = 100

    def rule(self, threshold: float) -> BoxRule:
        """How a heatmap is cut at ``threshold``."""
        return BoxRule(threshold, self.relative_to, self.normalise, percentile=self.percentile)


@dataclass
class RegressorOptions:
    """``shared``: number of initial trunk stages shared by classifier and regressor.

    ``depth``: parts of the trunk before the head (None: all); an earlier stage has finer maps.
    ``head``: ``grid`` (one linear layer on ``grid`` × ``grid`` positions) or ``edges`` (a soft-argmax along rows or
    columns per edge; needs fewer epochs), with ``hidden`` channels.
    """

    shared: int = 0
    depth: int | None = None
    head: str = "grid"
    hidden: int = 64
    grid: int = 8


@dataclass
class BoxOptimiserOptions:
    """SGD as for a classifier. Loss: smooth L1 (quadratic below ``beta``) + ``giou`` · (1 - GIoU)."""

    epochs: int = 6
    batch_size: int = 128
    lr: float = 0.02
    head_lr_factor: float = 5.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 0.5
    beta: float = 0.05
    giou: float = 0.2
    clip_norm: float | None = 1.0
    ema: float | None = 0.995


@dataclass
class BoxAugmentOptions:
    """``side`` in pixels (None: the model's own); crops keep at least ``min_visible`` of the box's area.

    ``views``: that many augmented views of each photo go through the shared parts once, and the rest is trained on
    their output, kept in memory: fast on a CPU. Epoch e uses view e mod ``views``.
    """

    side: int | None = None
    scale: list[float] = field(default_factory=lambda: [0.6, 1.0])
    whole: float = 0.3  # share of photos that are not cropped
    min_visible: float = 0.6
    flip: float = 0.5
    jitter: float = 0.2
    views: int | None = None


@dataclass
class SelfTrainingOptions:
    """After round 1 the regressor's boxes are blended, with weight ``blend``, into those it learned from."""

    rounds: int = 1
    blend: float = 0.5


@dataclass
class FoldOptions:
    """``count`` > 1: each photo's pseudo-box comes from a classifier that was not trained on it.

    ``models``: their checkpoints, one per fold; if empty they are trained from the classifier's recipe.
    """

    count: int = 1
    models: list[str] = field(default_factory=list)


@dataclass
class RefineRecipe:
    """A complete refinement recipe; `read_refine_recipe` reads one from a file."""

    name: str = "sightline-refined"
    data: PhotoOptions = field(default_factory=PhotoOptions)
    teacher: TeacherOptions = field(default_factory=TeacherOptions)
    folds: FoldOptions = field(default_factory=FoldOptions)
    regressor: RegressorOptions = field(default_factory=RegressorOptions)
    optimiser: BoxOptimiserOptions = field(default_factory=BoxOptimiserOptions)
    augment: BoxAugmentOptions = field(default_factory=BoxAugmentOptions)
    self_training: SelfTrainingOptions = field(default_factory=SelfTrainingOptions)
    run: RunOptions = field(default_factory=lambda: RunOptions(out="runs/refine", devices=1))

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def side(self, epoch: int) -> int:
        """Side in pixels of the photos, the same in every epoch; 0 for the model's own."""
        return self.augment.side or 0


def read_refine_recipe(path: str | Path | None, overrides: Sequence[str] = ()) -> RefineRecipe:
    """Read a YAML recipe (None: the defaults) and apply ``overrides`` such as ``"teacher.threshold=0.3"``.

    Raises `InputError` as `read_recipe` does: unknown keys, wrong types, values out of range.
    """
    return make_refine_recipe(read_yaml(path, overrides))


def make_refine_recipe(given: dict[str, Any]) -> RefineRecipe:
    """A validated `RefineRecipe` from nested dictionaries.

    >>> make_refine_recipe({"data": {"root": "x"}, "teacher": {"treshold": 0.3}})
    Traceback (most recent call last):
    sightline.errors.InputError: unknown recipe key 'teacher.treshold'; did you mean 'teacher.threshold', ...
    """
    if isinstance(given.get("teacher"), dict):
        given = {**given, "teacher": with_new_names(given["teacher"], RENAMED)}
    recipe: RefineRecipe = build_options(RefineRecipe, given)
    if recipe.run.devices == "auto":
        recipe.run.devices = 1
    _check(recipe)
    return recipe


def _check(recipe: RefineRecipe) -> None:
    data, t, o, a = recipe.data, recipe.teacher, recipe.optimiser, recipe.augment
    r, s, f = recipe.regressor, recipe.self_training, recipe.folds
    share = "in [0, 1]"
    rules: list[tuple[bool, str, object, str]] = [
        (bool(data.root), "data.root", data.root, "the folder or archive of the data"),
        (data.per_class is None or data.per_class >= 1, "data.per_class", data.per_class, "≥ 1, or null"),
        (bool(t.methods), "teacher.methods", t.methods, "at least one method"),
        (all(side >= 8 for side in t.sizes), "teacher.sizes", t.sizes, "sides ≥ 8"),
        (t.threshold is None or 0 <= t.threshold <= 1, "teacher.threshold", t.threshold, f"{share}, or null"),
        (0 <= t.spread < 1, "teacher.spread", t.spread, "in [0, 1)"),
        (0 <= t.percentile <= 100, "teacher.percentile", t.percentile, "in [0, 100]"),
        (_is_range(t.area, 0.0), "teacher.area", t.area, "[low, high] in [0, 1]"),
        (0 <= t.min_confidence < 1, "teacher.min_confidence", t.min_confidence, "in [0, 1)"),
        (
            t.threshold is not None or data.choose_on is not None,
            "data.choose_on",
            data.choose_on,
            "a split to choose the threshold on, or teacher.threshold",
        ),
        (
            data.choose_on is None or data.choose_on != data.test or t.threshold is not None,
            "data.choose_on",
            data.choose_on,
            "a split other than data.test: never report on the split used to choose",
        ),
        (r.shared >= 0, "regressor.shared", r.shared, "≥ 0"),
        (min(r.hidden, r.grid) >= 1, "regressor.hidden and .grid", (r.hidden, r.grid), "≥ 1"),
        (o.epochs >= 1, "optimiser.epochs", o.epochs, "≥ 1"),
        (o.batch_size >= 2, "optimiser.batch_size", o.batch_size, "≥ 2"),
        (o.lr > 0, "optimiser.lr", o.lr, "> 0"),
        (o.head_lr_factor > 0, "optimiser.head_lr_factor", o.head_lr_factor, "> 0"),
        (o.warmup_epochs >= 0, "optimiser.warmup_epochs", o.warmup_epochs, "≥ 0"),
        (o.beta >= 0, "optimiser.beta", o.beta, "≥ 0"),
        (o.giou >= 0, "optimiser.giou", o.giou, "≥ 0"),
        (o.ema is None or 0 < o.ema < 1, "optimiser.ema", o.ema, "in (0, 1), or null"),
        (a.side is None or a.side >= 8, "augment.side", a.side, "≥ 8, or null"),
        (_is_range(a.scale, 1e-9), "augment.scale", a.scale, "[low, high] in (0, 1]"),
        (0 <= a.whole <= 1, "augment.whole", a.whole, share),
        (0 <= a.min_visible <= 1, "augment.min_visible", a.min_visible, share),
        (0 <= a.flip <= 1, "augment.flip", a.flip, share),
        (0 <= a.jitter < 1, "augment.jitter", a.jitter, "in [0, 1)"),
        (
            a.views is None or (a.views >= 1 and r.shared >= 1),
            "augment.views",
            a.views,
            "≥ 1, and regressor.shared ≥ 1",
        ),
        (s.rounds >= 1, "self_training.rounds", s.rounds, "≥ 1"),
        (0 <= s.blend <= 1, "self_training.blend", s.blend, share),
        (f.count >= 1, "folds.count", f.count, "≥ 1"),
        (
            not f.models or len(f.models) == f.count,
            "folds.models",
            f.models,
            f"one checkpoint per fold ({f.count}), or none",
        ),
    ]
    run = recipe.run
    rules += [
        (
            run.devices in (1, "1") and run.num_nodes == 1,
            "run.devices",
            run.devices,
            "1: refinement uses one device",
        ),
    ]
    for holds, key, value, expected in rules:
        if not holds:
            raise InputError(f"recipe key {key!r} is {value!r}; expected {expected}")
    for what, name, valid in (
        ("head", r.head, HEADS),
        ("relative_to", t.relative_to, RELATIVE_TO),
        ("normalisation", t.normalise, NORMALISATIONS),
    ):
        if name not in valid:
            raise unknown(what, name, valid)
    for name in t.methods:
        spec = parse_method(name)
        get_method(spec.name).checked_options({**spec.options, **t.options.get(name, {})})
    idle = [name for name in t.options if name not in t.methods]
    if idle:
        raise unknown("method in teacher.options", idle[0], t.methods)


def _is_range(values: list[float], least: float) -> bool:
    return len(values) == 2 and least <= values[0] <= values[1] <= 1 and values[1] > 0
