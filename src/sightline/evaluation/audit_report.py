"""An audit on paper: one HTML page, audit.json beside it, and conditions for a continuous-integration gate."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sightline.errors import InputError, unknown
from sightline.evaluation.randomisation import Randomisation
from sightline.metrics.calibration import Calibration
from sightline.pictures.contact_sheet import Case, contact_sheet
from sightline.pictures.overlay import curves
from sightline.reports import html
from sightline.reports.manifest import describe_run
from sightline.reports.output_folder import OutputFolder, as_json
from sightline.reports.tables import csv_text, percent
from sightline.types import Dataset

KIND = "audit"
COLUMNS = {
    "accuracy": "accuracy",
    "gt_known": "GT-known localisation",
    "heat_in_box": "heat in the object",
    "box_area": "area of the object",
    "heat_on_border": "heat on the border",
    "gini": "Gini index",
    "entropy": "entropy",
    "blank": "maps without heat",
}
SHARES = ("accuracy", "gt_known", "heat_in_box", "box_area", "heat_on_border", "blank")
NEED_BOXES = ("gt_known", "heat_in_box", "box_area", "worst_heat_in_box")
METRICS = (
    *COLUMNS, "ece", "sensitivity", "randomisation", "suspects", "sure_suspects", "worst_accuracy", "worst_heat_in_box",
)  # fmt: skip
DEPENDS = (
    0.5  # mean rank correlation with the fully randomised network's maps: above it they hardly depend on it
)
_CONDITION = re.compile(r"^\s*(\w+)\s*(<=|>=|<|>)\s*([-+.\deE]+)\s*$")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
LIMITS = (
    "A heatmap shows where a score comes from at one layer; it is no proof of cause, and another method may differ.",
    "Heat outside the true box can be legitimate context. A suspect is a reason to look, not a verdict.",
    "The numbers hold for these images; another camera, place or year needs another audit.",
    "Means over few images are uncertain: look at the image counts.",
)


@dataclass(frozen=True)
class ClassAudit:
    """One class: its means by the names of `COLUMNS`, and why it is a suspect, if it is; ``sure``: beyond chance."""

    label: int
    category: str
    images: int
    means: dict[str, float]
    reasons: list[str] = field(default_factory=list)
    sure: bool = False

    @property
    def suspect(self) -> bool:
        """Whether its heat lies elsewhere."""
        return bool(self.reasons)

    @property
    def words(self) -> str:
        """The reasons in one line; where chance is not excluded, that too."""
        return "; ".join(self.reasons) + ("" if self.sure or not self.reasons else "; may be chance")


@dataclass(frozen=True)
class Audit:
    """The result of `sightline.evaluation.audit.audit`."""

    settings: dict[str, Any]
    classes: list[ClassAudit]
    means: dict[str, float]
    calibration: Calibration | None
    randomisation: Randomisation | None
    sensitivity: float | None
    cases: dict[str, list[Case]]
    skipped: dict[str, str]

    @property
    def suspects(self) -> list[ClassAudit]:
        """The classes whose heat lies elsewhere, the sure ones first, most images first."""
        return sorted(
            (one for one in self.classes if one.suspect), key=lambda one: (not one.sure, -one.images)
        )

    @property
    def metrics(self) -> dict[str, float | None]:
        """Every number that a condition can name; None where it was not measured."""
        found: dict[str, float | None] = {name: self.means.get(name) for name in COLUMNS}
        found["ece"] = None if self.calibration is None else self.calibration.error
        found["sensitivity"] = self.sensitivity
        found["randomisation"] = self._randomised
        found["suspects"] = float(len(self.suspects))
        found["sure_suspects"] = float(sum(one.sure for one in self.suspects))
        for name in ("accuracy", "heat_in_box"):
            values = [one.means[name] for one in self.classes if name in one.means]
            found[f"worst_{name}"] = min(values) if values else None
        return found

    @property
    def _randomised(self) -> float | None:
        """The mean rank correlation with the maps of the fully randomised network."""
        if self.randomisation is None:
            return None
        value = float(self.randomisation.mean[0, -1])
        return None if value != value else value

    def failed(self, conditions: Sequence[str]) -> list[str]:
        """The conditions, such as "heat_in_box<0.5", that hold, or whose number was not measured, in words."""
        found = []
        for name, sign, bound in map(parse_condition, conditions):
            value = self.metrics[name]
            if value is None:
                found.append(f"{name} was not measured (asked: {name}{sign}{bound:g})")
            elif _COMPARE[sign](value, bound):
                found.append(f"{name} is {value:.4g}, which is {sign} {bound:g}")
        return found

    def untested(self) -> list[str]:
        """What this audit did not test, in sentences."""
        found = []
        if "heat_in_box" not in self.means:
            found.append("Localisation and the heat in the object: the data set has no boxes.")
        if self.calibration is None:
            found.append("Calibration: the scores are not probabilities.")
        if self.randomisation is None:
            found.append("Dependence on the weights and sensitivity to noise: no image was checked.")
        if self.skipped:
            found.append(f"{len(self.skipped)} images that could not be read or have no label.")
        if self.settings["images"] < self.settings["available"]:
            found.append(f"{self.settings['available'] - self.settings['images']} of the split's images.")
        return [
            *found,
            "Images unlike these: other sources, corruptions, attacks; classes that the data set lacks.",
            "Groups of people or places: the data set says nothing about them.",
        ]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pictures, ready for JSON."""
        c = self.calibration
        return {
            "settings": self.settings,
            "metrics": {name: _finite(value) for name, value in self.metrics.items()},
            "classes": [
                {
                    "class": one.category,
                    "images": one.images,
                    **one.means,
                    "suspect": one.reasons,
                    "sure": one.sure,
                }
                for one in self.classes
            ],
            "calibration": None
            if c is None
            else {
                "ece": c.error,
                "bins": len(c.counts),
                "counts": c.counts.tolist(),
                "confidence": [_finite(value) for value in c.confidence.tolist()],
                "accuracy": [_finite(value) for value in c.accuracy.tolist()],
            },
            "randomisation": None if self.randomisation is None else self.randomisation.as_dict(),
            "not_tested": self.untested(),
            "limits": list(LIMITS),
            "skipped": self.skipped,
        }

    def save(self, folder: str | Path, failed: Sequence[str] = ()) -> Path:
        """Write audit.html, audit.json, classes.csv and, last, manifest.json; returns the page's path."""
        with OutputFolder(folder, KIND) as out:
            path = out.write_text("audit.html", self.html(failed))
            out.write_text("audit.json", as_json({**self.as_dict(), "failed": list(failed)}) + "\n")
            rows = [{"class": c.category, "images": c.images, **c.means} for c in self.classes]
            out.write_text("classes.csv", csv_text(rows))
            out.finish(describe_run(options=self.settings, results="audit.json", skipped=self.skipped))
        return path

    def html(self, failed: Sequence[str] = ()) -> str:
        """The page."""
        s = self.settings
        title = f"Audit of {s['model']['name']} on {s['dataset']}, {s['split']}"
        subtitle = (
            f"{s['images']} of {s['available']} images · heat by {s['method']} · view {s['view']} · "
            "the true class's map"
        )
        return html.page(title, subtitle, _sections(self, failed))


