"""Any output folder as one HTML page: what was run, its tables, its pictures, its options."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sightline.data.images import read_image
from sightline.data.items import MANIFEST
from sightline.errors import InputError
from sightline.pictures.overlay import curves
from sightline.reports import html
from sightline.reports.output_folder import OutputFolder

MOST_ROWS, MOST_PANELS = 500, 48
FORMAL = (
    "kind",
    "versions",
    "created",
    "options",
    "sightline",
    "plugins",
    "errors",
    "skipped",
    "images",
    "results",
)
TITLES = {
    "explain": "Where the network looks",
    "watch": "Where the network looks",
    "explanation": "Where the network looks",
    "batch": "A batch of photos",
    "evaluate": "Evaluation",
    "faithfulness": "Faithfulness",
    "labels": "Boxes and masks to review",
    "train": "Training",
    "refine": "Refinement",
    "audit": "Audit",
}


def folder_report(folder: str | Path) -> str:
    """The report of an output folder: explain, batch, evaluate, faithfulness, train, discover, boxes, masks.

    Raises `InputError` for a folder that holds none.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"{folder} is not a folder; expected the output folder of a sightline command")
    manifest = OutputFolder(path).manifest() or {}
    sections = [(heading, blocks) for heading, blocks in _sections(path, manifest) if any(blocks)]
    if not sections:
        below = sorted(str(one.parent) for one in path.glob("*/" + MANIFEST))
        hint = f"; did you mean {' or '.join(below[:3])}?" if below else ""
        raise InputError(
            f"{folder} holds no results of a sightline command (no manifest, table or picture){hint}"
        )
    kind = str(manifest.get("kind") or "")
    title = TITLES.get(kind, kind.capitalize() or "Results")
    when = f", {manifest['created']}" if manifest.get("created") else ""
    version = f" by sightline {manifest['sightline']}" if manifest.get("sightline") else ""
    return html.page(f"{title}: {path.resolve().name}", f"made{version}{when}", sections)


