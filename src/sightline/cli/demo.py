"""``sightline demo``: public-domain photos, explained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sightline.cli._options import TableJson

if TYPE_CHECKING:
    from sightline.models.loading import LoadedModel

# Grad-CAM first: with pooling and one linear layer it is the positive part of the class map, and its boxes are the
# better ones on these photos.
METHODS = ("gradcam", "cam", "guided_gradcam")
TWO = ("Egyptian cat", "espresso")  # the classes explained in the last photo


def demo(
    out: Annotated[Path, typer.Option(help="Folder for panels and manifest.json.")] = Path("out/demo"),
    json: TableJson = False,
) -> None:
    """Explain a cat, a cup of coffee, and both in one picture, and print the results.

    ```console
    sightline demo
    sightline demo --out out/demo
    ```
    """
    from sightline.cli._output import prepare_folder
    from sightline.cli._print import model_notes, print_table, unsure_notes
    from sightline.demo_photos import photo_path
    from sightline.models.loading import default_model
    from sightline.pipeline_files import KIND, explain_files

    prepare_folder(out, KIND)
    model = default_model()
    methods = usable_methods(model)
    single = {name: photo_path(name) for name in ("chelsea", "coffee")}
    one = explain_files(model, single, out, methods=methods, classes="top3")
    both = {"cat_and_coffee": photo_path("cat_and_coffee")}
    two = explain_files(model, both, out / "two", methods=methods, classes=list(TWO))
    rows = [*_what_it_saw(one, out, 1), *_what_it_saw(two, out / "two", len(TWO))]
    print_table(("photo", "class", "score", "box x0 y0 x1 y1", "panel"), rows, json)
    if json:
        return
    typer.echo("\n".join([*unsure_notes(one), *unsure_notes(two), *model_notes(one["model"])]))
    typer.echo(f"boxes by {methods[0]}; everything else in {out / 'manifest.json'}")


def _what_it_saw(manifest: dict[str, Any], out: Path, classes: int) -> list[tuple[str, ...]]:
    """The first ``classes`` classes of each photo by the first method."""
    from sightline.cli._print import boxes_text, score_text

    rows: list[tuple[str, ...]] = []
    for image in manifest["images"]:
        for seen in image["results"][:classes]:
            score, boxes = score_text(manifest, seen["score"]), boxes_text(seen)
            rows.append((image["path"], seen["category"], score, boxes, str(out / image["panel"])))
    return rows


def usable_methods(model: LoadedModel) -> list[str]:
    """The demo methods that work with this model, tried on one empty image."""
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
