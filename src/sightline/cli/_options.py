"""Options shared by several verbs, and how their text is parsed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sightline.errors import InputError

if TYPE_CHECKING:
    from sightline.models.loading import LoadedModel
    from sightline.pipeline_files import ExplainOptions

ModelName = Annotated[
    str | None,
    typer.Option("--model", "-m", help="A name from `sightline models`, or a checkpoint. [default: lite0]"),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="A file (.safetensors, .pth), `none` (random), or a published set. [default: published]"
    ),
]
Categories = Annotated[
    Path | None, typer.Option(help="A text file with the class names, one per line, in the model's order.")
]
Scores = Annotated[
    str,
    typer.Option(
        help="How outputs become probabilities: auto, softmax, sigmoid, or none (they already are, or a regression)."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]

BOXES, HEAT, OUTPUT, DATA, METHODS = "Boxes", "Heatmaps", "Output", "Data", "Models and methods"
Classes = Annotated[
    str, typer.Option(help="top1, top5, topK, or comma-separated names and indices: tabby,243.")
]
MethodOptions = Annotated[
    list[str] | None,
    typer.Option("--option", help="NAME=VALUE for the method, e.g. channels=64; repeatable."),
]
Layers = Annotated[
    list[str] | None, typer.Option("--layer", help="A name from `sightline layers MODEL`; repeatable.")
]
LayerLayout = Annotated[
    str,
    typer.Option(
        "--layout",
        help="How the tensor of --layer is a map: nchw, nhwc, ntc:14x14, ntc:1+14x14 (prefix tokens first), nct:…; "
        "auto: found.",
    ),
]
View = Annotated[str, typer.Option(help="What the network sees: the whole photo, or its usual crop.")]
Normalise = Annotated[
    str | None,
    typer.Option(
        help="minmax, max, percentile or ivr. [default: max for occlusion, minmax for the others]",
        rich_help_panel=HEAT,
    ),
]
OneNormalise = Annotated[str, typer.Option(help="minmax, max, percentile or ivr.", rich_help_panel=HEAT)]
Colormap = Annotated[str, typer.Option(help="Any matplotlib colour map.", rich_help_panel=HEAT)]
Threshold = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Keep values of at least this share. [default: 0.2 of max, 0.35 of percentile]",
        rich_help_panel=BOXES,
    ),
]
RelativeTo = Annotated[
    str,
    typer.Option(
        "--relative-to",
        help="What --threshold is a share of: max or percentile.",
        rich_help_panel=BOXES,
    ),
]
Percentile = Annotated[
    float, typer.Option(min=0, max=100, help="The percentile to use, if any.", rich_help_panel=BOXES)
]
Select = Annotated[str, typer.Option(help="largest region, or all regions.", rich_help_panel=BOXES)]
Json = Annotated[bool, typer.Option("--json", help="Print only the manifest.", rich_help_panel=OUTPUT)]

ResultJson = Annotated[bool, typer.Option("--json", help="Print only what was made, as JSON.")]
TableJson = Annotated[bool, typer.Option("--json", help="Print the table as JSON.")]

# The options of the verbs that score a data set: `evaluate` and `faithfulness`.
Layout = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Its layout: tiny-imagenet, cub, ilsvrc, … [default: detected]",
        rich_help_panel=DATA,
    ),
]
Split = Annotated[str, typer.Option(help="The split to report.", rich_help_panel=DATA)]
HeldPerClass = Annotated[
    int, typer.Option(min=1, help="Images per class in SPLIT-heldout.", rich_help_panel=DATA)
]
DataOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--data-option",
        help="NAME=VALUE for the layout, e.g. images=FOLDER; repeatable.",
        rich_help_panel=DATA,
    ),
]
ClassNames = Annotated[
    str | None,
    typer.Option(
        help="What the model calls the classes: a CSV of two columns, or a table that is included "
        "(cub-200-2011, leeds-butterflies).",
        rich_help_panel=DATA,
    ),
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="At most this many images, evenly spaced.", rich_help_panel=DATA)
]
UnknownClasses = Annotated[
    str,
    typer.Option(help="refuse, or skip images of classes that a model lacks.", rich_help_panel=DATA),
]
OnBad = Annotated[
    str, typer.Option(help="refuse, or skip images that cannot be scored.", rich_help_panel=DATA)
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        help="NAME or NAME:OPTION=VALUE:flip, e.g. cam:nwc=true; repeatable. [default: cam]",
        rich_help_panel=METHODS,
    ),
]
CommonOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option", help="NAME=VALUE for every method that has it; repeatable.", rich_help_panel=METHODS
    ),
]
CommonLayers = Annotated[
    list[str] | None,
    typer.Option("--layer", help="Target layer; several are fused into one map.", rich_help_panel=METHODS),
]
CommonLayout = Annotated[
    str,
    typer.Option(
        "--layout", help="As in `sightline explain`: nchw, nhwc, ntc:1+14x14, …", rich_help_panel=METHODS
    ),
]
Flip = Annotated[
    bool,
    typer.Option(
        "--flip", help="Average the maps of the image and its mirror image.", rich_help_panel=METHODS
    ),
]
InputSize = Annotated[
    int | None,
    typer.Option(min=1, help="Input side, instead of the model's own.", rich_help_panel=METHODS),
]
Resamples = Annotated[int, typer.Option(min=1, help="Bootstrap resamples.", rich_help_panel=OUTPUT)]
ReportFolder = Annotated[
    Path,
    typer.Option("--out", help="Folder for tables, pictures and manifest.json.", rich_help_panel=OUTPUT),
]
ReportJson = Annotated[
    bool, typer.Option("--json", help="Print only the results, as JSON.", rich_help_panel=OUTPUT)
]
BatchSize = Annotated[int, typer.Option(min=1, help="Photos per forward pass.")]


def load(
    model: str | None,
    weights: str | None,
    categories: Path | None,
    device: str,
    scores: str = "auto",
    *,
    fast: bool = True,
) -> LoadedModel:
    """The model given by the options, on its device; without a name, the default model.

    ``fast``: in the memory format that is usually faster; results differ by rounding.
    """
    from sightline.models.loading import load_model
    from sightline.runtime import in_fast_format

    names = None if categories is None else read_categories(categories)
    rule = None if scores == "auto" else scores  # a checkpoint may have its own
    loaded = load_model(model, weights=weights, categories=names, device=device, scores=rule)
    return in_fast_format(loaded) if fast else loaded


def load_for(
    options: ExplainOptions, loading: tuple[str | None, str | None, Path | None, str], device: str
) -> tuple[LoadedModel, ExplainOptions]:
    """The model (name, weights, categories, scores), and the options with the classes named as it names them."""
    model, weights, categories, scores = loading
    loaded = load(model, weights, categories, device, scores)
    if options.target is None:
        options = replace(options, classes=read_classes(str(options.classes), loaded.categories))
    return loaded, options


def load_saying(
    model: str | None, weights: str | None, categories: Path | None, device: str, scores: str = "auto"
) -> LoadedModel:
    """As `load`, with one line on stderr if the classification layer is untrained."""
    loaded = load(model, weights, categories, device, scores)
    say_untrained(loaded)
    return loaded


def say_untrained(model: LoadedModel) -> None:
    """One line on stderr if the model's classification layer is untrained."""
    from sightline.cli._print import UNTRAINED

    if not getattr(model, "trained_head", True):
        print(f"sightline: {model.name}: {UNTRAINED}", file=sys.stderr)


