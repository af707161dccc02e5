"""Options that several verbs share, and how their text becomes values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sightline.errors import InputError

if TYPE_CHECKING:
    from sightline.models.loading import LoadedModel

ModelName = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="A name of `sightline models`, or a checkpoint made here. [default: lite0]"
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="A file (.safetensors, .pth), `none` (random), or a published set. [default: published]"
    ),
]
Categories = Annotated[
    Path | None, typer.Option(help="A text file with the class names, one a line, in the model's order.")
]
Scores = Annotated[
    str,
    typer.Option(
        help="How outputs become probabilities: auto, softmax, sigmoid, or none (they already are, or a regression)."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]

BOXES, HEAT, OUTPUT, DATA, METHODS = "Boxes", "Heatmaps", "Output", "Data", "Models and methods"
Classes = Annotated[str, typer.Option(help="top1, top5, topK, or names and indices with commas: tabby,243.")]
MethodOptions = Annotated[
    list[str] | None,
    typer.Option("--option", help="NAME=VALUE for the method, e.g. channels=64; repeatable."),
]
Layers = Annotated[
    list[str] | None, typer.Option("--layer", help="A name of `sightline layers MODEL`; repeatable.")
]
View = Annotated[str, typer.Option(help="What the network is shown: whole (photo) or crop (its own).")]
Normalise = Annotated[str, typer.Option(help="minmax, max, percentile or ivr.", rich_help_panel=HEAT)]
Colormap = Annotated[str, typer.Option(help="Any matplotlib colour map.", rich_help_panel=HEAT)]
Threshold = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Keep what is at least this share. [default: 0.2 of max, 0.35 of percentile]",
        rich_help_panel=BOXES,
    ),
]
RelativeTo = Annotated[
    str,
    typer.Option(
        "--relative-to", "--standard", help="The share of what: max or percentile.", rich_help_panel=BOXES
    ),
]
Percentile = Annotated[
    float, typer.Option(min=0, max=100, help="Which percentile, where one is used.", rich_help_panel=BOXES)
]
Select = Annotated[str, typer.Option(help="largest or all of the regions.", rich_help_panel=BOXES)]
Json = Annotated[
    bool, typer.Option("--json", help="Print the manifest, and nothing else.", rich_help_panel=OUTPUT)
]

# The options of the verbs that score a data set: `evaluate` and `faithfulness`.
Layout = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Its layout: tiny-imagenet, cub, ilsvrc, … [default: recognised]",
        rich_help_panel=DATA,
    ),
]
Split = Annotated[str, typer.Option(help="The split that is reported.", rich_help_panel=DATA)]
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
Limit = Annotated[
    int | None, typer.Option(min=1, help="At most so many images, evenly spaced.", rich_help_panel=DATA)
]
UnknownClasses = Annotated[
    str,
    typer.Option(help="refuse, or skip the images of classes that a model lacks.", rich_help_panel=DATA),
]
OnBad = Annotated[str, typer.Option(help="refuse or skip what cannot be scored.", rich_help_panel=DATA)]
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
Flip = Annotated[
    bool, typer.Option("--flip", help="Mean of the maps of image and mirror image.", rich_help_panel=METHODS)
]
InputSize = Annotated[
    int | None,
    typer.Option(min=1, help="Side of the input, instead of the model's.", rich_help_panel=METHODS),
]
Resamples = Annotated[int, typer.Option(min=1, help="Draws of the bootstrap.", rich_help_panel=OUTPUT)]
ReportFolder = Annotated[
    Path,
    typer.Option("--out", help="Folder for tables, pictures and manifest.json.", rich_help_panel=OUTPUT),
]
ReportJson = Annotated[
    bool, typer.Option("--json", help="Print the results as JSON, and nothing else.", rich_help_panel=OUTPUT)
]
BatchSize = Annotated[int, typer.Option(min=1, help="Photos in one forward pass.")]


def load(
    model: str | None, weights: str | None, categories: Path | None, device: str, scores: str = "auto"
) -> LoadedModel:
    """The model that the options name, on its device; without a name the default model."""
    from sightline.models.loading import load_model

    names = None if categories is None else read_categories(categories)
    said = None if scores == "auto" else scores  # a checkpoint may say it itself
    return load_model(model, weights=weights, categories=names, device=device, scores=said)


def load_models(
    names: Sequence[str],
    weights: Sequence[str | None],
    categories: Path | None,
    device: str,
    scores: str = "auto",
) -> dict[str, LoadedModel]:
    """The models by what they are called in a table: a checkpoint by its file's name.

    ``weights``: one for each name, or none at all.
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
    """A model's name; of a file its stem, of a training's ``weights.safetensors`` its folder.

    >>> _called("resnet50")
    'resnet50'
    """
    path = Path(name)
    if not path.is_file():
        return name
    return path.resolve().parent.name if path.stem == "weights" else path.stem


def read_categories(path: Path) -> list[str]:
    """Class names, one a line; an empty line inside the list is an error, as it would shift the others."""
    try:
        names = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"--categories {path}: {reason}") from None
    empty = [number for number, name in enumerate(names, start=1) if not name.strip()]
    if empty or not names:
        raise InputError(f"--categories {path}: line {(empty or [1])[0]} is empty; expected a class name")
    return [name.strip() for name in names]


def read_classes(text: str, categories: Sequence[str] | None) -> str | list[str]:
    """What ``--classes`` names: "topK", one class (its name may hold commas), or several with commas.

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
