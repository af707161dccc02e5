"""The results of an evaluation and its tables: for the terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.metrics.bootstrap import Interval
from sightline.pictures.contact_sheet import Case, contact_sheet
from sightline.reports.manifest import describe_run
from sightline.reports.output_folder import OutputFolder

if TYPE_CHECKING:
    import PIL.Image


@dataclass(frozen=True)
class ClassScore:
    """One class of the per-class table; shares in [0, 1], None if not measured."""

    category: str
    images: int
    accuracy: float | None
    gt_known: float | None


@dataclass
class Row:
    """One model × method × box rule: scores in [0, 1] with their intervals, and differences to the first row."""

    model: str
    method: str
    relative_to: str  # what thresholds are a share of; empty without thresholds
    scores: dict[str, Interval]
    thresholds: dict[str, float] = field(default_factory=dict)  # fixed, chosen, swept
    differences: dict[str, Interval] = field(default_factory=dict)
    curve: tuple[list[float], list[float]] | None = None
    mean_iou: float | None = None  # at the shown threshold
    per_class: list[ClassScore] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What distinguishes this row from the others, in words."""
        return " · ".join(part for part in (self.model, self.method, self.relative_to) if part)

    @property
    def shown(self) -> str:
        """The threshold used for the localisation errors and the cases: the chosen one if there is one."""
        return "chosen" if "chosen" in self.thresholds else "fixed"


@dataclass(frozen=True)
class Baseline:
    """A box that ignores the image: relative corners, GT-known localisation, and how it was chosen."""

    name: str
    box: list[float]
    score: Interval
    kind: str  # fixed | chosen | swept


@dataclass
class Report:
    """The result of `sightline.evaluation.evaluate`: rows, baselines, and the settings behind them."""

    settings: dict[str, Any]
    rows: list[Row]
    baselines: list[Baseline] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # image id -> why
    notes: list[str] = field(default_factory=list)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and cells of the main table, in per cent; columns with nothing to tell are left out."""
        shown = [column for column in _columns(self) if any(column[1])]
        headings = [heading for heading, _ in shown]
        return headings, [list(cells) for cells in zip(*(cells for _, cells in shown), strict=True)]

    def caption(self) -> list[str]:
        """What every number of the table depends on, in sentences."""
        return [*_caption(self), *self.notes]

    def markdown(self) -> str:
        """The main table, its caption, and the first row's per-class table."""
        title = f"# {self.settings['dataset']} {self.settings['split']}"
        parts = [title, "\n".join(f"- {line}" for line in self.caption()), markdown_table(*self.table())]
        if self.rows and self.rows[0].per_class:
            parts += [
                f"## Classes, worst first: {self.rows[0].label}",
                markdown_table(*class_table(self.rows[0])),
            ]
        return "\n\n".join(parts) + "\n"

    def csv(self) -> str:
        """One line per row, numbers at full precision, with the settings that they depend on."""
        names = list(dict.fromkeys(name for row in self.rows for name in row.scores))
        common = {k: self.settings[k] for k in _NAMED}
        lines = [{**common, **flat} for flat in _flat_rows(self, names)]
        return csv_text(lines)

    def per_class_csv(self) -> str:
        """One line per row and class, worst first."""
        return csv_text([{**_named(row), **vars(one)} for row in self.rows for one in row.per_class])

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "settings": self.settings,
            "caption": self.caption(),
            "rows": [_row_dict(row) for row in self.rows],
            "baselines": [
                {"name": b.name, "kind": b.kind, "box_relative_xyxy": b.box, "gt_known": b.score._asdict()}
                for b in self.baselines
            ],
            "skipped": self.skipped,
        }

    def json(self) -> str:
        """`as_dict` as text."""
        return json.dumps(self.as_dict(), indent=1, ensure_ascii=False, allow_nan=False)

    def save(self, folder: str | Path) -> list[Path]:
        """Write tables, pictures and manifest.json into ``folder``, each file atomically."""
        texts = {
            "table.md": self.markdown(),
            "table.csv": self.csv(),
            "per_class.csv": self.per_class_csv() if any(row.per_class for row in self.rows) else "",
            "results.json": self.json(),
        }
        return write_run(folder, "evaluate", texts, self.pictures(), self.settings, self.skipped)

    def pictures(self) -> Iterator[tuple[str, PIL.Image.Image]]:
        """The curve of all rows, and one contact sheet per row, each with its file name."""
        from sightline.pictures.overlay import curves

        lines = {row.label: row.curve for row in self.rows if row.curve}
        if lines:
            pixels = self.settings["protocol"] == "pxap"
            axes = ("recall", "precision") if pixels else ("threshold τ", "GT-known localisation (IoU ≥ 0.5)")
            title = f"{self.settings['dataset']} {self.settings['split']}, {self.settings['images']} images"
            yield "curve.png", curves(lines, *axes, title=title, size=(1200, 800))
        for number, row in enumerate(self.rows, start=1):
            if row.cases:
                tau = row.thresholds[row.shown]
                title = f"{row.label} · {row.shown} threshold {tau:g} · view {self.settings['view']}"
                yield f"contact_sheet_{number:02d}.png", contact_sheet(row.cases, title)


