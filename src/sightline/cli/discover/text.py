"""``sightline discover text``: a text detector trained without boxes."""

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
            help="Folder with two class folders, with and without text; or with splits.", rich_help_panel=DATA
        ),
    ],
    positive: Annotated[
        str, typer.Option(help="Class with text (or whatever is to be detected).", rich_help_panel=DATA)
    ] = "text",
    dataset: DatasetName = None,
    train: Annotated[
        str, typer.Option(help="Split to train on; all-fit if there are no splits.", rich_help_panel=DATA)
    ] = "train",
    test: Annotated[
        str,
        typer.Option(help="Split to test on; all-heldout if there are no splits.", rich_help_panel=DATA),
    ] = "test",
    held_per_class: HeldPerClass = 30,
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    batch_size: BatchSize = 64,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the cross-validation folds.")] = 0,
    cache: Cache = CACHE,
    out: Annotated[
        Path,
        typer.Option(help="Folder for the table, picture and manifest.json.", rich_help_panel=OUTPUT),
    ] = Path("out/text"),
    json: Json = False,
) -> None:
    """Train a detector on images with and without text; report its accuracy and the map energy in true boxes.

    ```console
    sightline discover make text --data tiny-imagenet-40.zip --out made/text
    sightline discover text --data made/text --model squeezenet1_1
    sightline discover text --data signs/ --positive sign --train all-fit --test all-heldout
    ```
    """
    from sightline.cli._options import load_saying
    from sightline.cli._output import prepare_folder
    from sightline.cli.discover._common import finish
    from sightline.data import load_dataset
    from sightline.discovery.text import text_detector

    prepare_folder(out, "discover")
    splits = [load_dataset(data, dataset, split, held_per_class=held_per_class) for split in (train, test)]
    result = text_detector(
        load_saying(model, weights, categories, device, scores),
        *splits,
        positive=positive,
        batch_size=batch_size,
        cache=cache,
        seed=seed,
        progress=not json,
    )
    finish(result, out, json)
