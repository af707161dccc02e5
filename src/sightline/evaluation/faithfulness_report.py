"""The faithfulness table: each column with its good direction, each number with its interval."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sightline.evaluation.randomisation import Randomisation
from sightline.metrics.bootstrap import Interval
from sightline.metrics.registry import Column
from sightline.reports.tables import Row, csv_text, interval_ends, markdown_table, spelled, write_run

Array = NDArray[Any]


@dataclass
class FaithfulnessReport:
    """The result of `evaluate_faithfulness`: one row per method and baseline, and everything it depends on.

    ``described``: the columns of the measured metrics, in table order. ``remarks``: those metrics' sentences for the
    caption. ``per_image``: for each row's method, each column's scores (N,), NaN where an image has none; all rows have
    the same images, so that two can be paired.
    """

    settings: dict[str, Any]
    rows: list[Row]
    described: dict[str, Column] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # image id -> why
    notes: list[str] = field(default_factory=list)
    randomisation: Randomisation | None = None
    per_image: dict[str, dict[str, Array]] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """The names of the scores that any row has, in table order."""
        return [name for name in self.described if any(name in row.scores for row in self.rows)]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings with an arrow in the good direction, and cells: in per cent if the column is a share."""
        headings = [
            "method",
            *(f"{self.described[name].heading} {self.described[name].good}" for name in self.columns),
        ]
        cells = [
            [row.method, *(_cell(self.described[name], row.scores.get(name)) for name in self.columns)]
            for row in self.rows
        ]
        return headings, cells

    def differences(self) -> tuple[list[str], list[list[str]]]:
        """The same table minus the centre map, paired by image; an interval that excludes 0 is a real difference."""
        headings = [
            "method",
            *(f"{self.described[name].heading} {self.described[name].good}" for name in self.columns),
        ]
        cells = [
            [row.method, *(_cell(self.described[name], row.differences.get(name)) for name in self.columns)]
            for row in self.rows
            if row.differences
        ]
        return headings, cells

    def caption(self) -> list[str]:
        """What every number of the table depends on, in sentences."""
        return [*_caption(self), *self.notes]

    def markdown(self) -> str:
        """The table with its caption and one line per column."""
        title = f"# Faithfulness: {self.settings['dataset']} {self.settings['split']}"
        lines = [f"- {line}" for line in self.caption()]
        lines += [
            f"- {self.described[name].heading} {self.described[name].good}: {self.described[name].says}."
            for name in self.columns
        ]
        parts = [title, "\n".join(lines), markdown_table(*self.table())]
        headings, cells = self.differences()
        if cells:
            parts += ["## Minus the centre map, paired", markdown_table(headings, cells)]
        return "\n\n".join(parts) + "\n"

    def csv(self) -> str:
        """One line per row, numbers at full precision, with the settings that they depend on."""
        common = {
            name: self.settings[name] for name in ("dataset", "split", "images", "model", "view", "seed")
        }
        return csv_text([{**common, "method": row.method, **_flat(row)} for row in self.rows])

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "settings": self.settings,
            "caption": self.caption(),
            "columns": {name: self.described[name]._asdict() for name in self.columns},
            "rows": [
                {
                    "method": row.method,
                    "scores": {k: v._asdict() for k, v in row.scores.items()},
                    "minus_centre": {k: v._asdict() for k, v in row.differences.items()},
                }
                for row in self.rows
            ],
            "randomisation": None if self.randomisation is None else self.randomisation.as_dict(),
            "skipped": self.skipped,
        }

    def json(self) -> str:
        """`as_dict` as text."""
        return json.dumps(self.as_dict(), indent=1, ensure_ascii=False, allow_nan=False)

    def save(self, folder: str | Path) -> list[Path]:
        """Write the tables, results.json, the randomisation picture and manifest.json, each atomically."""
        texts = {"table.md": self.markdown(), "table.csv": self.csv(), "results.json": self.json()}
        pictures = []
        if self.randomisation is not None:
            texts["randomisation.csv"] = self.randomisation.csv()
            pictures = [("randomisation.png", self.randomisation.picture())]
        return write_run(folder, "faithfulness", texts, pictures, self.settings, self.skipped)


def _cell(column: Column, score: Interval | None) -> str:
    if score is None or column.share:
        return spelled(score)
    return f"{score.value:.2f} [{score.low:.2f}, {score.high:.2f}]"


def _flat(row: Row) -> dict[str, float]:
    return {
        key: number
        for name, score in row.scores.items()
        for key, number in interval_ends(name, score).items()
    }


def _caption(report: FaithfulnessReport) -> Iterator[str]:
    s = report.settings
    of = f" of {s['available']}, evenly spaced" if s["images"] < s["available"] else ""
    skipped = f"; {len(report.skipped)} skipped" if report.skipped else ""
    yield f"{s['dataset']}, split {s['split']}: {s['images']} images{of}{skipped}."
    height, width = s["input_hw"]
    yield f"Model: {s['model']} (input {height}×{width}, weights {s['weights']}). View: {s['view']}."
    how = {"none": "as output by the network"}
    yield (
        "Explained: the most probable class; heatmaps at the input's size, normalised by max (negative values 0). "
        f"Y: its probability, {how.get(s['scores'], 'by ' + s['scores'])}."
    )
    yield from report.remarks
    yield f"Arrows: the good direction. Brackets: 95 % bootstrap intervals over images, {s['resamples']} resamples."
