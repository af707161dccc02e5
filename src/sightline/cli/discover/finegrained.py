"""``sightline discover finegrained``: whole image, predicted box, true box."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

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
    OnlyClass,
)


def finegrained(
    data: Annotated[
        Path, typer.Option(help="The data set's folder (or Tiny ImageNet's zip).", rich_help_panel=DATA)
    ],
    dataset: DatasetName = None,
    train: Annotated[str, typer.Option(help="Split to train on.", rich_help_panel=DATA)] = "train",
    test: Annotated[
        Optional[list[str]],
        typer.Option(
            help="Split to test on; repeat to join several. [default: test for cub, else val]",
            rich_help_panel=DATA,
        ),
    ] = None,
    held_per_class: HeldPerClass = 30,
    only_class: OnlyClass = None,
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    threshold: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of a map's maximum at which it is cut; 0.2 in the paper."),
    ] = 0.2,
    choose_threshold: Annotated[
        bool,
        typer.Option(
            "--choose-threshold", help="Choose it on the true boxes of the training images instead."
        ),
    ] = False,
    margin: Annotated[
        float,
        typer.Option(min=0, max=1, help="Margin on each side of a box, as a share of its width and height."),
    ] = 0.1,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the cross-validation folds.")] = 0,
    cache: Cache = CACHE,
    out: Annotated[
        Path,
        typer.Option(help="Folder for the table, picture and manifest.json.", rich_help_panel=OUTPUT),
    ] = Path("out/finegrained"),
    json: Json = False,
) -> None:
    """Compare linear SVMs on features of the whole image, the predicted box and the true box.

    ```console
    sightline discover finegrained --data CUB_200_2011/ --dataset cub --model googlenet
    sightline discover finegrained --data tiny-imagenet-40.zip --train train-fit --test train-heldout --test val \\
        --held-per-class 150 --class tabby --class "Persian cat" --class "Egyptian cat"
    ```
    """
    from sightline.cli._options import load_saying
    from sightline.cli._output import prepare_folder
    from sightline.cli.discover._common import finish
    from sightline.data import detect_dataset, load_dataset
    from sightline.discovery.finegrained import fine_grained
    from sightline.discovery.subsets import join_splits, only_classes

    prepare_folder(out, "discover")
    layout = dataset or detect_dataset(data)
    parts = [
        only_classes(load_dataset(data, layout, split, held_per_class=held_per_class), only_class)
        for split in (train, *(test or ["test" if layout == "cub" else "val"]))
    ]
    result, _ = fine_grained(
        load_saying(model, weights, categories, device, scores),
        parts[0],
        join_splits(parts[1:]),
        threshold=None if choose_threshold else threshold,
        margin=margin,
        batch_size=batch_size,
        cache=cache,
        seed=seed,
        progress=not json,
    )
    finish(result, out, json)
