"""How `evaluate` and `faithfulness` print and save their reports."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from sightline.evaluation.faithfulness_report import FaithfulnessReport
    from sightline.reports.tables import Report


def finish(report: Report | FaithfulnessReport, out: Path, json: bool) -> None:
    """Save and print the report; exit code 3 if images were skipped."""
    from sightline.cli import SOME_FAILED

    files = report.save(out)
    if json:
        typer.echo(report.json())
    else:
        _show(report, files, out)
    if report.skipped:
        raise typer.Exit(SOME_FAILED)


def _show(report: Report | FaithfulnessReport, files: Sequence[Path], out: Path, worst: int = 5) -> None:
    """The caption, the table, the worst classes, what was skipped, and where the files are."""
    from sightline.cli._print import report_skipped
    from sightline.reports.tables import class_table

    for line in report.caption():
        typer.echo(line)
    print_grid(*report.table())
    if report.rows[0].per_class:
        headings, cells = class_table(report.rows[0])
        typer.echo(f"worst classes of {report.rows[0].label} (all in per_class.csv):")
        print_grid(headings, cells[:worst])
    report_skipped(report.skipped, worst, ": results.json")
    sheets = [path.name for path in files if path.name.startswith("contact_sheet")]
    others = [path.name for path in files if path.name not in sheets]
    typer.echo(f"{', '.join(others)}{f' and {len(sheets)} contact sheets' if sheets else ''} in {out}")


def print_grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table as wide as the terminal, or, in a file, as wide as needed; intervals below their numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=any("[" in cell for row in rows for cell in row))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace(" [", "\n[") for cell in row))
    width = None if sys.stdout.isatty() else 10_000
    Console(highlight=False, markup=False, width=width).print(table)
