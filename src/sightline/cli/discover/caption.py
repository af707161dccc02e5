"""``sightline discover caption``: where in the image each word of a caption is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.cli._options import Categories, Device, ModelName, Scores, Weights
from sightline.cli.discover._common import CACHE, DATA, OUTPUT, BatchSize, Cache, Json


def caption(
    data: Annotated[
        Path,
        typer.Option(help="Folder of COCO's captions (and instances, for scoring).", rich_help_panel=DATA),
    ],
    train: Annotated[
        str, typer.Option(help="Train on annotations/captions_TRAIN.json.", rich_help_panel=DATA)
    ] = "train",
    test: Annotated[
        str, typer.Option(help="Caption the images of annotations/captions_TEST.json.", rich_help_panel=DATA)
    ] = "val",
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    method: Annotated[str, typer.Option(help="A name of `sightline methods`.")] = "gradcam",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training captions.")] = 100,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the initial weights and the order.")] = 0,
    cache: Cache = CACHE,
    out: Annotated[
        Path,
        typer.Option(help="Folder for the table, picture and manifest.json.", rich_help_panel=OUTPUT),
    ] = Path("out/caption"),
    json: Json = False,
) -> None:
    """Train a small captioner on a frozen trunk and map every word it predicts.

    ```console
    sightline discover make caption --data tiny-imagenet-40.zip --out made/caption
    sightline discover caption --data made/caption
    sightline discover caption --data coco/ --train train2017 --test val2017 --model resnet50 --method hirescam
    ```
    """
    from sightline.cli._options import load_saying
    from sightline.cli._output import prepare_folder
    from sightline.cli.discover._common import finish
    from sightline.data.adapters.captions import read_captions
    from sightline.data.adapters.coco import read_coco
    from sightline.discovery.caption import boxes_of_words, caption_images
    from sightline.methods import get_method

    prepare_folder(out, "discover")
    get_method(method)
    annotations = data / "annotations"
    splits = [read_captions(annotations / f"captions_{split}.json") for split in (train, test)]
    instances = annotations / f"instances_{test}.json"
    boxes = None
    if instances.is_file():
        boxes = boxes_of_words(read_coco(data, annotations=instances.relative_to(data), allow_empty=True))
    result, _ = caption_images(
        load_saying(model, weights, categories, device, scores),
        *splits,
        boxes=boxes,
        method=method,
        epochs=epochs,
        batch_size=batch_size,
        cache=cache,
        seed=seed,
        progress=not json,
    )
    finish(result, out, json)
