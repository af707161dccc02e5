"""The review list: every box, most doubtful first, and a sheet of the first ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sightline.labels import Labels
from sightline.pictures.review import Entry, review_sheet
from sightline.reports.output_folder import OutputFolder
from sightline.reports.tables import csv_text
from sightline.scores import percent_text


def write_review(labels: Labels, paths: Mapping[str, Path], folder: OutputFolder, sheet: int) -> list[Path]:
    """review.csv, and review.png with the ``sheet`` most doubtful boxes; a photo without a box comes first."""
    pairs = [(photo, label) for photo in labels.photos for label in photo.labels]
    pairs.sort(key=lambda pair: -pair[1].doubt)
    rows = [
        {"file": photo.file, "doubt": 1.0, "class": "no box"} for photo in labels.photos if not photo.labels
    ]
    rows += [
        {
            "file": photo.file,
            "doubt": round(label.doubt, 4),
            "class": label.category,
            "score": label.score,
            "gini": label.gini,
            **dict(zip(("x0", "y0", "x1", "y1"), label.box_xyxy, strict=True)),
        }
        for photo, label in pairs
    ]
    written = [folder.write_text("review.csv", csv_text(rows))] if rows else []
    entries = [
        Entry(
            paths[photo.file],
            [list(label.box_xyxy)],
            f"{label.category} {percent_text(label.score) if label.score is not None else ''}".strip(),
            f"doubt {label.doubt:.2f} · {photo.file}",
        )
        for photo, label in pairs[:sheet]
    ]
    if entries:
        title = f"the {len(entries)} most doubtful of {len(pairs)} boxes"
        written.append(folder.write_picture("review.png", review_sheet(entries, title)))
    return written
