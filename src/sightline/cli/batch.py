"""``sightline batch``: any number of photos into a Parquet data set and heatmap shards."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from sightline.errors import InputError, require

if TYPE_CHECKING:
    from sightline.batch.run import Engine
    from sightline.batch.worker import BatchOptions
    from sightline.models.loading import LoadedModel

ENGINE, OUTPUT = "Engine", "Output"
ONNX_PAYS = 1000  # images; exporting and verifying takes some seconds
SHOWN = 5  # failures printed; all are in errors.parquet


def batch(
    paths: Annotated[
        list[str],
        typer.Argument(help="Folders, patterns, photos; LIST.csv, LIST.parquet, SHARDS.tar; URLs."),
    ],
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    method: Annotated[str, typer.Option(help="NAME[:OPTION=VALUE][:flip].")] = "gradcam",
    classes: Classes = "top1",
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
    out: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="Folder, or URL of one, for shards and manifest.json.",
            rich_help_panel=OUTPUT,
        ),
    ] = "out/batch",
    json: Json = False,
    device: Device = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Photos per forward pass. [default: 32]")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local, ray, or onnx: local with onnxruntime.", rich_help_panel=ENGINE)
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster. [default: this machine]", rich_help_panel=ENGINE),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="Decoding processes. [default: depends on the cores]", rich_help_panel=ENGINE
        ),
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option(min=1, help="Images per shard. [default: 512]", rich_help_panel=OUTPUT)
    ] = None,
    heatmap_bits: Annotated[
        int | None, typer.Option(help="8, 16, or 0 for no heatmaps. [default: 8]", rich_help_panel=OUTPUT)
    ] = None,
    heatmap_size: Annotated[
        str | None,
        typer.Option(
            help="input, or map: the map's own small size. [default: input]", rich_help_panel=OUTPUT
        ),
    ] = None,
    overlays: Annotated[
        bool,
        typer.Option("--overlays", help="Also write one overlay PNG per result.", rich_help_panel=OUTPUT),
    ] = False,
    channels_last: Annotated[
        bool | None,
        typer.Option(
            "--channels-last/--contiguous",
            help="The network's memory format. [default: channels last]",
            rich_help_panel=ENGINE,
        ),
    ] = None,
) -> None:
    """Explain any number of photos: a Parquet data set of classes, scores and boxes, and heatmap shards.

    ```console
    sightline batch photos/ --model resnet50 --out out/photos
    sightline batch list.csv --method layercam:flip --classes top3 --overlays
    sightline batch 'shards/*.tar' --heatmap-size map --heatmap-bits 16 --out out/shards
    sightline batch s3://bucket/list.parquet --engine ray --address head:6379 --out s3://bucket/out
    ```

    If interrupted, run the same command again to resume; each image appears exactly once. Failures are in
    errors.parquet.

    Exit code 0: done; 2: a mistake in the command; 3: some images could not be read, the others are done.
    """
    from sightline.types import BoxRule

    run_batch(
        paths,
        loading=(model, weights, categories, scores),
        methods=[method],
        classes=classes,
        method_options=option or [],
        layers=layer or [],
        layout=layout,
        rule=BoxRule.of(
            threshold=threshold,
            relative_to=relative_to,
            normalise=normalise,
            select=select,
            percentile=percentile,
        ),
        view=view,
        colormap=colormap,
        out=out,
        json=json,
        device=device,
        batch_size=batch_size,
        engine=engine,
        address=address,
        workers=workers,
        shard_size=shard_size,
        heatmap_bits=heatmap_bits,
        heatmap_size=heatmap_size,
        overlays=overlays or None,
        channels_last=channels_last,
    )


def run_batch(
    paths: list[str],
    *,
    loading: tuple[str | None, str | None, Path | None, str],
    methods: list[str],
    classes: str,
    method_options: list[str],
    out: str | Path,
    json: bool,
    device: str,
    engine: str | None,
    address: str | None,
    workers: int | None,
    **chosen: Any,
) -> None:
    """Call `explain_batch`, and report what was done."""
    if engine == "ray":
        require("ray", "ray")
    if engine == "onnx":
        require("onnx", "onnx", "onnxruntime", "onnxscript")
    from sightline.batch.run import engine_of, explain_batch
    from sightline.batch.worker import BatchOptions
    from sightline.cli._options import load, read_classes
    from sightline.methods.options import parse_options
    from sightline.methods.spec import parse_method
    from sightline.progress import progress_bar

    if len(methods) > 1:
        raise InputError(
            f"`sightline batch` takes one --method; got {', '.join(methods)}: run it once per method"
        )
    name = parse_method(methods[0]).name
    given = {field: value for field, value in chosen.items() if value is not None}
    options = BatchOptions(
        method=methods[0], method_options=parse_options([name], method_options)[name], **given
    )
    runner = (
        _onnx(workers, address)
        if engine == "onnx"
        else engine_of(engine or "local", workers, address, device)
    )
    _prepare(out)
    model, weights, categories, scores = loading
    loaded = load(model, weights, categories, "cpu" if engine == "ray" else device, scores)
    options = replace(options, classes=read_classes(classes, loaded.categories))
    with progress_bar("explaining", quiet=json) as progress:
        manifest = explain_batch(loaded, paths, out, options, runner, progress)
    if engine in (None, "local") and not json and manifest["images"] >= ONNX_PAYS:
        _hint(loaded, options)
    _tell(manifest, out, json)


def _prepare(out: str | Path) -> None:
    """Refuse now, not after the listing, an output folder that cannot be used."""
    from sightline.batch.places import Disk, place_of
    from sightline.batch.shards import KIND
    from sightline.cli._output import prepare_folder

    place = place_of(out)
    if str(place).startswith("memory://"):
        raise InputError(
            f"{place} is gone when this command ends; expected a folder, or a URL of s3, gs or az"
        )
    if isinstance(place, Disk):
        prepare_folder(place.path, KIND)
    else:
        with place.claimed(KIND):
            pass


def _hint(model: LoadedModel, options: BatchOptions) -> None:
    """One line on stderr if onnxruntime could have run this: on a CPU it is mostly faster."""
    from sightline.export.onnx_engine import fits

    if all(weight.device.type == "cpu" for weight in model.parameters()) and fits(model, options):
        print(
            "sightline: hint: --engine onnx is mostly faster for such a run; its maps are verified to 1e-4 first",
            file=sys.stderr,
        )


def _onnx(workers: int | None, address: str | None) -> Engine:
    """The engine that runs an exported network; it has no cluster."""
    if address is not None:
        raise InputError("a cluster address belongs to engine ray; this is engine onnx")
    from sightline.export.onnx_engine import OnnxEngine

    return OnnxEngine(workers)


def _tell(manifest: dict[str, Any], out: str | Path, json: bool) -> None:
    """Report what was done and, on stderr, what failed; exit code 3 if some images failed, 2 if all did."""
    from sightline.batch.shards import Folder
    from sightline.cli import MISTAKE, SOME_FAILED
    from sightline.cli._print import model_notes

    folder = Folder(out)
    images, rows, shards = manifest["images"], manifest["rows"], manifest["shards"]
    if json:
        from sightline.reports.output_folder import as_json

        typer.echo(as_json(manifest))
    else:
        found = [
            f"{n} {what}{'s' * (n != 1)}" for n, what in ((images, "image"), (rows, "row"), (shards, "shard"))
        ]
        typer.echo("\n".join(model_notes(manifest["about_model"])))
        typer.echo(f"{found[0]}, {found[1]} in {found[2]}: {folder.place}/results")
    if not manifest["errors"]:
        return
    reasons = folder.reasons(SHOWN)
    more = manifest["errors"] - len(reasons)
    total = images + manifest["errors"]
    print(f"sightline: {manifest['errors']} of {total} images could not be read:", file=sys.stderr)
    for reason in reasons:
        print(f"  {reason}", file=sys.stderr)
    if more:
        print(f"  … and {more} more in {folder.place}/errors.parquet", file=sys.stderr)
    raise typer.Exit(SOME_FAILED if images else MISTAKE)
