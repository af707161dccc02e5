"""``sightline explain``: heatmaps and boxes for photos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sightline.cli._options import Categories, Device, ModelName, Weights

BOXES, HEAT, OUTPUT = "Boxes", "Heatmaps", "Output"


def explain(
    paths: Annotated[list[str], typer.Argument(help="Photos, folders, or patterns such as 'photos/*.jpg'.")],
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    method: Annotated[
        list[str] | None, typer.Option(help="A name of `sightline methods`; repeatable. [default: gradcam]")
    ] = None,
    classes: Annotated[
        str, typer.Option(help="top1, top5, topK, or names and indices with commas: tabby,243.")
    ] = "top1",
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the method, e.g. channels=64; repeatable.")
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="A name of `sightline layers MODEL`; repeatable.")
    ] = None,
    view: Annotated[
        str, typer.Option(help="What the network is shown: whole (photo) or crop (its own).")
    ] = "whole",
    normalise: Annotated[
        str, typer.Option(help="minmax, max, percentile or ivr.", rich_help_panel=HEAT)
    ] = "minmax",
    colormap: Annotated[str, typer.Option(help="Any matplotlib colour map.", rich_help_panel=HEAT)] = "turbo",
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Keep what is at least this share.", rich_help_panel=BOXES)
    ] = 0.2,
    standard: Annotated[
        str, typer.Option(help="The share of what: max or percentile.", rich_help_panel=BOXES)
    ] = "max",
    percentile: Annotated[
        float,
        typer.Option(min=0, max=100, help="Which percentile, where one is used.", rich_help_panel=BOXES),
    ] = 90.0,
    select: Annotated[
        str, typer.Option(help="largest or all of the regions.", rich_help_panel=BOXES)
    ] = "largest",
    out: Annotated[
        Path, typer.Option(help="Folder for panels and manifest.json.", rich_help_panel=OUTPUT)
    ] = Path("out/explain"),
    json: Annotated[
        bool, typer.Option("--json", help="Print the manifest, and nothing else.", rich_help_panel=OUTPUT)
    ] = False,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Photos in one forward pass.")] = 8,
) -> None:
    """Explain photos: a panel picture each, and manifest.json with classes, scores and boxes.

    ```console
    sightline explain photo.jpg
    sightline explain photos/ 'more/*.png' --model resnet50 --method cam --method layercam
    sightline explain dog.jpg -m squeezenet1_1 --classes "bull mastiff,tabby" --json
    sightline explain dog.jpg -m vgg16 --method scorecam --option channels=64 --layer features.22
    sightline explain dog.jpg -m resnet18 --weights mine.pth --categories names.txt
    ```

    Exit code 0: done; 2: a mistake in the command; 3: some images could not be read, the others are done.
    """
    from sightline.cli import MISTAKE, SOME_FAILED
    from sightline.cli import _run as road
    from sightline.cli._options import load, read_classes
    from sightline.cli._print import report_errors, show
    from sightline.cli._settings import checked_settings
    from sightline.data.images import expand_paths

    photos = road.photos_of(expand_paths(paths))
    settings = checked_settings(
        methods=method or ["gradcam"],
        options=option or [],
        layers=layer or [],
        view=view,
        normalise=normalise,
        threshold=threshold,
        standard=standard,
        percentile=percentile,
        select=select,
        colormap=colormap,
        batch_size=batch_size,
    )
    road.prepare_folder(out)
    loaded = load(model, weights, categories, device)
    settings = replace(settings, classes=read_classes(classes, loaded.categories))
    manifest = road.run(loaded, photos, settings, out, quiet=json)
    if json:
        typer.echo(road.as_json(manifest))
    elif manifest["images"]:
        show(manifest, out)
    if manifest["errors"]:
        report_errors(manifest["errors"], len(photos))
        raise typer.Exit(SOME_FAILED if manifest["images"] else MISTAKE)
