"""``sightline demo``: three public-domain photos, explained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sightline.cli._run import Photo
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
    from sightline.cli import _run as road
    from sightline.cli._print import model_notes, print_table
    from sightline.cli._settings import checked_settings
    from sightline.models.loading import default_model

    photos = demo_photos()
    road.prepare_folder(out)
    model = default_model()
    settings = checked_settings(methods=usable_methods(model), classes="top3", options=OPTIONS)
    manifest = road.run(model, photos, settings, out)
    print_table(("photo", "class", "score", "box x0 y0 x1 y1", "panel"), _what_it_saw(manifest, out))
    typer.echo("\n".join(model_notes(manifest["model"])))
    typer.echo(f"boxes by {settings.methods[0]}; everything else in {out / 'manifest.json'}")


def _what_it_saw(manifest: dict[str, Any], out: Path) -> list[tuple[str, ...]]:
    """The first class of each photo by the first method."""
    from sightline.cli._print import score_text

    rows: list[tuple[str, ...]] = []
    for image in manifest["images"]:
        seen = image["results"][0]
        boxes = "; ".join(" ".join(f"{x:.0f}" for x in box) for box in seen["boxes_xyxy"])
        score = score_text(manifest, seen["score"])
        rows.append((image["path"], seen["category"], score, boxes, str(out / image["panel"])))
    return rows


def demo_photos() -> list[Photo]:
    """The photos that are installed with the package."""
    from sightline.cli._run import Photo
    from sightline.demo_photos import photo_paths

    return [Photo(path.stem, path, path.stem) for path in photo_paths()]


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