def parse_condition(text: str) -> tuple[str, str, float]:
    """A condition as (metric, sign, bound); raises `InputError`.

    >>> parse_condition("heat_in_box<0.5")
    ('heat_in_box', '<', 0.5)
    """
    found = _CONDITION.match(text)
    try:
        bound = float(found[3]) if found else float("nan")
    except ValueError:
        bound = float("nan")
    if found is None or bound != bound:
        raise InputError(f"--fail-if {text!r}; expected METRIC, < <= > or >=, and a number: heat_in_box<0.5")
    if found[1] not in METRICS:
        raise unknown("metric", found[1], METRICS)
    return found[1], found[2], bound


def check_measurable(conditions: Sequence[str], dataset: Dataset) -> None:
    """Raise `InputError` for a condition on what needs true boxes, where the data set has none."""
    asked = [name for name, *_ in map(parse_condition, conditions) if name in NEED_BOXES]
    if asked and not any(len(sample.boxes_xyxy) for sample in dataset.samples):
        raise InputError(
            f"--fail-if {asked[0]}: {dataset.name} {dataset.split} has no boxes, so it cannot be measured; "
            "expected e.g. accuracy or heat_on_border"
        )


def _finite(value: float | None) -> float | None:
    return None if value is None or value != value or abs(value) == float("inf") else value


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return percent(value) if name in SHARES else f"{value:.3f}"


