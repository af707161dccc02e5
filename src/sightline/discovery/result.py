"""The result of every discovery experiment: a table, pictures, and everything the numbers depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image
import torch.nn

from sightline.reports.tables import csv_text, markdown_table, write_run


@dataclass
class Result:
    """A table with its caption, pictures by file name, and the content of results.json and manifest.json.

    ``settings``: everything the numbers depend on, and ``images``, their count; ``numbers``: every number of the
    table at full precision, one dictionary per row; ``skipped``: id -> reason.

    >>> table = Result("Title", ["class", "accuracy"], [["tabby", "50.0"]], {"images": 2}, ["2 images."])
    >>> print(table.markdown())
    # Title
    <BLANKLINE>
    - 2 images.
    <BLANKLINE>
    | class | accuracy |
    | --- | --- |
    | tabby | 50.0 |
    <BLANKLINE>
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    settings: dict[str, Any]
    notes: Sequence[str] = ()
    numbers: Sequence[dict[str, Any]] = ()
    pictures: Mapping[str, PIL.Image.Image] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """The title, caption and table as Markdown."""
        notes = "\n".join(f"- {note}" for note in self.notes)
        parts = [f"# {self.title}", notes, markdown_table(self.headings, self.rows)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def save(self, folder: str | Path) -> list[Path]:
        """Write table.md, table.csv, results.json, the pictures and, last, manifest.json; each atomically."""
        rows = list(self.numbers) or [dict(zip(self.headings, row, strict=True)) for row in self.rows]
        content = {
            "settings": self.settings,
            "caption": list(self.notes),
            "rows": rows,
            "skipped": dict(self.skipped),
        }
        texts = {
            "table.md": self.markdown(),
            "table.csv": csv_text(rows),
            "results.json": json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False),
        }
        return write_run(folder, "discover", texts, self.pictures.items(), self.settings, self.skipped)


def describe_model(model: torch.nn.Module) -> dict[str, Any]:
    """A model's name and weights, as recorded in manifests.

    >>> describe_model(torch.nn.Identity())["name"]
    'Identity'
    """
    return {
        "name": str(getattr(model, "name", type(model).__name__)),
        "weights": getattr(model, "weights", "in memory"),
        "weights_sha256": getattr(model, "weights_sha256", None),
        "scores": getattr(model, "scores", "auto"),
    }
