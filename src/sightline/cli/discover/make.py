"""``sightline discover make``: the data of the examples, composed of real photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.cli.discover._common import DATA, OUTPUT, DatasetName, HeldPerClass


def make(
    kind: Annotated[str, typer.Argument(help="For which verb: objects, concept, text, vqa or caption.")],
    data: Annotated[
        Path,
        typer.Option(help="The photos: a data set's folder (or Tiny ImageNet's zip).", rich_help_panel=DATA),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for what is made; it must be empty.", rich_help_panel=OUTPUT)
    ],
    dataset: DatasetName = None,
    train: Annotated[
        str, typer.Option(help="The split whose photos make the images to learn from.", rich_help_panel=DATA)
    ] = "train",
    test: Annotated[
        str, typer.Option(help="The split whose photos make the images to test on.", rich_help_panel=DATA)
    ] = "val",
    held_per_class: HeldPerClass = 30,
    seed: Annotated[int, typer.Option(help="The same seed makes the same data.")] = 0,
) -> None:
    """Make the example data of a verb, in the field's own formats, from real photos with known boxes.

    ```console
    sightline discover make objects --data tiny-imagenet-40.zip --out made/objects
    sightline discover make caption --data tiny-imagenet-40.zip --out made/caption --seed 1
    ```
    """
    from sightline.data import load_dataset
    from sightline.discovery.examples import KINDS, maker
    from sightline.discovery.subsets import apart
    from sightline.errors import unknown

    if kind not in KINDS:
        raise unknown("kind of data", kind, KINDS)
    splits = [load_dataset(data, dataset, split, held_per_class=held_per_class) for split in (train, test)]
    apart(*splits)
    maker(kind)(out, *splits, seed=seed)
    typer.echo(f"{sum(1 for path in out.rglob('*') if path.is_file())} files in {out}")