def write_run(
    folder: str | Path,
    kind: str,
    texts: Mapping[str, str],
    pictures: Iterable[tuple[str, PIL.Image.Image]],
    settings: dict[str, Any],
    skipped: Mapping[str, str],
) -> list[Path]:
    """Write the non-empty texts, the pictures and, last, manifest.json into ``folder``; returns all paths.

    ``kind`` is the verb that writes, as in `OutputFolder`.
    """
    with OutputFolder(folder, kind) as out:
        texts, drawn = {name: text for name, text in texts.items() if text}, dict(pictures)
        out.begin(describe_run(), [*texts, *drawn])
        written = [out.write_text(name, text) for name, text in texts.items()]
        written += [out.write_picture(name, picture) for name, picture in drawn.items()]
        manifest = describe_run(
            options=settings,
            skipped=skipped,
            images=settings["images"],
            results="results.json",
            files=[path.name for path in written],
        )
        return [*written, out.finish(manifest)]


_NAMED = ("dataset", "split", "images", "view", "normalise", "percentile", "protocol", "choose_on")


def class_table(row: Row) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of one row's per-class table, worst first."""
    cells = [
        [one.category, str(one.images), percent(one.accuracy), percent(one.gt_known)] for one in row.per_class
    ]
    return ["class", "images", "accuracy", f"GT-known, {row.shown} τ"], cells


def percent(share: float | None) -> str:
    """A share in [0, 1] in per cent; empty for None.

    >>> percent(0.5083), percent(None)
    ('50.8', '')
    """
    return "" if share is None else f"{100 * share:.1f}"


def spelled(score: Interval | None, sign: bool = False) -> str:
    """A score in per cent with the ends of its interval.

    >>> spelled(Interval(0.508, 0.48, 0.536)), spelled(Interval(0.02, -0.001, 0.04), sign=True)
    ('50.8 [48.0, 53.6]', '+2.0 [-0.1, +4.0]')
    """
    if score is None:
        return ""
    value, low, high = (f"{100 * number:{'+' if sign else ''}.1f}" for number in score)
    return f"{value} [{low}, {high}]"


def _columns(report: Report) -> Iterator[tuple[str, list[str]]]:
    """(heading, one cell per row and baseline); `Report.table` leaves out empty columns."""
    rows, fixed = report.rows, report.baselines
    blank = [""] * len(fixed)
    if len({row.model for row in rows}) > 1:
        yield "model", [row.model for row in rows] + blank
    yield "method", [row.method for row in rows] + [baseline.name for baseline in fixed]
    yield "relative to", [row.relative_to for row in rows] + blank
    for heading, name in _ERRORS:
        found = [row.scores.get(name.format(shown=row.shown)) for row in rows]
        yield heading, [spelled(score) for score in found] + blank
    for heading, kind in (("fixed τ", "fixed"), ("chosen τ", "chosen"), ("best τ: upper bound", "swept")):
        cells = [_at_threshold(row, kind) for row in rows]
        yield (
            f"GT-known, {heading}",
            cells + [spelled(baseline.score) if baseline.kind == kind else "" for baseline in fixed],
        )
    for heading, name in (("MaxBoxAccV2: upper bound", "max_box_acc_v2"), ("PxAP", "pxap")):
        yield heading, [spelled(row.scores.get(name)) for row in rows] + blank
    yield "Δ to row 1", [_difference(row) for row in rows] + blank


_ERRORS = (
    ("class. error top-1", "top1_cls_error"),
    ("top-5", "top5_cls_error"),
    ("loc. error top-1", "top1_loc_error_{shown}"),
    ("top-5 plain", "top5_loc_error_{shown}"),
    ("top-5 heuristics", "top5_loc_error_heuristics"),
)


def _at_threshold(row: Row, kind: str) -> str:
    score = row.scores.get(f"gt_known_{kind}")
    return spelled(score).replace(" [", f" at τ={row.thresholds[kind]:g} [") if score else ""


