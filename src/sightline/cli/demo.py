"""``sightline demo``: three public-domain photos, explained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sightline.models.loading import LoadedModel

METHODS = ("cam", "gradcam", "layercam", "guided_gradcam")
OPTIONS = ("cam.nwc=true",)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for panels and manifest.json.")] = Path("out/demo"),
) -> None:
    """Explain the photos of a cat, a cup of coffee and a rocket, and say what was seen.

    ```console
    sightline demo
    sightline demo --out out/demo
    ```
    """
    from sightline.cli._output import prepare_folder
    from sightline.cli._print import model_notes, print_table
    from sightline.demo_photos import photo_paths
    from sightline.models.loading import default_model
    from sightline.pipeline_files import KIND, explain_files

    prepare_folder(out, KIND)
    model = default_model()
    manifest = explain_files(
        model,
        {path.stem: path for path in photo_paths()},
        out,
        methods=usable_methods(model),
        classes="top3",
        method_options=OPTIONS,
    )
    print_table(("photo", "class", "score", "box x0 y0 x1 y1", "panel"), _what_it_saw(manifest, out))
    typer.echo("\n".join(model_notes(manifest["model"])))
    first = manifest["options"]["methods"][0]
    typer.echo(f"boxes by {first}; everything else in {out / 'manifest.json'}")


def _what_it_saw(manifest: dict[str, Any], out: Path) -> list[tuple[str, ...]]:
    """The first class of each photo by the first method."""
    from sightline.cli._print import boxes_text, score_text

    rows: list[tuple[str, ...]] = []
    for image in manifest["images"]:
        seen = image["results"][0]
        score, boxes = score_text(manifest, seen["score"]), boxes_text(seen)
        rows.append((image["path"], seen["category"], score, boxes, str(out / image["panel"])))
    return rows


def usable_methods(model: LoadedModel) -> list[str]:
    """Those of the demo's methods that serve this model, found out on one empty image."""
    import torch

    from sightline import explain
    from sightline.errors import UnsupportedError

    height, width = model.preprocess.input_hw if model.preprocess else (224, 224)
    blank = torch.zeros(1, 3, height, width)
    usable = []
    for method in METHODS:
        try:
            explain(model, blank, method=method)
            usable.append(method)
        except UnsupportedError:
            continue
    return usable
