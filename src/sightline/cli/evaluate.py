"""``sightline evaluate``: classification and localisation scores with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sightline.cli._options import (
    BOXES,
    DATA,
    METHODS,
    BatchSize,
    Categories,
    ClassNames,
    CommonLayers,
    CommonLayout,
    CommonOptions,
    DataOptions,
    Device,
    Flip,
    HeldPerClass,
    InputSize,
    Layout,
    Limit,
    Methods,
    OnBad,
    OneNormalise,
    Percentile,
    ReportFolder,
    ReportJson,
    Resamples,
    Scores,
    Split,
    UnknownClasses,
    View,
)


def evaluate(
    data: Annotated[
        Path, typer.Option(help="The data set's folder (or Tiny ImageNet's zip).", rich_help_panel=DATA)
    ],
    dataset: Layout = None,
    split: Split = "val",
    choose_threshold_on: Annotated[
        str | None,
        typer.Option(help="Another split to choose thresholds on: train-heldout, …", rich_help_panel=DATA),
    ] = None,
    pseudo_boxes: Annotated[
        str | None,
        typer.Option(
            help="Choose thresholds on boxes of this method, e.g. localise, not on true ones: the realistic protocol.",
            rich_help_panel=DATA,
        ),
    ] = None,
    held_per_class: HeldPerClass = 30,
    data_option: DataOptions = None,
    class_names: ClassNames = None,
    limit: Limit = None,
    on_bad: OnBad = "refuse",
    unknown_classes: UnknownClasses = "refuse",
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="As for `explain`; repeatable. [default: lite0]", rich_help_panel=METHODS
        ),
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="One per --model, in the same order.", rich_help_panel=METHODS)
    ] = None,
    categories: Categories = None,
    scores: Scores = "auto",
    method: Methods = None,
    heatmaps: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder of saved maps (.npy, .npz, .png) named by image id; repeatable.",
            rich_help_panel=METHODS,
        ),
    ] = None,
    heatmap_size: Annotated[
        str, typer.Option(help="Size of the saved maps: photo, or HEIGHTxWIDTH.", rich_help_panel=METHODS)
    ] = "photo",
    option: CommonOptions = None,
    layer: CommonLayers = None,
    layout: CommonLayout = "auto",
    flip: Flip = False,
    gt_only: Annotated[
        bool,
        typer.Option(
            "--gt-only", help="Only maps of the true class, for slow methods.", rich_help_panel=METHODS
        ),
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=0.999, help="[default: 0.2 of max, 0.35 of percentile]", rich_help_panel=BOXES
        ),
    ] = None,
    relative_to: Annotated[
        list[str] | None,
        typer.Option(
            "--relative-to",
            help="What --threshold is a share of: max or percentile; repeatable, one row each. [default: max]",
            rich_help_panel=BOXES,
        ),
    ] = None,
    percentile: Percentile = 90.0,
    normalise: OneNormalise = "minmax",
    protocol: Annotated[
        str, typer.Option(help="exact, wsol-v1, wsol-v2, rethinking or pxap.", rich_help_panel=BOXES)
    ] = "exact",
    view: View = "whole",
    input_size: InputSize = None,
    out: ReportFolder = Path("out/evaluate"),
    json: ReportJson = False,
    resamples: Resamples = 2000,
    device: Device = "auto",
    batch_size: BatchSize = 32,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read photos and score maps.")] = 1,
    engine: Annotated[str, typer.Option(help="local, or ray (models in actors).")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster. [default: this machine]")
    ] = None,
) -> None:
    """Score models and methods on a data set: classification, localisation, GT-known, with intervals.

    ```console
    sightline evaluate --data tiny-imagenet-40.zip --choose-threshold-on train-heldout
    sightline evaluate --data CUB_200_2011 -m vgg16-gap.safetensors --method cam --method cam:nwc=true
    sightline evaluate --data metadata/CUB --split test --heatmaps maps --heatmap-size 224 --protocol wsol-v2
    sightline evaluate --data ILSVRC2012 -m resnet50 --engine ray --address auto
    ```

    Exit code 0: done; 2: a mistake in the command; 3: some images were skipped, the others are done.
    """
    from sightline.cli._options import load_models
    from sightline.cli._output import prepare_folder
    from sightline.cli._report import finish
    from sightline.data import load_dataset, parse_data_options
    from sightline.evaluation import EvaluationOptions
    from sightline.evaluation import evaluate as run
    from sightline.evaluation.options import box_rules
    from sightline.methods.spec import parse_methods
    from sightline.progress import progress_bar

    specs = parse_methods(method or ["cam"], option or [], layer or [], flip, layout)
    rules = box_rules(
        relative_to=relative_to or ["max"], threshold=threshold, normalise=normalise, percentile=percentile
    )
    options = EvaluationOptions(
        protocol=protocol,
        view=view,
        gt_only=gt_only,
        input_size=input_size,
        heatmap_size=_size(heatmap_size),
        limit=limit,
        on_bad=on_bad,
        unknown_classes=unknown_classes,
        batch_size=batch_size,
        workers=workers,
        resamples=resamples,
    )
    own: dict[str, Any] = {"held_per_class": held_per_class, "class_names": class_names}
    own.update(parse_data_options(data, dataset, data_option or []))
    reported = load_dataset(data, dataset, split, **own)
    choose_on = (
        None if choose_threshold_on is None else load_dataset(data, dataset, choose_threshold_on, **own)
    )
    scorer = _scorer(engine, address, device)
    prepare_folder(out, "evaluate")
    where = "cpu" if engine == "ray" else device  # Ray's actors move it to their devices
    wanted = bool(model) or not heatmaps
    models = load_models(model or [], weights or [], categories, where, scores) if wanted else {}
    if pseudo_boxes is not None:
        choose_on = _with_pseudo_boxes(models, choose_on, pseudo_boxes, batch_size)
    with progress_bar("scoring", quiet=json) as progress:
        report = run(
            models,
            reported,
            specs,
            rule=rules,
            choose_on=choose_on,
            heatmaps=heatmaps or [],
            options=options,
            progress=progress,
            scorer=scorer,
        )
    finish(report, out, json)


def _with_pseudo_boxes(models: Any, choose_on: Any, method: str, batch_size: int) -> Any:
    """The split to choose on with the first model's boxes; raises `InputError` where there is no split or no model."""
    from sightline.errors import InputError
    from sightline.evaluation.realistic import with_pseudo_boxes

    if choose_on is None or not models:
        raise InputError("--pseudo-boxes needs a model, and --choose-threshold-on with a split")
    return with_pseudo_boxes(next(iter(models.values())), choose_on, method, batch_size=batch_size)


def _scorer(engine: str, address: str | None, device: str) -> Any:
    """Where images are scored: None means in this process."""
    if engine == "local" and address is None:
        return None
    from sightline.batch.run import engine_of

    return getattr(engine_of(engine, None, address, device), "score", None)


def _size(text: str) -> tuple[int, int] | None:
    """`photo` -> None, `224x112` -> (224, 112), `14` -> (14, 14).

    >>> _size("photo"), _size("224x112")
    (None, (224, 112))
    """
    from sightline.errors import InputError

    parts = text.lower().replace("×", "x").split("x")
    if text == "photo":
        return None
    if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"--heatmap-size {text!r}; expected photo, or HEIGHTxWIDTH such as 224x224")
    return int(parts[0]), int(parts[-1])
