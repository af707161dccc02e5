"""Training recipes: everything that determines a training's result, read from YAML and validated."""

from __future__ import annotations

import dataclasses
import math
import os
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from sightline import files
from sightline.errors import InputError, unknown
from sightline.files import parse_yaml


@dataclass
class DataOptions:
    """The training data. ``categories``: only these classes, in this order (None: all).

    ``held_per_class``: photos of each class held out by the splits ``train-fit`` and ``train-heldout``.
    """

    root: str = ""
    dataset: str = "tiny-imagenet"
    train: str = "train"
    test: str | None = "val"
    held_per_class: int = 30
    categories: list[str] | None = None
    cache: bool = True  # keep the decoded photos in memory
    workers: int = 0  # processes that load photos
    skip_unreadable: bool = False  # leave out the photos that cannot be read, and list them
    kept: str | None = None  # folder where the maps of augment.views are saved, for the next run


@dataclass
class ModelOptions:
    """The network. ``init_from``: a checkpoint whose weights are loaded where name and shape match.

    ``trainable``: how many of the trunk's last children are trained beside the head (None: all). The others keep their
    weights and statistics.
    """

    name: str = "small-gap"
    options: dict[str, Any] = field(default_factory=dict)
    pretrained: bool | str = False
    trunk_weights: str | None = None
    init_from: str | None = None
    trainable: int | None = None


@dataclass
class OptimiserOptions:
    """SGD with Nesterov momentum; linear warm-up over ``warmup_epochs``, then cosine decay to 0.

    ``batch_size`` is the total over all devices: the number of devices changes neither the steps nor the rate.
    """

    epochs: int = 30
    batch_size: int = 128
    lr: float = 0.1
    head_lr_factor: float = 10.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.1
    clip_norm: float | None = None
    ema: float | None = None  # decay of the running average of the weights; None: no average


@dataclass
class AugmentOptions:
    """``sizes``: first epoch -> side of the photos in pixels from then on, for example {0: 48, 12: 64}.

    ``views``: with ``model.trainable``, that many augmented views of each photo go through the untrained part of the
    trunk once, and the rest is trained on its output, kept in memory: fast on a CPU. Epoch e uses view e mod ``views``.
    """

    sizes: dict[int, int] = field(default_factory=lambda: {0: 64})
    scale: list[float] = field(default_factory=lambda: [0.4, 1.0])
    flip: float = 0.5
    jitter: float = 0.2
    grey: float = 0.0  # share of photos turned grey
    cutmix: float = 0.0  # share of batches that are mixed
    plain_epochs: int = 0  # number of final epochs without CutMix
    views: int | None = None


@dataclass
class TestOptions:
    """``sizes``: input sides to try on ``data.test`` after training; the most accurate is kept (FixRes)."""

    __test__: typing.ClassVar[bool] = False  # not a test class, despite its name
    sizes: list[int] = field(default_factory=lambda: [64])
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    batch_size: int = 200


@dataclass
class RunOptions:
    """Hardware and output. ``devices``, ``strategy`` and ``precision`` are Lightning's.

    ``devices`` counts those of one node; torchrun's own numbers take precedence. ``sync_batchnorm``: batch
    normalisation statistics over the whole batch, not each device's share (GPUs only).
    """

    out: str = "runs/train"
    seed: int = 0
    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    sync_batchnorm: bool = False
    precision: str = "32-true"
    channels_last: bool = False
    progress: bool = True
    tensorboard: bool = True
    half_weights: bool = True  # save the weights in half precision


