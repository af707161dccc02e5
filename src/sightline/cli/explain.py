"""``sightline explain``: heatmaps and boxes for photos, one panel picture each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sightline.cli._options import (
    Categories,
    Classes,
    Colormap,
    Device,
    Json,
    LayerLayout,
    Layers,
    MethodOptions,
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
from sightline.errors import InputError

LISTS = (".csv", ".parquet", ".tar", ".tar.gz", ".tgz")  # what `sightline batch` reads


def explain(
    paths: Annotated[list[str], typer.Argument(help="Photos, folders, patterns such as 'photos/*.jpg'.")],
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    method: Annotated[
        list[str] | None,
        typer.Option(help="NAME[:OPTION=VALUE][:flip]; repeatable: one panel row each. [default: gradcam]"),
    ] = None,
    classes: Classes = "top1",
    target: Annotated[
        str | None,
        typer.Option(
            help="Instead of classes: contrast:A,B, probability:NAME, regression:-1, multilabel:A,B, "
            "segmentation:NAME, detection:LABEL, text:'a dog'."
        ),
    ] = None,
    option: MethodOptions = None,
    layer: Layers = None,
    layout: LayerLayout = "auto",
    view: View = "whole",
    normalise: Normalise = None,
    colormap: Colormap = "turbo",
    threshold: Threshold = None,
    relative_to: RelativeTo = "max",
    percentile: Percentile = 90.0,
    select: Select = "largest",
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Stay, and explain photos as they arrive in these folders.",
            rich_help_panel="Output",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for panels and manifest.json. [default: out/explain; with --watch out/watch]",
            rich_help_panel="Output",
        ),
    ] = None,
    json: Json = False,
    device: Device = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Photos per forward pass. [default: 8]")
    ] = None,
    engine: Annotated[str | None, typer.Option(hidden=True)] = None,
    address: Annotated[str | None, typer.Option(hidden=True)] = None,
    workers: Annotated[int | None, typer.Option(min=0, hidden=True)] = None,
    shard_size: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
    heatmap_bits: Annotated[int | None, typer.Option(hidden=True)] = None,
    heatmap_size: Annotated[str | None, typer.Option(hidden=True)] = None,
    overlays: Annotated[bool, typer.Option("--overlays", hidden=True)] = False,
    channels_last: Annotated[bool | None, typer.Option("--channels-last/--contiguous", hidden=True)] = None,
) -> None:
    """Explain photos: one panel picture each, and manifest.json with classes, scores and boxes.

    ```console
    sightline explain photo.jpg
    sightline explain photos/ 'more/*.png' --model resnet50 --method cam --method layercam:flip
    sightline explain dog.jpg -m squeezenet1_1 --classes "bull mastiff,tabby" --json
    sightline explain dog.jpg -m vgg16 --method scorecam:channels=64 --layer features.22
    sightline explain dog.jpg --target contrast:tabby,lynx
    sightline explain dog.jpg -m resnet18 --weights mine.pth --categories names.txt
    sightline explain --watch incoming/ --out answers
    ```

    With --watch the model is loaded once, each photo is explained once its file has stopped growing, and Ctrl-C ends
    the watch; the same command goes on where it ended.

    For thousands of photos, lists and tar files, use `sightline batch`.

    Exit code 0: done; 2: a mistake in the command; 3: some images could not be read, the others are done.
    """
    from sightline.types import BoxRule

    rule = BoxRule.of(
        threshold=threshold,
        relative_to=relative_to,
        normalise=normalise,
        select=select,
        percentile=percentile,
    )
    shards: dict[str, Any] = {
        "engine": engine,
        "address": address,
        "workers": workers,
        "shard_size": shard_size,
        "heatmap_bits": heatmap_bits,
        "heatmap_size": heatmap_size,
        "overlays": overlays or None,
        "channels_last": channels_last,
    }
    common: dict[str, Any] = {
        "loading": (model, weights, categories, scores),
        "methods": method or ["gradcam"],
        "classes": classes,
        "target": target,
        "method_options": option or [],
        "layers": layer or [],
        "layout": layout,
        "rule": rule,
        "view": view,
        "colormap": colormap,
        "out": out or Path("out/watch" if watch else "out/explain"),
        "json": json,
        "device": device,
        "batch_size": batch_size,
    }
    if asks_for_batch(paths, shards):
        if watch:
            raise InputError("--watch is for `sightline explain` of photos, not for batches")
        from sightline.cli.batch import run_batch

        if common.pop("target"):
            raise InputError("--target is for `sightline explain` of photos, not for batches")
        run_batch(paths, **common, **shards)
    elif watch:
        from sightline.cli._watch import run_watch

        run_watch(paths, **common)
    else:
        run_explain(paths, **common)


def asks_for_batch(paths: list[str], shards: dict[str, Any]) -> bool:
    """Whether this is the old form of `sightline batch`: with --engine, or with lists or tar files.

    Raises `InputError` for other options of `sightline batch`.

    >>> asks_for_batch(["a.jpg"], {"engine": None})
    False
    """
    lists = [path for path in paths if path.lower().endswith(LISTS)]
    given = [f"--{name.replace('_', '-')}" for name, value in shards.items() if value is not None]
    if not lists and "--engine" not in given:
        if given:
            raise InputError(
                f"{', '.join(given)}: an option of `sightline batch`, which writes shards, not panels"
            )
        return False
    what = "with --engine" if "--engine" in given else f"of {Path(lists[0]).name}"
    print(f"sightline: warning: `sightline explain` {what} is now `sightline batch`", file=sys.stderr)
    return True


def run_explain(
    paths: list[str],
    *,
    loading: tuple[str | None, str | None, Path | None, str],
    classes: str,
    out: Path,
    json: bool,
    device: str,
    batch_size: int | None,
    **chosen: Any,
) -> None:
    """Call `explain_files`, and print the results."""
    from sightline.cli import MISTAKE, SOME_FAILED
    from sightline.cli._options import load_for
    from sightline.cli._output import prepare_folder
    from sightline.cli._print import report_errors, show
    from sightline.pipeline_files import KIND, ExplainOptions, explain_files, photos_to_explain
    from sightline.progress import progress_bar
    from sightline.reports.output_folder import as_json

    total = len(photos_to_explain(paths, out))
    options = ExplainOptions(**chosen, classes=classes, batch_size=batch_size or 8)
    prepare_folder(out, KIND)
    loaded, options = load_for(options, loading, device)
    with progress_bar("explaining", quiet=json) as progress:
        manifest = explain_files(loaded, paths, out, options, progress=progress)
    if json:
        typer.echo(as_json(manifest))
    elif manifest["images"]:
        show(manifest, out)
    if manifest["errors"]:
        report_errors(manifest["errors"], total)
        raise typer.Exit(SOME_FAILED if manifest["images"] else MISTAKE)
