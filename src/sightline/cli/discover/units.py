"""``sightline discover units``: the most heavily weighted units of a class, and what they respond to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from sightline.cli._options import Categories, DataOptions, Device, ModelName, Scores, Weights
from sightline.cli.discover._common import DATA, OUTPUT, BatchSize, DatasetName, Json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sightline.discovery.features import Source

UNITS = "Units"


def units(
    paths: Annotated[
        Optional[list[str]], typer.Argument(help="Photos, folders or patterns to search for top images.")
    ] = None,
    data: Annotated[
        Optional[Path],
        typer.Option(
            help="Use a data set instead: its folder (or Tiny ImageNet's zip).", rich_help_panel=DATA
        ),
    ] = None,
    dataset: DatasetName = None,
    split: Annotated[str, typer.Option(help="Split of the data set.", rich_help_panel=DATA)] = "val",
    data_option: DataOptions = None,
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    only_class: Annotated[
        Optional[list[str]],
        typer.Option(
            "--class", help="Class of the model, by name or index; repeatable.", rich_help_panel=UNITS
        ),
    ] = None,
    unit: Annotated[
        Optional[list[int]],
        typer.Option(help="Unit by number, whatever its weight; repeatable.", rich_help_panel=UNITS),
    ] = None,
    per_class: Annotated[int, typer.Option(min=1, help="Units per class.", rich_help_panel=UNITS)] = 3,
    top: Annotated[int, typer.Option(min=1, help="Top images per unit.", rich_help_panel=UNITS)] = 7,
    estimate_on: Annotated[
        int,
        typer.Option(
            min=1, help="Top images occluded to estimate the receptive field.", rich_help_panel=UNITS
        ),
    ] = 3,
    window: Annotated[
        Optional[int],
        typer.Option(
            min=1,
            help="Side of the occluder in input pixels. [default: 1/7 of the input]",
            rich_help_panel=UNITS,
        ),
    ] = None,
    stride: Annotated[
        Optional[int],
        typer.Option(
            min=1, help="Stride of the occluder in pixels. [default: half its side]", rich_help_panel=UNITS
        ),
    ] = None,
    fill: Annotated[
        str,
        typer.Option(
            help="grey or random. The paper's occluder: --window 11 --stride 3 --fill random (5,000 passes per photo).",
            rich_help_panel=UNITS,
        ),
    ] = "grey",
    batch_size: BatchSize = 32,
    device: Device = "auto",
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the picture (poster.png), table and manifest.json.", rich_help_panel=OUTPUT
        ),
    ] = Path("out/units"),
    json: Json = False,
) -> None:
    """Find each class's units with the largest weights, and each unit's top images, cropped to its field.

    ```console
    sightline discover units photos/ --class tabby --class 207 --model resnet50
    sightline discover units --data tiny-imagenet-40.zip --class monarch --class "king penguin"
    sightline discover units photos/ --unit 17 --model vgg16
    ```

    Exit codes: 0 success; 2 usage error; 3 some images could not be read (the others are done).
    """
    from sightline.cli._options import load_saying
    from sightline.cli._output import prepare_folder
    from sightline.cli.discover._common import finish
    from sightline.discovery.units import class_units
    from sightline.errors import InputError

    if (data is None) == (not paths):
        raise InputError("give either photos or --data with a data set")
    prepare_folder(out, "discover")
    loaded = load_saying(model, weights, categories, device, scores)
    sources, names = _images(paths or [], data, dataset, split, data_option or [])
    result, _ = class_units(
        loaded,
        sources,
        [int(name) if name.isdecimal() else name for name in only_class or []],
        unit or [],
        names=names,
        per_class=per_class,
        top=top,
        estimate_on=estimate_on,
        window=window,
        stride=stride,
        fill=fill,
        batch_size=batch_size,
        progress=not json,
    )
    finish(result, out, json)


def _images(
    paths: Sequence[str], data: Path | None, dataset: str | None, split: str, options: Sequence[str]
) -> tuple[Sequence[Source], list[str] | None]:
    """The images and, for a labelled data set, what each shows."""
    from sightline.data import load_dataset, parse_data_options
    from sightline.data.items import expand_paths

    if data is None:
        return expand_paths(paths), None
    found = load_dataset(data, dataset, split, **parse_data_options(data, dataset, options))
    if any(sample.label is None for sample in found.samples):
        return found.samples, None
    return found.samples, [found.categories[sample.label or 0] for sample in found.samples]
