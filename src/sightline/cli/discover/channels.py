"""``sightline discover channels``: the channel maps that add up to a class map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.cli._options import Categories, Classes, Device, ModelName, Scores, Weights
from sightline.cli.discover._common import OUTPUT, Json, View


def channels(
    paths: Annotated[list[str], typer.Argument(help="Photos, folders or patterns.")],
    classes: Classes = "top1",
    top: Annotated[int, typer.Option(min=1, max=12, help="Channels per class.")] = 5,
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    view: View = "whole",
    device: Device = "auto",
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the picture (channels.png), table and manifest.json.", rich_help_panel=OUTPUT
        ),
    ] = Path("out/channels"),
    json: Json = False,
) -> None:
    """Draw the channel maps that add up to a class map (Zhou et al. 2016, Figure 2), with their weights.

    ```console
    sightline discover channels photo.jpg
    sightline discover channels photo.jpg --classes "bull mastiff,tabby" --top 3
    ```
    """
    from sightline.cli._options import load_saying, read_classes
    from sightline.cli._output import prepare_folder
    from sightline.cli.discover._common import finish
    from sightline.data.items import expand_paths
    from sightline.discovery.channels import channel_maps

    sources = expand_paths(paths)
    prepare_folder(out, "discover")
    loaded = load_saying(model, weights, categories, device, scores)
    chosen = read_classes(classes, loaded.categories)
    finish(channel_maps(loaded, sources, chosen, top=top, view=view), out, json)
