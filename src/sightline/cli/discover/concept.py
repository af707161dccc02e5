"""``sightline discover concept``: phrase detectors from captions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from sightline.cli._options import Categories, Device, ModelName, Scores, Weights
from sightline.cli.discover._common import CACHE, DATA, OUTPUT, BatchSize, Cache, Json


def concept(
    captions: Annotated[Path, typer.Argument(help="COCO's captions (.json), or a .csv with image,caption.")],
    phrase: Annotated[list[str], typer.Option(help="Phrase to detect, e.g. 'sea bird'; repeatable.")],
    images: Annotated[
        Optional[Path],
        typer.Option(
            help="Folder of the images. [default: COCO's, or the .csv's folder]", rich_help_panel=DATA
        ),
    ] = None,
    test: Annotated[
        Optional[Path],
        typer.Option(help="Captions of held-out images. [default: 30 % of the images]", rich_help_panel=DATA),
    ] = None,
    test_images: Annotated[
        Optional[Path], typer.Option(help="Folder of the held-out images.", rich_help_panel=DATA)
    ] = None,
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    rounds: Annotated[int, typer.Option(min=0, help="Rounds of hard-negative mining.")] = 2,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the random negatives and the folds.")] = 0,
    cache: Cache = CACHE,
    out: Annotated[
        Path,
        typer.Option(help="Folder for the table, picture and manifest.json.", rich_help_panel=OUTPUT),
    ] = Path("out/concept"),
    json: Json = False,
) -> None:
    """Train a detector per phrase; report its average precision on held-out captions and map its top images.

    ```console
    sightline discover make concept --data tiny-imagenet-40.zip --out made/concept
    sightline discover concept made/concept/annotations/captions_train.json \\
        --test made/concept/annotations/captions_val.json --phrase "sea bird" --phrase "yellow fruit"
    sightline discover concept captions.csv --images photos/ --phrase "view out of a window"
    ```
    """
    from sightline.cli._options import load_saying
    from sightline.cli._output import prepare_folder
    from sightline.cli.discover._common import finish
    from sightline.data.adapters.captions import read_captions
    from sightline.discovery.concept import concepts, hold_out_images

    prepare_folder(out, "discover")
    training = read_captions(captions, images)
    if test is None:
        training, held = hold_out_images(training, seed=seed)
    else:
        held = read_captions(test, test_images)
    result, _ = concepts(
        load_saying(model, weights, categories, device, scores),
        phrase,
        training,
        held,
        rounds=rounds,
        batch_size=batch_size,
        cache=cache,
        seed=seed,
        progress=not json,
    )
    finish(result, out, json)
