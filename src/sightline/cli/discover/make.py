"""``sightline discover make``: example data composed from real photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.cli._options import ResultJson
from sightline.cli.discover._common import DATA, OUTPUT, DatasetName, HeldPerClass


def make(
    kind: Annotated[
        str, typer.Argument(help="Verb to make data for: objects, concept, text, vqa or caption.")
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="Data set with the photos: its folder (or Tiny ImageNet's zip).", rich_help_panel=DATA
        ),
    ],
    out: Annotated[Path, typer.Option(help="Output folder; must be empty.", rich_help_panel=OUTPUT)],
    dataset: DatasetName = None,
    train: Annotated[
        str, typer.Option(help="Split whose photos go into the training images.", rich_help_panel=DATA)
    ] = "train",
    test: Annotated[
        str, typer.Option(help="Split whose photos go into the test images.", rich_help_panel=DATA)
    ] = "val",
    held_per_class: HeldPerClass = 30,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same data.")] = 0,
    json: ResultJson = False,
) -> None:
    """Make a verb's example data, in standard formats, from real photos with known boxes.

    ```console
    sightline discover make objects --data tiny-imagenet-40.zip --out made/objects
    sightline discover make caption --data tiny-imagenet-40.zip --out made/caption --seed 1
    ```
    """
    from sightline.cli._print import print_json
    from sightline.data import load_dataset
    from sightline.discovery.examples import KINDS, maker
    from sightline.discovery.subsets import check_disjoint
    from sightline.errors import unknown

    if kind not in KINDS:
        raise unknown("kind of data", kind, KINDS)
    splits = [load_dataset(data, dataset, split, held_per_class=held_per_class) for split in (train, test)]
    check_disjoint(*splits)
    maker(kind)(out, *splits, seed=seed)
    files = sum(1 for path in out.rglob("*") if path.is_file())
    if json:
        print_json({"folder": str(out), "files": files})
    else:
        typer.echo(f"{files} files in {out}")
