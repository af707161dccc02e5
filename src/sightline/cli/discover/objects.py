"""``sightline discover objects``: what lies in the high region of a scene's map."""

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
    HeldPerClass,
    Json,
    OnlyClass,
)


def objects(
    data: Annotated[
        Path, typer.Option(help="Folder of scenes with object masks or boxes.", rich_help_panel=DATA)
    ],
    layout: Annotated[
        Optional[str],
        typer.Option(
            "--dataset",
            help="Layout of the data set: ade20k, sun or coco. [default: detected]",
            rich_help_panel=DATA,
        ),
    ] = None,
    train: Annotated[
        str,
        typer.Option(
            help="Split to learn scenes from; its object labels are not used.", rich_help_panel=DATA
        ),
    ] = "train",
    test: Annotated[str, typer.Option(help="Split whose objects are counted.", rich_help_panel=DATA)] = "val",
    held_per_class: HeldPerClass = 30,
    only_class: OnlyClass = None,
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Share of its maximum above which a map counts as high.")
    ] = 0.5,
    top: Annotated[int, typer.Option(min=1, help="Objects per scene in the table.")] = 6,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the cross-validation folds.")] = 0,
    cache: Cache = CACHE,
    out: Annotated[
        Path,
        typer.Option(help="Folder for the table, picture and manifest.json.", rich_help_panel=OUTPUT),
    ] = Path("out/objects"),
    json: Json = False,
) -> None:
    """Find the objects most often in the high region of each scene class's map.

    ```console
    sightline discover make objects --data tiny-imagenet-40.zip --out made/objects
    sightline discover objects --data made/objects
    sightline discover objects --data ADEChallengeData2016/ --model resnet50 --class bathroom --class kitchen
    sightline discover objects --data SUN/ --train all-fit --test all-heldout
    ```
    """
    from sightline.cli._options import load_saying
    from sightline.cli._output import prepare_folder
    from sightline.cli.discover._common import finish
    from sightline.data.adapters.scenes import read_scenes
    from sightline.discovery.objects import informative_objects

    prepare_folder(out, "discover")
    scenes = [read_scenes(data, split, layout, held_per_class) for split in (train, test)]
    result, _ = informative_objects(
        load_saying(model, weights, categories, device, scores),
        *scenes,
        classes=only_class,
        threshold=threshold,
        top=top,
        batch_size=batch_size,
        cache=cache,
        seed=seed,
        progress=not json,
    )
    finish(result, out, json)
