"""``sightline boxes``: boxes for annotators, from a classifier that was trained on image labels alone."""

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


def boxes(
    paths: Annotated[list[str], typer.Argument(help="Photos, folders, patterns such as 'photos/*.jpg'.")],
    format: Annotated[str, typer.Option(help="coco, voc, yolo, label-studio, cvat or csv.")] = "coco",
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
        "out/boxes"
    ),
    copy_photos: CopyPhotos = False,
    review: Review = 24,
    json: JsonOnly = False,
    device: Device = "auto",
    batch_size: BatchSize = 8,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read photos.")] = 1,
) -> None:
    """Boxes for annotators, with a score and a doubt each, and a review list sorted by doubt.

    ```console
    sightline boxes photos/ --format coco
    sightline boxes photos/ -m mine.safetensors --format yolo --copy-photos --out out/yolo
    sightline boxes 'photos/*.jpg' --classes "tabby,tiger cat" --least-score 0.3 --format label-studio
    sightline boxes photos/ --format voc --sam facebook/sam-vit-base
    ```

    doubt = 1 − score × gini: the class's probability, and how concentrated the heat is (Gini index). It orders the work
    of whoever checks the boxes; it is not the probability of an error.

    If interrupted, run the same command again to resume. Another --format of the same boxes is written at once.

    Exit code 0: done; 2: a mistake in the command; 3: some images could not be read, the others are done.
    """
    from sightline.labels.files import BOX_FORMATS
    from sightline.types import BoxRule

    check_format(format, BOX_FORMATS)
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
