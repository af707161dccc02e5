"""The tables of a report: what they say, what they leave out, and that every file is whole."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import PIL.Image
import pytest

from sightline.metrics.bootstrap import Interval
from sightline.pictures.contact_sheet import PREDICTED, TRUE, contact_sheet
from sightline.reports.tables import Baseline, Case, ClassScore, Report, Row

SETTINGS = {
    "dataset": "toys",
    "split": "val",
    "images": 4,
    "available": 4,
    "view": "whole",
    "normalise": "minmax",
    "percentile": 90.0,
    "protocol": "exact",
    "choose_on": "held",
    "choose_images": 6,
    "thresholds": {"max": 0.2, "percentile": 0.35},
    "resamples": 100,
    "limit": None,
    "models": [{"name": "net", "input_hw": [64, 64], "weights": "net.safetensors"}],
}


def row(standard: str, gt: float, **more: object) -> Row:
    scores = {
        "top1_cls_error": Interval(0.25, 0.0, 0.5),
        "gt_known_fixed": Interval(gt, gt - 0.1, gt + 0.1),
        "gt_known_chosen": Interval(gt + 0.05, gt, gt + 0.1),
        "top1_loc_error_chosen": Interval(0.5, 0.25, 0.75),
        "gt_known_swept": Interval(gt + 0.1, gt, gt + 0.2),
    }
    thresholds = {"fixed": 0.2, "chosen": 0.123, "swept": 0.15}
    return Row("net", "cam", standard, scores, thresholds, **more)  # type: ignore[arg-type]


@pytest.fixture
def report() -> Report:
    wide, high, true = (
        PIL.Image.new("RGB", (64, 48), "navy"),
        PIL.Image.new("RGB", (48, 64), "navy"),
        [4.0, 4, 40, 40],
    )
    cases = [
        Case("best", "a.jpg", wide, [true], [[4, 4, 44, 40]], 0.9, "cat", "cat"),
        Case("worst", "b.jpg", high, [true], [], 0.0, "dog", "cat"),
    ]
    first = row("max", 0.5, cases=cases, curve=([0.0, 0.5], [0.4, 0.6]))
    first.per_class = [ClassScore("dog", 2, 0.5, 0.0), ClassScore("a|b", 2, 1.0, 1.0)]
    second = row("percentile", 0.6)
    second.differences = {"gt_known_chosen": Interval(0.1, -0.01, 0.2)}
    baselines = [
        Baseline("centre box (margin 1/8)", [0.125] * 4, Interval(0.508, 0.48, 0.536), "fixed"),
        Baseline("best constant box of held", [0.1] * 4, Interval(0.52, 0.5, 0.54), "chosen"),
    ]
    return Report(dict(SETTINGS), [first, second], baselines, {"c.jpg": "c.jpg has no true box"}, ["A note."])


def test_the_table_in_words(report: Report) -> None:
    headings, cells = report.table()
    assert headings == [
        "method",
        "relative to",
        "class. error top-1",
        "loc. error top-1",
        "GT-known, fixed τ",
        "GT-known, chosen τ",
        "GT-known, best τ: upper bound",
        "Δ to row 1",
    ]  # one model, no top-5, no heuristics: their columns are left out
    assert cells[0] == [
        "cam",
        "max",
        "25.0 [0.0, 50.0]",
        "50.0 [25.0, 75.0]",
        "50.0 at τ=0.2 [40.0, 60.0]",
        "55.0 at τ=0.123 [50.0, 60.0]",
        "60.0 at τ=0.15 [50.0, 70.0]",
        "",
    ]
    assert cells[1][-1] == "+10.0 [-1.0, +20.0]"
    assert cells[2] == ["centre box (margin 1/8)", "", "", "", "50.8 [48.0, 53.6]", "", "", ""]
    assert cells[3][5] == "52.0 [50.0, 54.0]"


def test_the_caption_names_the_thresholds_of_named_methods(report: Report) -> None:
    report.rows[1].thresholds["fixed"] = report.settings["thresholds"]["percentile"]
    assert not any("their own" in line for line in report.caption())
    report.rows[1].thresholds["fixed"] = 0.31
    name = report.rows[1].method
    assert f"Named methods have their own fixed τ: {name} 0.31." in report.caption()


def test_the_caption_names_what_the_figures_depend_on(report: Report) -> None:
    text = " ".join(report.caption())
    for fact in (
        "toys, split val: 4 images; 1 skipped",
        "net (input 64×64, weights net.safetensors)",
        "View: whole; normalisation: minmax; protocol: exact",
        "max: τ is a share of the maximum, fixed at 0.2",
        "percentile: τ is a share of the 90th percentile, fixed at 0.35",
        "the best of split held (6 images)",
        "errors are at the chosen τ",
        "95 % bootstrap intervals over images, 100 resamples",
        "Δ: GT-known at the chosen τ minus that of row 1, paired",
        "A note.",
    ):
        assert fact in text


def test_models_get_a_column_where_there_are_two(report: Report) -> None:
    report.rows[1].model = "other"
    headings, cells = report.table()
    assert headings[0] == "model"
    assert [line[0] for line in cells] == ["net", "other", "", ""]


def test_files_and_their_content(report: Report, tmp_path: Path) -> None:
    written = {path.name for path in report.save(tmp_path / "deep" / "out")}
    folder = tmp_path / "deep" / "out"
    assert written == {path.name for path in folder.iterdir()}
    assert written == {
        "table.md",
        "table.csv",
        "per_class.csv",
        "results.json",
        "curve.png",
        "contact_sheet_01.png",
        "manifest.json",
    }
    results = json.loads((folder / "results.json").read_text())
    assert results["rows"][0]["scores"]["gt_known_chosen"] == {"value": 0.55, "low": 0.5, "high": 0.6}
    assert results["rows"][0]["curve"] == {"x": [0.0, 0.5], "y": [0.4, 0.6]}
    assert results["rows"][1]["difference_to_first_row"]["gt_known_chosen"]["low"] == -0.01
    assert results["baselines"][0]["gt_known"]["value"] == 0.508
    assert results["skipped"] == {"c.jpg": "c.jpg has no true box"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["options"]["models"][0]["weights"] == "net.safetensors"
    assert set(manifest["files"]) == written - {"manifest.json"}
    with (folder / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == [
        "cam",
        "cam",
        "centre box (margin 1/8)",
        "best constant box of held",
    ]
    assert float(lines[1]["gt_known_chosen_difference"]) == 0.1
    assert lines[0]["threshold_chosen"] == "0.123"
    assert {line["split"] for line in lines} == {"val"}
    with (folder / "per_class.csv").open() as file:
        assert [line["category"] for line in csv.DictReader(file)] == ["dog", "a|b"]


def test_markdown_has_one_cell_a_column(report: Report) -> None:
    lines = [line for line in report.markdown().splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {9, 5}
    assert "a\\|b" in report.markdown()


def test_the_contact_sheet_shows_both_boxes_and_says_where_there_is_none(report: Report) -> None:
    sheet = contact_sheet(report.rows[0].cases, "cam")
    colours = {colour for _, colour in sheet.getcolors(sheet.width * sheet.height)}
    assert {TRUE, PREDICTED} <= colours
    without = contact_sheet(report.rows[0].cases[1:], "cam")
    below = without.crop((0, 90, without.width, 330))  # the photo of b: no predicted box
    assert PREDICTED not in {colour for _, colour in below.getcolors(below.width * below.height)}


def test_a_dashed_true_box_lets_the_predicted_one_through() -> None:
    """Equal boxes: both colours stand on the same line."""
    case = Case(
        "best", "a", PIL.Image.new("RGB", (100, 100)), [[10, 10, 90, 90]], [[10, 10, 90, 90]], 1.0, "x"
    )
    sheet = contact_sheet([case])
    counts = {colour: count for count, colour in sheet.getcolors(sheet.width * sheet.height)}
    assert 0.5 < counts[TRUE] / counts[PREDICTED] < 2.5
