"""``sightline evaluate``: tables that can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sightline.cli._options import Categories, Device, Scores

DATA, ROWS, BOXES, OUTPUT = "Data", "Rows of the table", "Heatmaps and boxes", "Output"
FAITH = "Faithfulness"


def evaluate(
    data: Annotated[
        Path, typer.Option(help="The data set's folder (or Tiny ImageNet's zip).", rich_help_panel=DATA)
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Its layout: tiny-imagenet, cub, ilsvrc, … [default: recognised]", rich_help_panel=DATA
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="The split that is reported.", rich_help_panel=DATA)] = "val",
    choose_threshold_on: Annotated[
        str | None,
        typer.Option(
            help="Another split, where thresholds are chosen: train-heldout, …", rich_help_panel=DATA
        ),
    ] = None,
    held_per_class: Annotated[
        int, typer.Option(min=1, help="Images a class in SPLIT-heldout.", rich_help_panel=DATA)
    ] = 30,
    data_option: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for the layout, e.g. images=FOLDER; repeatable.", rich_help_panel=DATA),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many images, evenly spread.", rich_help_panel=DATA)
    ] = None,
    on_bad: Annotated[
        str, typer.Option(help="refuse or skip what cannot be scored.", rich_help_panel=DATA)
    ] = "refuse",
    unknown_classes: Annotated[
        str,
        typer.Option(help="refuse, or skip the images of classes that a model lacks.", rich_help_panel=DATA),
    ] = "refuse",
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="As for `explain`; repeatable. [default: lite0]", rich_help_panel=ROWS
        ),
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="One for each --model, in their order.", rich_help_panel=ROWS)
    ] = None,
    categories: Categories = None,
    scores: Scores = "auto",
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME or NAME:OPTION=VALUE:flip, e.g. cam:nwc=true; repeatable. [default: cam]",
            rich_help_panel=ROWS,
        ),
    ] = None,
    standard: Annotated[
        list[str] | None,
        typer.Option(help="max or percentile; repeatable. [default: max]", rich_help_panel=ROWS),
    ] = None,
    heatmaps: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder of saved maps (.npy, .npz, .png) named by image id; repeatable.",
            rich_help_panel=ROWS,
        ),
    ] = None,
    heatmap_size: Annotated[
        str, typer.Option(help="Size of the saved maps: photo, or HEIGHTxWIDTH.", rich_help_panel=ROWS)
    ] = "photo",
    option: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for every method that has it; repeatable.", rich_help_panel=ROWS),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Target layer; several are fused into one map.", rich_help_panel=ROWS),
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="Mean of the maps of image and mirror image.", rich_help_panel=ROWS)
    ] = False,
    gt_only: Annotated[
        bool,
        typer.Option(
            "--gt-only", help="Maps of the true class alone: for slow methods.", rich_help_panel=ROWS
        ),
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=0.999, help="[default: 0.2 of max, 0.35 of percentile]", rich_help_panel=BOXES
        ),
    ] = None,
    percentile: Annotated[
        float,
        typer.Option(min=0, max=100, help="Which percentile, where one is used.", rich_help_panel=BOXES),
    ] = 90.0,
    normalise: Annotated[
        str, typer.Option(help="minmax, max, percentile or ivr.", rich_help_panel=BOXES)
    ] = "minmax",
    protocol: Annotated[
        str, typer.Option(help="exact, wsol-v1, wsol-v2, rethinking or pxap.", rich_help_panel=BOXES)
    ] = "exact",
    view: Annotated[
        str, typer.Option(help="What the network is shown: whole or crop.", rich_help_panel=BOXES)
    ] = "whole",
    input_size: Annotated[
        int | None,
        typer.Option(min=1, help="Side of the input, instead of the model's.", rich_help_panel=BOXES),
    ] = None,
    faithfulness: Annotated[
        bool,
        typer.Option(
            "--faithfulness",
            help="The same as `sightline faithfulness`, which has a --help of its own.",
            rich_help_panel=FAITH,
        ),
    ] = False,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="drop, insertion, deletion, road, pointing, sensitivity; repeatable. [default: all but the last]",
            rich_help_panel=FAITH,
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Steps of insertion and deletion.", rich_help_panel=FAITH)
    ] = 56,
    randomise: Annotated[
        bool,
        typer.Option(
            "--randomise",
            help="Also a picture of the maps as the network's weights are drawn anew.",
            rich_help_panel=FAITH,
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of noise and random maps.", rich_help_panel=FAITH)] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for tables, pictures and manifest.json.", rich_help_panel=OUTPUT)
    ] = Path("out/evaluate"),
    json: Annotated[
        bool,
        typer.Option("--json", help="Print the results as JSON, and nothing else.", rich_help_panel=OUTPUT),
    ] = False,
    resamples: Annotated[
        int, typer.Option(min=1, help="Draws of the bootstrap.", rich_help_panel=OUTPUT)
    ] = 2000,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Photos in one forward pass.")] = 32,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read photos and score maps.")] = 1,
    engine: Annotated[str, typer.Option(help="local, or ray: models in actors, counts merged.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster. [default: this machine]")] = None,
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
    from sightline.evaluation import evaluate as run
    from sightline.methods.spec import parse_methods
    from sightline.progress import progress_bar

    specs = parse_methods(method or ["cam"], option or [], layer or [], flip)
    size_hw = _size(heatmap_size)
    options: dict[str, Any] = {
        "held_per_class": held_per_class,
        **parse_data_options(data, dataset, data_option or []),
    }
    if faithfulness:
        from sightline.cli.faithfulness import faithfulness as verb

        unused = {
            "--heatmaps": heatmaps,
            "--choose-threshold-on": choose_threshold_on,
            "--standard": standard,
            "--threshold": threshold is not None,
            "--gt-only": gt_only,
            "--normalise": normalise != "minmax",
            "--protocol": protocol != "exact",
            "--engine": engine != "local",
        }
        _refuse("--faithfulness cuts no boxes and needs a model", unused)
        typer.echo(
            "sightline: warning: `sightline evaluate --faithfulness` is now `sightline faithfulness`",
            err=True,
        )
        verb(
            data=data,
            dataset=dataset,
            split=split,
            held_per_class=held_per_class,
            data_option=data_option,
            limit=limit,
            on_bad=on_bad,
            unknown_classes=unknown_classes,
            model=_only("--model", model or []),
            weights=_only("--weights", weights or []),
            categories=categories,
            scores=scores,
            method=method,
            option=option,
            layer=layer,
            flip=flip,
            view=view,
            input_size=input_size,
            metric=metric,
            steps=steps,
            randomise=randomise,
            seed=seed,
            resamples=resamples,
            out=out,
            json=json,
            device=device,
            batch_size=batch_size,
            workers=workers,
        )
        return
    _refuse("without --faithfulness there is no use for", {"--metric": metric, "--randomise": randomise})
    splits = [
        load_dataset(data, dataset, one, **options) for one in (split, choose_threshold_on) if one is not None
    ]
    scorer = _scorer(engine, address, device)
    prepare_folder(out, "evaluate")
    where = "cpu" if engine == "ray" else device  # Ray's actors move it to the devices that they are given
    models = (
        {} if heatmaps and not model else load_models(model or [], weights or [], categories, where, scores)
    )
    with progress_bar("scoring", quiet=json) as progress:
        report = run(
            models,
            splits[0],
            specs,
            heatmaps=heatmaps or [],
            heatmap_size=size_hw,
            choose_on=splits[1] if len(splits) > 1 else None,
            relative_to=standard or ["max"],
            threshold=threshold,
            normalise=normalise,
            percentile=percentile,
            view=view,
            protocol=protocol,
            input_size=input_size,
            gt_only=gt_only,
            batch_size=batch_size,
            limit=limit,
            on_bad=on_bad,
            unknown_classes=unknown_classes,
            workers=workers,
            resamples=resamples,
            progress=progress,
            scorer=scorer,
        )
    finish(report, out, json)


def _scorer(engine: str, address: str | None, device: str) -> Any:
    """Where images are counted: None is this process."""
    if engine == "local" and address is None:
        return None
    from sightline.batch.run import engine_of

    return getattr(engine_of(engine, None, address, device), "score", None)


def _only(name: str, given: Sequence[str]) -> str | None:
    """The value of an option that the verb `faithfulness` takes once."""
    from sightline.errors import InputError

    if len(given) > 1:
        raise InputError(f"--faithfulness takes one {name}; got {', '.join(given)}")
    return given[0] if given else None


def _refuse(why: str, given: dict[str, Any]) -> None:
    """Name the options that were given and would have done nothing."""
    from sightline.errors import InputError

    if names := [name for name, value in given.items() if value]:
        raise InputError(f"{why}; leave out {', '.join(names)}")


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
