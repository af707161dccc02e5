"""``sightline explain``: heatmaps and boxes for photos, one or millions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sightline.cli._options import Categories, Device, ModelName, Scores, Weights

BOXES, HEAT, OUTPUT, ROAD = "Boxes", "Heatmaps", "Output", "Batch road"


def explain(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Photos, folders, patterns such as 'photos/*.jpg'; LIST.csv, LIST.parquet, SHARDS.tar."
        ),
    ],
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    method: Annotated[
        list[str] | None, typer.Option(help="A name of `sightline methods`; repeatable. [default: gradcam]")
    ] = None,
    classes: Annotated[
        str, typer.Option(help="top1, top5, topK, or names and indices with commas: tabby,243.")
    ] = "top1",
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the method, e.g. channels=64; repeatable.")
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="A name of `sightline layers MODEL`; repeatable.")
    ] = None,
    view: Annotated[
        str, typer.Option(help="What the network is shown: whole (photo) or crop (its own).")
    ] = "whole",
    normalise: Annotated[
        str, typer.Option(help="minmax, max, percentile or ivr.", rich_help_panel=HEAT)
    ] = "minmax",
    colormap: Annotated[str, typer.Option(help="Any matplotlib colour map.", rich_help_panel=HEAT)] = "turbo",
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Keep what is at least this share. [default: 0.2 of max, 0.35 of percentile]",
            rich_help_panel=BOXES,
        ),
    ] = None,
    relative_to: Annotated[
        str,
        typer.Option(
            "--relative-to", "--standard", help="The share of what: max or percentile.", rich_help_panel=BOXES
        ),
    ] = "max",
    percentile: Annotated[
        float,
        typer.Option(min=0, max=100, help="Which percentile, where one is used.", rich_help_panel=BOXES),
    ] = 90.0,
    select: Annotated[
        str, typer.Option(help="largest or all of the regions.", rich_help_panel=BOXES)
    ] = "largest",
    out: Annotated[
        Path, typer.Option(help="Folder for panels, or shards, and manifest.json.", rich_help_panel=OUTPUT)
    ] = Path("out/explain"),
    json: Annotated[
        bool, typer.Option("--json", help="Print the manifest, and nothing else.", rich_help_panel=OUTPUT)
    ] = False,
    device: Device = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Photos in one forward pass. [default: 8; on the batch road 32]"),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="local or ray: shards of Parquet instead of panels.", rich_help_panel=ROAD),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster. [default: this machine]", rich_help_panel=ROAD)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that decode. [default: by the cores]", rich_help_panel=ROAD),
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option(min=1, help="Images in a shard. [default: 512]", rich_help_panel=ROAD)
    ] = None,
    heatmap_bits: Annotated[
        int | None, typer.Option(help="8, 16, or 0 for no heatmaps. [default: 8]", rich_help_panel=ROAD)
    ] = None,
    heatmap_size: Annotated[
        str | None,
        typer.Option(help="input, or map: as small as the map is. [default: input]", rich_help_panel=ROAD),
    ] = None,
    overlays: Annotated[
        bool, typer.Option("--overlays", help="Also an overlay PNG each.", rich_help_panel=ROAD)
    ] = False,
    channels_last: Annotated[
        bool | None,
        typer.Option(
            "--channels-last/--contiguous",
            help="The network's memory format. [default: channels last]",
            rich_help_panel=ROAD,
        ),
    ] = None,
) -> None:
    """Explain photos: a panel picture each, and manifest.json with classes, scores and boxes.

    ```console
    sightline explain photo.jpg
    sightline explain photos/ 'more/*.png' --model resnet50 --method cam --method layercam
    sightline explain dog.jpg -m squeezenet1_1 --classes "bull mastiff,tabby" --json
    sightline explain dog.jpg -m vgg16 --method scorecam --option channels=64 --layer features.22
    sightline explain dog.jpg -m resnet18 --weights mine.pth --categories names.txt
    ```

    With --engine, or given a list or tar files, it takes the batch road: a Parquet dataset of classes, scores and
    boxes, heatmaps in shards, failures in errors.parquet. Killed, the same command goes on where it stopped.

    ```console
    sightline explain photos/ --engine local --model resnet50 --out out/photos
    sightline explain 'shards/*.tar' --heatmap-size map --heatmap-bits 16 --out out/shards
    sightline explain s3://bucket/list.parquet --engine ray --address head:6379 --out /nfs/out
    ```

    Exit code 0: done; 2: a mistake in the command; 3: some images could not be read, the others are done.
    """
    from sightline.cli import MISTAKE, SOME_FAILED, _batch
    from sightline.cli import _run as road
    from sightline.cli._options import load, read_classes
    from sightline.cli._print import report_errors, show
    from sightline.cli._settings import checked_settings
    from sightline.data.items import expand_paths
    from sightline.types import BoxRule

    kept: dict[str, Any] = {
        "heatmap_bits": heatmap_bits,
        "heatmap_size": heatmap_size,
        "shard_size": shard_size,
    }
    only_here = {"--address": address, "--workers": workers is not None, "--overlays": overlays}
    only_here |= {f"--{name.replace('_', '-')}": value is not None for name, value in kept.items()}
    only_here["--channels-last"] = channels_last is not None
    batch_road = _batch.asked_for(engine, paths, only_here)
    photos = [] if batch_road else road.photos_of(expand_paths(paths))
    settings = checked_settings(
        methods=_batch.one_method(method or ["gradcam"]) if batch_road else method or ["gradcam"],
        options=option or [],
        layers=layer or [],
        view=view,
        rule=BoxRule.of(
            threshold=threshold,
            relative_to=relative_to,
            normalise=normalise,
            select=select,
            percentile=percentile,
        ),
        colormap=colormap,
        batch_size=batch_size or 8,
    )
    runner = _batch.make_engine(engine, workers, address, device) if batch_road else None
    if runner is None:
        _batch.spare(out)
    road.prepare_folder(out)
    loaded = load(model, weights, categories, "cpu" if engine == "ray" else device, scores)
    settings = replace(settings, classes=read_classes(classes, loaded.categories))
    if runner is not None:
        kept |= {
            "overlays": overlays,
            "channels_last": channels_last,
            "batch_size": batch_size,
            "quiet": json,
        }
        manifest = _batch.run(loaded, paths, settings, out, runner, kept)
        _batch.tell(manifest, out, json)
        return
    manifest = road.run(loaded, photos, settings, out, quiet=json)
    if json:
        typer.echo(road.as_json(manifest))
    elif manifest["images"]:
        show(manifest, out)
    if manifest["errors"]:
        report_errors(manifest["errors"], len(photos))
        raise typer.Exit(SOME_FAILED if manifest["images"] else MISTAKE)
