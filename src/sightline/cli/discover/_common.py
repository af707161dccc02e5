"""Options shared by the verbs of the group, and their common output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from sightline.discovery.result import Result

DATA, MODEL, OUTPUT = "Data", "Model", "Output"

DatasetName = Annotated[
    Optional[str],
    typer.Option(
        "--dataset",
        help="Layout of the data set: tiny-imagenet, cub, folder, … [default: detected]",
        rich_help_panel=DATA,
    ),
]
HeldPerClass = Annotated[
    int, typer.Option(min=1, help="Images per class in SPLIT-heldout.", rich_help_panel=DATA)
]
OnlyClass = Annotated[
    Optional[list[str]],
    typer.Option("--class", help="Only this class; repeatable. [default: all]", rich_help_panel=DATA),
]
View = Annotated[
    str, typer.Option(help="What the network sees: whole (photo) or crop.", rich_help_panel=MODEL)
]
BatchSize = Annotated[int, typer.Option(min=1, help="Photos per forward pass.", rich_help_panel=MODEL)]
Cache = Annotated[
    Path,
    typer.Option(
        help="Folder that caches features by checksum of weights, transform and image.",
        rich_help_panel=OUTPUT,
    ),
]
CACHE = Path("out/cache")
Json = Annotated[bool, typer.Option("--json", help="Print only results.json.", rich_help_panel=OUTPUT)]


def finish(result: Result, out: Path, json: bool = False, also: Sequence[Path] = ()) -> None:
    """Save and print a result; exit with code 3 if images were skipped."""
    from sightline.cli._print import end_with_skipped
    from sightline.cli._report import print_grid

    files = [*also, *result.save(out)]
    if json:
        typer.echo((out / "results.json").read_text(encoding="utf-8"))
    else:
        for note in result.notes:
            typer.echo(note)
        print_grid(result.headings, result.rows)
        typer.echo(f"{', '.join(path.name for path in files)} in {out}")
    end_with_skipped(result.skipped)
