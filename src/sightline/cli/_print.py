"""What the verbs say: tables on stdout, progress and complaints on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNTRAINED = "the classification layer is untrained: classes and boxes mean nothing"


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout, as wide as the terminal allows; a long entry is folded, never cut."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold", justify="right" if heading == "score" else "left")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


@contextmanager
def progress(what: str, total: int, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where a person looks at it; nothing in a pipe, in a log, or with ``quiet``.

    >>> with progress("explaining", total=2) as advance:
    ...     advance(2)
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet or not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def bar(what: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """As `progress`, for work that tells itself how far it is and how much there is.

    >>> with bar("scoring") as update:
    ...     update(1, 2)
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console, silent = Console(stderr=True), quiet or not sys.stderr.isatty()
    with Progress(*columns, console=console, transient=True, disable=silent) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def show(manifest: dict[str, Any], out: Path, most: int = 40) -> None:
    """Print what was seen: a line for each photo, class and method, then where the panels are."""
    rows = [
        (Path(image["path"]).name, *_row(result, score_text(manifest, result["score"])))
        for image in manifest["images"]
        for result in image["results"]
    ]
    print_table(("photo", "class", "score", "method", "box x0 y0 x1 y1"), rows[:most])
    if len(rows) > most:
        print(f"… and {len(rows) - most} more rows in manifest.json")
    print("\n".join(model_notes(manifest["model"])))
    panels = len(manifest["images"])
    print(f"{panels} panel{'s' * (panels != 1)} and manifest.json in {out}")


def model_notes(about: Mapping[str, Any]) -> list[str]:
    """What a person must know of the model, from its entry in a manifest: classes, licence, an untrained head.

    >>> model_notes({"name": "lite0", "classes": 1000, "trained_on": "ImageNet", "weights_licence": "Apache-2.0"})
    ['model: lite0, 1,000 classes of ImageNet, weights: Apache-2.0']
    """
    of = f" of {about['trained_on']}" if about.get("trained_on") else ""
    classes = f"{about['classes']:,} classes{of}" if about.get("classes") else ""
    licence = f"weights: {about['weights_licence']}" if about.get("weights_licence") else ""
    notes = [f"model: {', '.join(filter(None, (about['name'], classes, licence)))}"]
    return notes if about.get("trained_head", True) else [*notes, UNTRAINED]


def score_text(manifest: dict[str, Any], score: float) -> str:
    """A score as a percentage; where the user said that scores are taken as they are, as a number."""
    return f"{score:.4g}" if manifest["model"]["scores"] == "none" else f"{100 * score:.1f} %"


def _row(result: dict[str, Any], score: str) -> tuple[str, str, str, str]:
    boxes = "; ".join(" ".join(f"{x:.0f}" for x in box) for box in result["boxes_xyxy"])
    return result["category"], score, result["method"], boxes or "no positive evidence"


def report_errors(errors: Sequence[dict[str, str]], total: int) -> None:
    """List on stderr the photos that could not be read: one line where there is but one."""
    if total == 1:
        print(f"sightline: {errors[0]['error']}", file=sys.stderr)
        return
    print(f"sightline: {len(errors)} of {total} images could not be read:", file=sys.stderr)
    for entry in errors:
        print(f"  {entry['error']}", file=sys.stderr)