def load_models(
    names: Sequence[str],
    weights: Sequence[str | None],
    categories: Path | None,
    device: str,
    scores: str = "auto",
) -> dict[str, LoadedModel]:
    """The models by their names in a table: a checkpoint by its file name.

    ``weights``: one per name, or none at all.
    """
    if weights and len(weights) != len(names):
        raise InputError(f"{len(weights)} --weights for {len(names)} --model; expected one each, or none")
    if not names:
        bundled = load(None, None, categories, device, scores)
        return {bundled.name: bundled}
    found: dict[str, LoadedModel] = {}
    for place, name in enumerate(names):
        file = weights[place] if weights else None
        label = _called(name)
        if label in found:
            label = " ".join(filter(None, [name, file])) if name != label or file else f"{name} ({place + 1})"
        found[label] = load(name, file, categories, device, scores)
    return found


def _called(name: str) -> str:
    """A model's name; for a file its stem, for a training run's ``weights.safetensors`` its folder.

    >>> _called("resnet50")
    'resnet50'
    """
    path = Path(name)
    if not path.is_file():
        return name
    return path.resolve().parent.name if path.stem == "weights" else path.stem


def read_categories(path: Path) -> list[str]:
    """Class names, one per line; an empty line in the middle is an error, since it would shift the rest."""
    from sightline.files import read_text

    try:
        names = read_text(path).rstrip().splitlines()
    except InputError as error:
        raise InputError(f"--categories {path}: {error}") from None
    empty = [number for number, name in enumerate(names, start=1) if not name.strip()]
    if empty or not names:
        raise InputError(f"--categories {path}: line {(empty or [1])[0]} is empty; expected a class name")
    return [name.strip() for name in names]


def read_classes(text: str, categories: Sequence[str] | None) -> str | list[str]:
    """Parse ``--classes``: "topK", one class (whose name may contain commas), or several, comma-separated.

    >>> read_classes("243, tabby", None), read_classes("tabby, tabby cat", ["tabby, tabby cat"])
    (['243', 'tabby'], ['tabby, tabby cat'])
    """
    whole = " ".join(text.split())
    if whole.startswith("top") and whole[3:].isdecimal():
        return whole
    if whole.lower() in (" ".join(name.lower().split()) for name in categories or ()):
        return [whole]
    found = [part.strip() for part in whole.split(",")]
    if not all(found):
        raise InputError(f"--classes {text!r}: expected top1, top5, or names and indices such as tabby,243")
    return found
