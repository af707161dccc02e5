"""``sightline discover vqa``: answers to questions, and where in the image each is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from sightline.cli._options import Categories, Device, ModelName, Scores, Weights
from sightline.cli.discover._common import CACHE, DATA, OUTPUT, BatchSize, Cache, Json


def vqa(
    data: Annotated[
        Path, typer.Option(help="Folder of VQA v2's questions and annotations.", rich_help_panel=DATA)
    ],
    train: Annotated[
        str, typer.Option(help="Part of the training files' names.", rich_help_panel=DATA)
    ] = "train",
    test: Annotated[str, typer.Option(help="Part of the test files' names.", rich_help_panel=DATA)] = "val",
    images: Annotated[
        Optional[Path],
        typer.Option(help="Folder of all images. [default: DATA/train2014, …]", rich_help_panel=DATA),
    ] = None,
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    fusion: Annotated[
        str, typer.Option(help="How words and image are combined: add (the paper's), product or question.")
    ] = "add",
    answers: Annotated[int, typer.Option(min=2, help="Number of most frequent answers to learn.")] = 1000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training questions.")] = 60,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the initial weights and the order.")] = 0,
    cache: Cache = CACHE,
    out: Annotated[
        Path,
        typer.Option(help="Folder for the table, picture and manifest.json.", rich_help_panel=OUTPUT),
    ] = Path("out/vqa"),
    json: Json = False,
) -> None:
    """Answer questions from a bag of words and GAP features; report accuracy and map each answer.

    ```console
    sightline discover make vqa --data tiny-imagenet-40.zip --out made/vqa
    sightline discover vqa --data made/vqa
    sightline discover vqa --data VQA/ --train train2014 --test val2014 --model resnet50 --fusion product
    ```
    """
    from sightline.cli._options import load_saying
    from sightline.cli._output import prepare_folder
    from sightline.cli.discover._common import finish
    from sightline.data.adapters.vqa import read_vqa
    from sightline.discovery.vqa import answer_questions

    prepare_folder(out, "discover")
    where = None if images is None else images.resolve()
    splits = [read_vqa(data, split, images=where) for split in (train, test)]
    result = answer_questions(
        load_saying(model, weights, categories, device, scores),
        *splits,
        fusion=fusion,
        most_answers=answers,
        epochs=epochs,
        batch_size=batch_size,
        cache=cache,
        seed=seed,
        progress=not json,
    )
    finish(result, out, json)
