"""``sightline masks``: masks for annotators, from a classifier that was trained on image labels alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.cli._labels import CopyPhotos, JsonOnly, LeastScore, Method, Review, Sam, check_format, label
from sightline.cli._options import (
    BatchSize,
    Categories,
    Classes,
    Device,
    ModelName,
    Normalise,
    Percentile,
    RelativeTo,
    Scores,
    Select,
    Threshold,
    View,
    Weights,
)


def masks(
    paths: Annotated[list[str], typer.Argument(help="Photos, folders, patterns such as 'photos/*.jpg'.")],
    format: Annotated[str, typer.Option(help="coco-rle, voc-png or indexed-png.")] = "coco-rle",
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    method: Method = "localise",
    classes: Classes = "top1",
    least_score: LeastScore = 0.0,
    sam: Sam = None,
    view: View = "whole",
    normalise: Normalise = None,
    threshold: Threshold = None,
    relative_to: RelativeTo = "max",
    percentile: Percentile = 90.0,
    select: Select = "largest",
    out: Annotated[Path, typer.Option(help="Folder for the annotations.", rich_help_panel="Output")] = Path(
        "out/masks"
    ),
    copy_photos: CopyPhotos = False,
    review: Review = 24,
    json: JsonOnly = False,
    device: Device = "auto",
    batch_size: BatchSize = 8,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read photos.")] = 1,
) -> None:
    """Masks for annotators: the region behind each box, or what SAM makes of it.

    ```console
    sightline masks photos/ --format coco-rle
    sightline masks photos/ -m mine.safetensors --format voc-png --copy-photos --out out/voc
    sightline masks photos/ --classes "tabby,tiger cat" --format indexed-png
    sightline masks photos/ --sam facebook/sam-vit-base
    ```

    In an indexed PNG a pixel's value is its class, 0 the background; classes.csv says which. Where two regions meet,
    the less doubtful one wins. With --select all, each box has the part of the region that lies inside it.

    If interrupted, run the same command again to resume. review.csv lists all regions, most doubtful first.

    Exit code 0: done; 2: a mistake in the command; 3: some images could not be read, the others are done.
    """
    from sightline.labels.files import MASK_FORMATS
    from sightline.types import BoxRule

    check_format(format, MASK_FORMATS)
    rule = BoxRule.of(
        threshold=threshold,
        relative_to=relative_to,
        normalise=normalise,
        select=select,
        percentile=percentile,
    )
    label(
        paths,
        loading=(model, weights, categories, scores),
        device=device,
        classes=classes,
        out=out,
        json=json,
        sam=sam,
        format=format,
        method=method,
        rule=rule,
        view=view,
        least_score=least_score,
        copy_photos=copy_photos,
        batch_size=batch_size,
        workers=workers,
        review=review,
    )