def _sections(path: Path, manifest: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    yield "Results", _results(path)
    yield "Training", _training(path / "log.csv")
    yield "Photos", _photos(path, manifest)
    yield "Batch", _batch(path)
    shown = {str(image.get("panel")) for image in _images(manifest)}
    yield "Pictures", _pictures(path, shown)
    yield "Tables", _tables(path)
    yield "What could not be read", _errors(manifest)
    yield "Options", [html.facts(manifest.get("options") or {})]
    rest = {name: value for name, value in manifest.items() if name not in (*FORMAL, "files")}
    yield "Run", [html.facts({**rest, "versions": manifest.get("versions") or {}})] if manifest else []


def _results(path: Path) -> list[str]:
    return [html.markdown(_text(file)) for file in sorted(path.glob("table*.md"))]


def _images(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    images = manifest.get("images")
    return [one for one in images if isinstance(one, dict)] if isinstance(images, list) else []


def _photos(path: Path, manifest: Mapping[str, Any]) -> list[str]:
    """The table and the panels of `explain`."""
    rows = [
        [
            Path(str(image.get("path"))).name,
            one.get("category"),
            "" if one.get("score") is None else f"{100 * one['score']:.1f} %",
            one.get("method"),
            "; ".join(" ".join(f"{x:.0f}" for x in box) for box in one.get("boxes_xyxy", [])) or "none",
        ]
        for image in _images(manifest)
        for one in image.get("results", [])
    ]
    if not rows:
        return []
    note = f"the first {MOST_ROWS} of {len(rows)} rows" if len(rows) > MOST_ROWS else ""
    blocks = [html.table(["photo", "class", "score", "method", "box x0 y0 x1 y1"], rows[:MOST_ROWS], note)]
    panels = [image for image in _images(manifest) if (path / str(image.get("panel"))).is_file()]
    for image in panels[:MOST_PANELS]:
        name = Path(str(image["path"])).name
        seen = ", ".join(dict.fromkeys(str(one["category"]) for one in image.get("results", [])))
        blocks.append(_figure(path / image["panel"], f"{name}: where the network looks for {seen}"))
    if len(panels) > MOST_PANELS:
        blocks.append(html.paragraph(f"{len(panels) - MOST_PANELS} more panels are in the folder.", "note"))
    return blocks


def _batch(path: Path) -> list[str]:
    """The first rows and the classes of a batch's Parquet data set; a line where pyarrow is not installed."""
    shards = sorted(path.rglob("*.parquet"))
    results = [file for file in shards if file.name != "errors.parquet"]
    if not results:
        return []
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        return [
            html.paragraph("Its tables are Parquet; install sightline-cam[batch] to see them here.", "note")
        ]
    rows: list[dict[str, Any]] = []
    for file in results:
        rows += parquet.read_table(file).to_pylist() if len(rows) < MOST_ROWS else []
    names = [name for name in (rows[0] if rows else {}) if "heatmap" not in name]
    cells = [[_short(row[name]) for name in names] for row in rows[:MOST_ROWS]]
    return [html.table(names, cells, f"the first {len(cells)} rows of {len(results)} files")] if cells else []


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _training(log: Path) -> list[str]:
    """The curves and the rows of a training's log.csv."""
    if not log.is_file():
        return []
    headings, rows = _read_csv(log)
    blocks = []
    for name in ("loss", "accuracy"):
        if name in headings and "epoch" in headings:
            pairs = [(row[headings.index("epoch")], row[headings.index(name)]) for row in rows]
            points = [(float(x), float(y)) for x, y in pairs if x and y]
            if points:
                x, y = zip(*points, strict=True)
                drawn = curves({name: (x, y)}, "epoch", name, size=(900, 480))
                blocks.append(html.picture(drawn, f"{name} by epoch: from {y[0]:.3g} to {y[-1]:.3g}"))
    return [*blocks, html.table(headings, rows[:MOST_ROWS])]


def _pictures(path: Path, shown: set[str]) -> list[str]:
    files = sorted(file for pattern in ("*.png", "*.jpg") for file in path.glob(pattern))
    files = [file for file in files if file.name not in shown]
    blocks = [_figure(file, file.stem.replace("_", " ")) for file in files[:MOST_PANELS]]
    left = len(files) - MOST_PANELS
    return (
        [*blocks, html.paragraph(f"{left} more pictures are in the folder.", "note")] if left > 0 else blocks
    )


def _figure(file: Path, text: str) -> str:
    try:
        return html.picture(read_image(file), text, text)
    except InputError:
        return html.paragraph(f"{file.name} cannot be read as a picture.", "bad")


def _tables(path: Path) -> list[str]:
    """The CSV files, but for those that table.md and the training's section show already."""
    blocks = []
    for file in sorted(path.glob("*.csv")):
        if file.name == "log.csv" or (file.name == "table.csv" and (path / "table.md").is_file()):
            continue
        headings, rows = _read_csv(file)
        more = f", the first {MOST_ROWS} of {len(rows)} rows" if len(rows) > MOST_ROWS else ""
        if headings:
            blocks.append(html.table(headings, rows[:MOST_ROWS], f"{file.name}{more}"))
    return blocks


def _read_csv(file: Path) -> tuple[list[str], list[list[str]]]:
    with file.open(newline="", encoding="utf-8", errors="replace") as opened:
        lines = list(csv.reader(opened))
    headings = lines[0] if lines else []
    return headings, [(row + [""] * len(headings))[: len(headings)] for row in lines[1:]]


def _errors(manifest: Mapping[str, Any]) -> list[str]:
    errors, skipped = manifest.get("errors"), manifest.get("skipped")
    lines = [str(one.get("error", one)) for one in errors] if isinstance(errors, list) else []
    lines += [f"{name}: {why}" for name, why in skipped.items()] if isinstance(skipped, Mapping) else []
    return [html.bullets(lines[:MOST_ROWS])] if lines else []


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")
