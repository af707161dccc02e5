"""What `sightline boxes` and `sightline masks` share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sightline.cli._options import OUTPUT

LeastScore = Annotated[
    float, typer.Option(min=0, max=1, help="Leave out boxes of classes less probable than this.")
]
CopyPhotos = Annotated[
    bool,
    typer.Option(
        "--copy-photos",
        help="Also copy the photos to where the format's readers look for them.",
        rich_help_panel=OUTPUT,
    ),
]
Sam = Annotated[
    str | None,
    typer.Option(
        help="Refine each region by a SAM of Hugging Face, e.g. facebook/sam-vit-base, or a folder that holds one."
    ),
]
Review = Annotated[
    int,
    typer.Option(min=0, help="How many of the most doubtful boxes review.png shows.", rich_help_panel=OUTPUT),
]
JsonOnly = Annotated[bool, typer.Option("--json", help="Print only the manifest.", rich_help_panel=OUTPUT)]
Method = Annotated[str, typer.Option(help="NAME[:OPTION=VALUE][:flip]; see `sightline methods`.")]


def check_format(given: str, formats: Sequence[str]) -> None:
    """Raise `InputError` if this verb does not write the format."""
    from sightline.errors import unknown

    if given not in formats:
        raise unknown("format", given, formats)


def label(
    paths: list[str],
    *,
    loading: tuple[str | None, str | None, Path | None, str],
    device: str,
    classes: str,
    out: Path,
    json: bool,
    sam: str | None,
    **chosen: Any,
) -> None:
    """Call `label_files`, and print where the annotations are."""
    from sightline.cli import MISTAKE, SOME_FAILED
    from sightline.cli._options import load, read_classes
    from sightline.cli._output import prepare_folder
    from sightline.cli._print import model_notes, report_errors
    from sightline.data.items import expand_paths
    from sightline.labelling.run import KIND, LabelOptions, label_files
    from sightline.labelling.sam import hugging_face_sam
    from sightline.progress import progress_bar
    from sightline.reports.output_folder import as_json

    total = len(expand_paths(paths, without=[out]))
    options = LabelOptions(**chosen)
    prepare_folder(out, KIND)
    model, weights, categories, scores = loading
    loaded = load(model, weights, categories, device, scores)
    refine = None if sam is None else hugging_face_sam(sam, device="cpu" if device == "auto" else device)
    with progress_bar("labelling", quiet=json) as progress:
        manifest = label_files(
            loaded,
            paths,
            out,
            options,
            refine=refine,
            progress=progress,
            classes=read_classes(classes, loaded.categories),
        )
    if json:
        typer.echo(as_json(manifest))
    elif manifest["photos"]:
        boxes, photos = manifest["boxes"], manifest["photos"]
        typer.echo(
            f"{boxes} box{'es' * (boxes != 1)} in {photos} photo{'s' * (photos != 1)}, most doubtful first"
        )
        typer.echo("in review.csv: a person should look at these before anything is trained on them")
        typer.echo("\n".join(model_notes(manifest["model"])))
        typer.echo(f"{', '.join(manifest['files'][:4])}{', …' * (len(manifest['files']) > 4)} in {out}")
    if manifest["errors"]:
        report_errors(manifest["errors"], total)
        raise typer.Exit(SOME_FAILED if manifest["photos"] else MISTAKE)
