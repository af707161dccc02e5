"""``sightline export``: a model and its maps as one ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sightline.cli._options import Categories, Scores, Weights
from sightline.errors import InputError, unknown

MAPS, PAGE = "Maps and boxes", "The page (--format web)"
FORMATS = ("onnx", "web")


def export(
    model: Annotated[
        str | None,
        typer.Argument(help="A name from `sightline models`, or a checkpoint. [default: lite0]"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, or the page's folder. [default: model.onnx, page]"),
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", help="onnx, or web: a page that runs the model in the browser.")
    ] = "onnx",
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    input_: Annotated[
        str,
        typer.Option(
            "--input",
            help="Input of the graph: rgb (0 to 1), uint8 (0 to 255) or normalised (as in training).",
        ),
    ] = "rgb",
    fixed_size: Annotated[
        bool, typer.Option("--fixed-size", help="Fix height and width to the model's own.")
    ] = False,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="cam or gradcam; for the page also nwc, affinity; repeatable. [default: cam; page: + localise-fast]",
            rich_help_panel=MAPS,
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, help="Map at most N classes, the most probable.", rich_help_panel=MAPS)
    ] = 5,
    normalise: Annotated[str, typer.Option(help="minmax or max.", rich_help_panel=MAPS)] = "minmax",
    threshold: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Threshold of the boxes, as a share of the maximum.", rich_help_panel=MAPS
        ),
    ] = 0.2,
    boxes: Annotated[bool, typer.Option(help="Include boxes in the graph.", rich_help_panel=MAPS)] = True,
    bits: Annotated[
        int, typer.Option(help="Bits of a stored weight: 32, 16 or 8.", rich_help_panel=PAGE)
    ] = 16,
    runtime: Annotated[
        Path | None,
        typer.Option(help="npm's onnxruntime-web, unpacked. [default: npm fetches it]", rich_help_panel=PAGE),
    ] = None,
    from_disk: Annotated[
        bool, typer.Option(help="Let the page be opened without any web server.", rich_help_panel=PAGE)
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print only the description.")] = False,
) -> None:
    """Export a model to ONNX: image in; scores, class maps, heatmaps and boxes of the top classes out. Or to a page.

    ```console
    sightline export --format web --out page/
    sightline export --out tiny40.onnx
    sightline export squeezenet1_1 --out squeezenet.onnx --input uint8 --top 1
    sightline export runs/mine/weights.safetensors --out mine.onnx --threshold 0.35 --force
    ```

    Resize photos to the network's size yourself; normalisation is part of the graph. The file is checked against
    PyTorch before it is written.
    """
    from sightline.cli._options import load, say_untrained
    from sightline.cli._output import prepare_folder
    from sightline.export.onnx import check_place, export_onnx
    from sightline.reports.output_folder import as_json

    if format_ not in FORMATS:
        raise unknown("format", format_, FORMATS)
    if format_ == "web":
        _page(
            model,
            weights,
            categories,
            scores,
            out or Path("page"),
            json,
            tuple(method or ()),
            top,
            bits,
            runtime,
            from_disk,
        )
        return
    if len(method or ()) > 1:
        raise InputError(f"{len(method or ())} methods; one ONNX file holds one")
    out = out or Path("model.onnx")
    check_place(out, force)  # fail now, not after loading a large model
    prepare_folder(out.parent)
    loaded = load(model, weights, categories, "cpu", scores, fast=False)
    described = export_onnx(
        loaded,
        out,
        force=force,
        method=method[0] if method else "cam",
        top=top,
        input=input_,
        normalise=normalise,
        threshold=threshold,
        boxes=boxes,
        any_size=not fixed_size,
    )
    say_untrained(loaded)
    typer.echo(as_json(described) if json else _summary(described, out))


def _page(
    model: str | None,
    weights: str | None,
    categories: Path | None,
    scores: str,
    out: Path,
    json: bool,
    methods: tuple[str, ...],
    top: int,
    bits: int,
    runtime: Path | None,
    from_disk: bool,
) -> None:
    from sightline.cli._options import load_saying
    from sightline.cli._output import prepare_folder
    from sightline.export.web import KIND, METHODS, export_web
    from sightline.reports.output_folder import as_json

    prepare_folder(out, KIND)
    described = export_web(
        load_saying(model, weights, categories, "cpu", scores),
        out,
        methods=methods or METHODS,
        top=top,
        bits=bits,
        runtime=runtime,
        from_disk=from_disk,
    )
    if json:
        typer.echo(as_json(described))
        return
    found = described["agreement"]
    correlations = ", ".join(f"{name} {value:.4f}" for name, value in found["correlation"].items())
    lines = {
        "model": f"{described['model']['name']}, {described['bytes'] / 1e6:.1f} MB in {bits} bits",
        "agreement": f"best class {found['top1']} of {found['photos']} photos; least correlation of a heatmap: "
        + correlations,
        "page": f"{out / 'index.html'}: open it in a browser, or put the folder on any web server",
    }
    typer.echo("\n".join(f"{name + ':':12}{text}" for name, text in lines.items()))


def _summary(described: dict[str, Any], out: Path) -> str:
    options, size = described["options"], described["preprocess"]["input_hw"]
    classes = len(described["categories"] or [])
    lines = {
        "model": f"{described['model']}, weights {described['weights_sha256'][:12]}",
        "categories": f"{classes} names in the file" if classes else "none known",
        "input": f"image (batch, 3, height, width) {options['input']}; made for {size[0]} × {size[1]}",
        "outputs": ", ".join(described["outputs"]),
        "maps": f"{options['method']} of layer {described['layer']}, top {options['top']}",
        "opset": str(described["opset"]),
        "verified": ", ".join(f"{name} {value:.0e}" for name, value in described["verified"].items()),
        "file": f"{out}, {described['bytes'] / 1e6:.1f} MB",
    }
    return "\n".join(f"{name + ':':12}{text}" for name, text in lines.items())
