"""``sightline export``: a model and its maps as one ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sightline.cli._options import Categories, Scores, Weights

MAPS = "Maps and boxes"


def export(
    model: Annotated[
        str | None,
        typer.Argument(help="A name from `sightline models`, or a checkpoint. [default: lite0]"),
    ] = None,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("model.onnx"),
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
    method: Annotated[str, typer.Option(help="cam, or gradcam.", rich_help_panel=MAPS)] = "cam",
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
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print only the description.")] = False,
) -> None:
    """Export a model to ONNX: image in; scores, class maps, heatmaps and boxes of the top classes out.

    ```console
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

    check_place(out, force)  # fail now, not after loading a large model
    prepare_folder(out.parent)
    loaded = load(model, weights, categories, "cpu", scores, fast=False)
    described = export_onnx(
        loaded,
        out,
        force=force,
        method=method,
        top=top,
        input=input_,
        normalise=normalise,
        threshold=threshold,
        boxes=boxes,
        any_size=not fixed_size,
    )
    say_untrained(loaded)
    typer.echo(as_json(described) if json else _summary(described, out))


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