@dataclass
class Recipe:
    """A complete training recipe; `read_recipe` reads one from a file."""

    name: str = "sightline"
    data: DataOptions = field(default_factory=DataOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    test: TestOptions = field(default_factory=TestOptions)
    run: RunOptions = field(default_factory=RunOptions)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def side(self, epoch: int) -> int:
        """Side in pixels of the training photos in ``epoch``."""
        return self.augment.sizes[max(start for start in self.augment.sizes if start <= epoch)]


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe and apply ``overrides`` such as ``"optimiser.lr=0.05"``.

    Raises `InputError` for a file that is missing or not YAML, an unknown key (with near matches), a value of the
    wrong type, and a value out of range.
    """
    return make_recipe(read_yaml(path, overrides))


def read_yaml(path: str | Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The nested keys of a YAML recipe (None: empty) with ``overrides`` applied, not yet validated."""
    if path is not None and not os.path.lexists(path):
        raise InputError(f"no such recipe: {path}")
    given = {} if path is None else files.read_yaml(path)
    if not isinstance(given, dict):
        raise InputError(f"{path} is not a recipe; expected keys such as data, model, optimiser")
    for override in overrides:
        _override(given, override)
    return given


def make_recipe(given: dict[str, Any]) -> Recipe:
    """A validated `Recipe` from nested dictionaries.

    >>> make_recipe({"optimiser": {"learning_rate": 1}})
    Traceback (most recent call last):
    sightline.errors.InputError: unknown recipe key 'optimiser.learning_rate'; ...
    """
    recipe: Recipe = build_options(Recipe, given)
    _check(recipe)
    return recipe


def _override(given: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set {override!r}: expected key=value, for example optimiser.lr=0.05")
    *path, last = key.split(".")
    for part in path:
        given = given.setdefault(part, {})
        if not isinstance(given, dict):
            raise InputError(f"--set {override!r}: {part} has no keys")
    try:
        given[last] = parse_yaml(text, "the value")
    except InputError:
        raise InputError(f"--set {override!r}: {text!r} is not a YAML value") from None


def build_options(cls: Any, given: Any, prefix: str = "") -> Any:
    """Build the dataclass ``cls`` from nested dictionaries, checking keys and types.

    >>> build_options(RunOptions, {"seed": 3}).seed
    3
    """
    if not isinstance(given, dict):
        raise InputError(f"recipe key {prefix.rstrip('.')!r} is {given!r}; expected keys below it")
    names = [f.name for f in dataclasses.fields(cls)]
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in names:
            raise unknown("recipe key", f"{prefix}{key}", [prefix + name for name in names])
        kind = hints[key]
        values[key] = (
            build_options(kind, value, f"{prefix}{key}.")
            if dataclasses.is_dataclass(kind)
            else _value(kind, value, prefix + key)
        )
    return cls(**values)


def _value(kind: Any, value: Any, key: str) -> Any:
    """``value`` as ``kind`` (int, float, list[int], dict[int, int], X | None, ...), or `InputError`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for choice in arguments:
            try:
                return _value(choice, value, key)
            except InputError:
                continue
    elif origin is list and isinstance(value, list):
        return [_value(arguments[0], item, key) for item in value]
    elif origin is dict and isinstance(value, dict):
        return {_value(arguments[0], k, key): _value(arguments[1], v, key) for k, v in value.items()}
    elif kind is float:
        number = _number(value)
        if number is not None:
            return number
    elif kind is Any or type(value) is kind:
        return value
    name = kind.__name__ if isinstance(kind, type) and not arguments else str(kind)
    raise InputError(f"recipe key {key!r} is {value!r}; expected {name}")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)  # YAML 1.1 reads 1e-3 as text
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _check(recipe: Recipe) -> None:
    o, a = recipe.optimiser, recipe.augment
    rules = [
        (bool(recipe.data.root), "data.root", recipe.data.root, "the folder or archive of the data"),
        (recipe.data.held_per_class >= 1, "data.held_per_class", recipe.data.held_per_class, "≥ 1"),
        (o.epochs >= 1, "optimiser.epochs", o.epochs, "≥ 1"),
        (o.batch_size >= 1, "optimiser.batch_size", o.batch_size, "≥ 1"),
        (o.lr > 0, "optimiser.lr", o.lr, "> 0"),
        (o.head_lr_factor > 0, "optimiser.head_lr_factor", o.head_lr_factor, "> 0"),
        (o.warmup_epochs >= 0, "optimiser.warmup_epochs", o.warmup_epochs, "≥ 0"),
        (0 <= o.label_smoothing < 1, "optimiser.label_smoothing", o.label_smoothing, "in [0, 1)"),
        (o.ema is None or 0 < o.ema < 1, "optimiser.ema", o.ema, "in (0, 1), or null"),
        (0 in a.sizes, "augment.sizes", a.sizes, "a side for epoch 0, for example {0: 64}"),
        (all(side >= 8 for side in a.sizes.values()), "augment.sizes", a.sizes, "sides ≥ 8"),
        (
            len(a.scale) == 2 and 0 < a.scale[0] <= a.scale[1] <= 1,
            "augment.scale",
            a.scale,
            "[low, high] in (0, 1]",
        ),
        (0 <= a.flip <= 1, "augment.flip", a.flip, "in [0, 1]"),
        (0 <= a.jitter < 1, "augment.jitter", a.jitter, "in [0, 1)"),
        (0 <= a.grey <= 1, "augment.grey", a.grey, "in [0, 1]"),
        (0 <= a.cutmix <= 1, "augment.cutmix", a.cutmix, "in [0, 1]"),
        (
            recipe.model.trainable is None or recipe.model.trainable >= 0,
            "model.trainable",
            recipe.model.trainable,
            "≥ 0",
        ),
        (
            a.views is None or (a.views >= 1 and recipe.model.trainable is not None),
            "augment.views",
            a.views,
            "≥ 1, and model.trainable",
        ),
        (a.views is None or not a.cutmix, "augment.cutmix", a.cutmix, "0 where augment.views is given"),
        (
            a.views is None or (list(a.sizes) == [0] and recipe.test.sizes == [*a.sizes.values()]),
            "test.sizes",
            recipe.test.sizes,
            f"{[*a.sizes.values()][:1]}, the one size of the kept views",
        ),
        (bool(recipe.test.sizes), "test.sizes", recipe.test.sizes, "at least one side"),
    ]
    for holds, key, value, expected in rules:
        if not holds:
            raise InputError(f"recipe key {key!r} is {value!r}; expected {expected}")
