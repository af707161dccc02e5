"""``sightline discover text``: a detector of text that never saw a box."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.cli._options import Categories, Device, ModelName, Scores, Weights
from sightline.cli.discover._common import (
    CACHE,
    DATA,
    OUTPUT,
    BatchSize,
    Cache,
    DatasetName,
    HeldPerClass,
    Json,
)


def text(
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of two class folders, with and without; or with splits.", rich_help_panel=DATA
        ),
    ],
    positive: Annotated[
        str, typer.Option(help="The class that has text (or whatever is looked for).", rich_help_panel=DATA)
    ] = "text",
    dataset: DatasetName = None,
    train: Annotated[
        str, typer.Option(help="The split that is learnt from; all-fit without splits.", rich_help_panel=DATA)
    ] = "train",
    test: Annotated[
        str,
        typer.Option(help="The split that is tested on; all-heldout without splits.", rich_help_panel=DATA),
    ] = "test",
    held_per_class: HeldPerClass = 30,
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    batch_size: BatchSize = 64,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Of the folds of the cross-validation.")] = 0,
    cache: Cache = CACHE,
    out: Annotated[
        Path,
        typer.Option(help="Folder for the table, the picture and manifest.json.", rich_help_panel=OUTPUT),
    ] = Path("out/text"),
    json: Json = False,
) -> None:
    """Accuracy of a detector from images with and without, and how much of its map lies in the true boxes.

    ```console
    sightline discover make text --data tiny-imagenet-40.zip --out made/text
    sightline discover text --data made/text --model squeezenet1_1
    sightline discover text --data signs/ --positive sign --train all-fit --test all-heldout
    ```
    """
    from sightline.cli._options import load
    from sightline.cli._output import prepare_folder
    from sightline.cli.discover._common import finish
    from sightline.data import load_dataset
    from sightline.discovery.text import text_detector

    prepare_folder(out, "discover")
    splits = [load_dataset(data, dataset, split, held_per_class=held_per_class) for split in (train, test)]
    result = text_detector(
        load(model, weights, categories, device, scores),
        *splits,
        positive=positive,
        batch_size=batch_size,
        cache=cache,
        seed=seed,
        progress=not json,
    )
    finish(result, out, json)
