"""The output of the verbs: tables on stdout, errors on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

WHOLE = ("photo", "panel", "method", "score")  # columns whose entries stay on one line
UNTRAINED = "the classification layer is untrained: classes and boxes mean nothing"


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], json: bool = False) -> None:
    """A table on stdout, as wide as the terminal; long text is wrapped, never truncated; file names are not wrapped.

    With ``json``: a JSON list with one object per row instead.
    """
    if json:
        print_json([dict(zip(headings, row, strict=True)) for row in rows])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    needed = 0
    for place, heading in enumerate(headings):
        whole = heading in WHOLE
        longest = max([len(heading), *(len(row[place]) for row in rows)])
        needed += 1 + (longest if whole else min(longest, 14))
        justify = "right" if heading == "score" else "left"
        table.add_column(heading, overflow="fold", no_wrap=whole, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 1000  # no wrapping in a file or a pipe
    console.width = max(console.width, needed)
    console.print(table)


def print_json(content: object) -> None:
    """Anything that JSON can hold, on stdout."""
    import json

    print(json.dumps(content, indent=1, ensure_ascii=False))


def show(manifest: dict[str, Any], out: Path, most: int = 40) -> None:
    """Print what was seen: a line for each photo, class and method, then where the panels are."""
    rows = [
        (Path(image["path"]).name, *_row(result, manifest))
        for image in manifest["images"]
        for result in image["results"]
    ]
    print_table(("photo", "class", "score", "method", "box x0 y0 x1 y1"), rows[:most])
    if len(rows) > most:
        print(f"… and {len(rows) - most} more rows in manifest.json")
    print("\n".join([*unsure_notes(manifest, most), *model_notes(manifest["model"])]))
    panels = len(manifest["images"])
    print(f"{panels} panel{'s' * (panels != 1)} and manifest.json in {out}")


def unsure_notes(manifest: dict[str, Any], most: int = 40) -> list[str]:
    """One line per photo that no class fits well; after the first ``most``, only how many more.

    >>> unsure_notes({"model": {"classes": 2}, "images": [{"path": "a/b.jpg", "sure": False}, {"sure": True}]})
    ['b.jpg: not sure: none of the 2 classes fits well']
    """
    from sightline.pictures.panel import unsure_note

    names = [Path(image["path"]).name for image in manifest["images"] if image.get("sure") is False]
    notes = [f"{name}: {unsure_note(manifest['model']['classes'])}" for name in names[:most]]
    return [*notes, f"… and {len(names) - most} more photos"] if len(names) > most else notes


def model_notes(about: Mapping[str, Any]) -> list[str]:
    """What users must know about the model, from its manifest entry: classes, licence, an untrained head.

    >>> model_notes({"name": "lite0", "classes": 1000, "trained_on": "ImageNet", "weights_licence": "Apache-2.0"})
    ['model: lite0, 1,000 classes of ImageNet, weights: Apache-2.0']
    """
    of = f" of {about['trained_on']}" if about.get("trained_on") else ""
    classes = f"{about['classes']:,} classes{of}" if about.get("classes") else ""
    licence = f"weights: {about['weights_licence']}" if about.get("weights_licence") else ""
    notes = [f"model: {', '.join(filter(None, (about['name'], classes, licence)))}"]
    return notes if about.get("trained_head", True) else [*notes, UNTRAINED]


def _row(result: dict[str, Any], manifest: dict[str, Any]) -> tuple[str, str, str, str]:
    return result["category"], score_text(manifest, result["score"]), result["method"], boxes_text(result)


def score_text(manifest: dict[str, Any], score: float | None) -> str:
    """A score as in its panel: a percentage, or a plain number with ``--scores none``."""
    from sightline.scores import percent_text

    if score is None:
        return "–"
    return f"{score:.4g}" if manifest["model"]["scores"] == "none" else percent_text(score)


def boxes_text(result: dict[str, Any]) -> str:
    """The boxes of one result of `explain_files`, or why there are none."""
    from sightline.methods.registry import get_method

    boxes = "; ".join(" ".join(f"{x:.0f}" for x in box) for box in result["boxes_xyxy"])
    name, _, combinators = result["method"].partition(":")
    if not boxes and get_method(name).signed and "flip" not in combinators:
        return "none: single pixels"
    return boxes or "none: the map points nowhere"


def report_errors(errors: Sequence[dict[str, str]], total: int) -> None:
    """List the unreadable photos on stderr; a single one takes one line."""
    if total == 1:
        print(f"sightline: {errors[0]['error']}", file=sys.stderr)
        return
    print(f"sightline: {len(errors)} of {total} images could not be read:", file=sys.stderr)
    for entry in errors:
        print(f"  {entry['error']}", file=sys.stderr)


def report_skipped(skipped: Mapping[str, str], most: int = 5, where: str = "") -> None:
    """Print the first skipped images, with the reasons, on stderr; ``where`` all of them are."""
    for image, why in list(skipped.items())[:most]:
        print(f"skipped {why if why.startswith(image) else f'{image}: {why}'}", file=sys.stderr)
    if len(skipped) > most:
        print(f"… {len(skipped)} skipped in all{where}", file=sys.stderr)


def end_with_skipped(skipped: Mapping[str, str]) -> None:
    """If images were skipped: print the first of them, and exit with code 3."""
    from sightline.cli import SOME_FAILED

    if skipped:
        report_skipped(skipped)
        raise typer.Exit(SOME_FAILED)