def _sections(audit: Audit, failed: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    yield "Verdict", _verdict(audit, failed)
    names = [name for name in COLUMNS if name in audit.means or name == "accuracy"]
    rows = [
        [
            one.category,
            one.images,
            *(_shown(name, one.means.get(name)) for name in names),
            one.words,
        ]
        for one in audit.classes
    ]
    note = (
        "Shares in per cent. GT-known: IoU of the map's box with a true box ≥ 0.5. Border: a frame of 5 % of the side, "
        "19 % of the area. Gini index (Chalasani 2020): 0 even, 1 one pixel. Entropy: 1 even, 0 one pixel."
    )
    yield "By class", [html.table(["class", "images", *map(COLUMNS.get, names), "suspect"], rows, note)]  # type: ignore[list-item]
    yield "Suspects", _suspects(audit)
    yield "Does the map depend on the weights?", _randomisation(audit)
    yield "Calibration", _calibration(audit)
    yield "Not tested", [html.bullets(audit.untested())]
    yield "Limits", [html.bullets(LIMITS)]
    yield "Data and weights", [html.facts(audit.settings)]


def _verdict(audit: Audit, failed: Sequence[str]) -> list[str]:
    m = audit.metrics
    shown: Mapping[str, str] = {
        "accuracy": f"{percent(m['accuracy'])} %",
        **({"heat in the object": f"{percent(m['heat_in_box'])} %"} if m["heat_in_box"] is not None else {}),
        **({"GT-known localisation": f"{percent(m['gt_known'])} %"} if m["gt_known"] is not None else {}),
        **(
            {"heat on the border": f"{percent(m['heat_on_border'])} %"}
            if m["heat_on_border"] is not None
            else {}
        ),
        **({"calibration error": f"{percent(m['ece'])} %"} if m["ece"] is not None else {}),
        "suspect classes": f"{len(audit.suspects)} of {len(audit.classes)}, {m['sure_suspects']:.0f} beyond chance",
    }
    blocks = [html.numbers(shown)]
    blocks += [html.paragraph(f"Failed: {line}", "bad") for line in failed]
    if audit.suspects:
        some = ", ".join(one.category for one in audit.suspects[:5]) + ", …" * (len(audit.suspects) > 5)
        blocks.append(html.paragraph(f"Look at {some}: their heat lies elsewhere than the object.", "bad"))
    else:
        blocks.append(html.paragraph("No class's heat lies elsewhere by the rule below.", "good"))
    rule = (
        "Rule: a class is a suspect if the share of heat in its true boxes is below their share of the area, or if "
        "more than 38 % of its heat is on the border, twice the border's area; beyond chance if the 95 % interval over "
        "its images (bootstrap, five images or more) says so too."
    )
    return [*blocks, html.paragraph(rule, "note")]


def _suspects(audit: Audit) -> list[str]:
    blocks = []
    for one in audit.suspects:
        cases = audit.cases.get(one.category, [])
        text = f"{one.category}: {one.words}"
        blocks.append(html.picture(contact_sheet(cases, text), text, text) if cases else html.paragraph(text))
    return blocks


def _randomisation(audit: Audit) -> list[str]:
    found = audit.randomisation
    if found is None:
        return []
    value = audit.metrics["randomisation"]
    if value is None:
        words, kind = "The maps are blank once the weights are random: nothing to compare.", "note"
    elif abs(value) < DEPENDS:
        words, kind = f"Yes: the rank correlation with a random network's maps is {value:.2f}.", "good"
    else:
        words, kind = f"Hardly: the rank correlation with a random network's maps is {value:.2f}.", "bad"
    note = (
        f"Adebayo et al. 2018, {audit.settings['checked']} images; our reading: below {DEPENDS:g} the maps depend on "
        f"the weights. Max-sensitivity (Yeh et al. 2019, noise of ±0.02): {audit.sensitivity or 0:.2f}."
    )
    picture = html.picture(found.picture(), "heatmaps as layers are randomised, from the output back")
    return [html.paragraph(words, kind), html.paragraph(note, "note"), picture]


def _calibration(audit: Audit) -> list[str]:
    c = audit.calibration
    if c is None:
        return []
    columns = [c.edges[:-1], c.edges[1:], c.counts, c.confidence, c.accuracy]
    rows = [
        [f"{low:.2f} to {high:.2f}", int(n), _shown("", _finite(conf)), _shown("", _finite(acc))]
        for low, high, n, conf, acc in zip(*(column.tolist() for column in columns), strict=True)
        if n
    ]
    known = [i for i, n in enumerate(c.counts.tolist()) if n]
    line = ([float(c.confidence[i]) for i in known], [float(c.accuracy[i]) for i in known])
    drawn = curves({"model": line, "calibrated": ([0, 1], [0, 1])}, "confidence", "accuracy", size=(720, 480))
    words = (
        f"Expected calibration error {percent(c.error)} % (Guo et al. 2017): {len(c.counts)} bins of equal width of "
        "the top class's probability."
    )
    headings = ["probability", "images", "mean probability", "accuracy"]
    return [html.paragraph(words), html.picture(drawn, "accuracy by confidence"), html.table(headings, rows)]
