"""``sightline discover factors``: the concepts that many photos share, each named by the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from sightline.cli._options import Categories, Device, LayerLayout, ModelName, Scores, Weights
from sightline.cli.discover._common import MODEL, OUTPUT, BatchSize, Json, View


def factors(
    paths: Annotated[list[str], typer.Argument(help="Photos, folders or patterns.")],
    rank: Annotated[int, typer.Option(min=1, max=10, help="Number of concepts.")] = 5,
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    layer: Annotated[
        Optional[str],
        typer.Option(help="Layer to factorise. [default: the target layer]", rich_help_panel=MODEL),
    ] = None,
    layout: LayerLayout = "auto",
    view: View = "whole",
    batch_size: BatchSize = 32,
    device: Device = "auto",
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the picture (factors.png), table and manifest.json.", rich_help_panel=OUTPUT
        ),
    ] = Path("out/factors"),
    json: Json = False,
) -> None:
    """Factorise a layer over many photos (Collins et al. 2018): concept maps, and what the classifier calls each.

    ```console
    sightline discover factors photos/ --rank 5
    sightline discover factors 'dogs/*.jpg' --model resnet50 --layer layer3
    ```

    Exit codes: 0 success; 2 usage error; 3 some images could not be read (the others are done).
    """
    from sightline.cli._options import load_saying
    from sightline.cli._output import prepare_folder
    from sightline.cli.discover._common import finish
    from sightline.data.items import expand_paths
    from sightline.discovery.factors import photo_factors

    sources = expand_paths(paths)
    prepare_folder(out, "discover")
    loaded = load_saying(model, weights, categories, device, scores)
    result, _ = photo_factors(
        loaded, sources, rank, layer=layer, layout=layout, view=view, batch_size=batch_size
    )
    finish(result, out, json)
