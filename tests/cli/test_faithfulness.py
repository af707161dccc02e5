"""`sightline faithfulness` (once `evaluate --faithfulness`): on a folder of photos, and every mistake in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_a_folder_of_photos_needs_no_layout(
    sightline: Run, photos: Path, model: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = sightline(
        "faithfulness", "--data", photos, *model, "--method", "cam", "--method", "gradcam:flip",
        "--input-size", 64, "--limit", 2, "--metric", "drop", "--metric", "deletion", "--steps", 4,
        "--resamples", 20, "--randomise", "--out", out,
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert "photos, split all: 2 images of 3, evenly spaced." in result.out
    for word in ("average drop ↓", "deletion ↓", "gradcam flip", "random", "centre"):
        assert word in result.out
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["cam", "gradcam flip", "random", "centre"]
    assert list(rows[0]["scores"]) == ["average_drop", "increase", "deletion"]
    assert (out / "randomisation.png").is_file()
    layers = (out / "randomisation.csv").read_text().splitlines()
    assert len(layers) == 1 + 2 * 12
    assert layers[1].startswith("cam,classifier.1,")


def test_the_old_name_does_the_same_and_says_the_new_one(
    sightline: Run, photos: Path, model: list[object], tmp_path: Path
) -> None:
    shared = ["--data", photos, *model, "--input-size", 64, "--metric", "drop", "--resamples", 20, "--json"]
    new = sightline("faithfulness", *shared, "--out", tmp_path / "new")
    old = sightline("evaluate", "--faithfulness", *shared, "--out", tmp_path / "old")
    assert (old.code, old.out) == (new.code, new.out) == (0, new.out)
    assert (
        old.err == "sightline: warning: `sightline evaluate --faithfulness` is now `sightline faithfulness`\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--faithfulness", "--threshold", 0.3],
            "No such option: --threshold",
        ),
        (["--faithfulness", "--gt-only"], "No such option: --gt-only"),
        (["--randomise"], "No such option: --randomise"),
        (["--faithfulness", "--metric", "rode"], "did you mean 'road'"),
        (["--faithfulness", "--metric", "pointing"], "needs true boxes"),
        (["--faithfulness", "-m", "resnet18", "--weights", "none"], "takes one --model"),
    ],
)
def test_mistakes_are_one_line(
    sightline: Run, photos: Path, model: list[object], tmp_path: Path, options: list[object], message: str
) -> None:
    result = sightline("evaluate", "--data", photos, *model, *options, "--out", tmp_path / "out")
    assert result.code == 2
    lines = [line for line in result.err.splitlines() if "is now" not in line]
    assert len(lines) == 1
    assert message in lines[0]