def main_score(row: Row) -> str:
    """The score that rows are compared by."""
    order = (f"gt_known_{row.shown}", "pxap", "top1_cls_error")
    return next(name for name in order if name in row.scores)


def _difference(row: Row) -> str:
    return spelled(row.differences.get(main_score(row)), sign=True)


def _caption(report: Report) -> Iterator[str]:
    s = report.settings
    of = f" of {s['available']}" if s["images"] < s["available"] else ""
    spread = ", evenly spaced" if s["limit"] is not None and of else ""
    skipped = f"; {len(report.skipped)} skipped" if report.skipped else ""
    yield f"{s['dataset']}, split {s['split']}: {s['images']} images{of}{spread}{skipped}."
    names = [
        f"{m['name']} (input {m['input_hw'][0]}×{m['input_hw'][1]}, weights {m['weights']})"
        for m in s["models"]
    ]
    if names:
        yield f"Model{'s' * (len(names) > 1)}: {'; '.join(names)}."
    yield f"View: {s['view']}; normalisation: {s['normalise']}; protocol: {s['protocol']}."
    if s["thresholds"]:
        yield from _threshold_caption(report)
    yield f"In brackets: 95 % bootstrap intervals over images, {s['resamples']} resamples."
    if len(report.rows) > 1:
        yield f"Δ: {_COMPARED[main_score(report.rows[0])]} minus that of row 1, paired."


def _threshold_caption(report: Report) -> Iterator[str]:
    s = report.settings
    shares = {"max": "of the maximum", "percentile": f"of the {s['percentile']:g}th percentile"}
    fixed = [
        f"{name}: τ is a share {shares[name]}, fixed at {tau:g}{_own(s.get('own_thresholds', {}).get(name, {}))}"
        for name, tau in s["thresholds"].items()
    ]
    yield f"Threshold relative to {'; '.join(fixed)}. GT-known: a box is right if its IoU is at least 0.5."
    own = {
        row.method: row.thresholds["fixed"]
        for row in report.rows
        if row.thresholds.get("fixed", s["thresholds"].get(row.relative_to))
        != s["thresholds"].get(row.relative_to)
    }
    if own:
        yield f"Named methods have their own fixed τ: {', '.join(f'{name} {tau:g}' for name, tau in own.items())}."
    if s["choose_on"]:
        yield f"Chosen τ: the best of split {s['choose_on']} ({s['choose_images']} images), applied here."
    yield (
        f"Localisation errors are at the {report.rows[0].shown} τ. The best τ is chosen on the images it is "
        "reported on: an upper bound, not a result."
    )


def _own(thresholds: Mapping[str, float]) -> str:
    """The thresholds that named methods bring, in words."""
    return (
        f" ({', '.join(f'{method} at {tau:g}' for method, tau in thresholds.items())})" if thresholds else ""
    )


_COMPARED = {
    "gt_known_chosen": "GT-known at the chosen τ",
    "gt_known_fixed": "GT-known at the fixed τ",
    "pxap": "PxAP",
    "top1_cls_error": "top-1 classification error",
}


def _flat_rows(report: Report, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for row in report.rows:
        flat = {**_named(row), **{f"threshold_{k}": v for k, v in row.thresholds.items()}}
        for name in names:
            flat |= interval_ends(name, row.scores.get(name)) | interval_ends(
                f"{name}_difference", row.differences.get(name)
            )
        yield flat
    for baseline in report.baselines:
        yield {"method": baseline.name, **interval_ends(f"gt_known_{baseline.kind}", baseline.score)}


def interval_ends(name: str, score: Interval | None) -> dict[str, float]:
    return {} if score is None else {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}


def _named(row: Row) -> dict[str, str]:
    return {
        "model": row.model,
        "method": row.method,
        "relative_to": row.relative_to,
        "standard": row.relative_to,  # its old name, for readers of these files
    }


def _row_dict(row: Row) -> dict[str, Any]:
    return {
        **_named(row),
        "thresholds": row.thresholds,
        "scores": {name: score._asdict() for name, score in row.scores.items()},
        "difference_to_first_row": {name: score._asdict() for name, score in row.differences.items()},
        "curve": None if row.curve is None else {"x": row.curve[0], "y": row.curve[1]},
        "per_class": [vars(one) for one in row.per_class],
        "cases": [{**vars(case), "source": str(case.source)} for case in row.cases],
    }


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def csv_text(lines: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    fields = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(text, fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
