"""`sightline evaluate --faithfulness`: on a folder of photos, on a data set, and every mistake in one line."""

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
        "evaluate", "--faithfulness", "--data", photos, *model, "--method", "cam", "--method", "gradcam:flip",
        "--input-size", 64, "--limit", 2, "--metric", "drop", "--metric", "deletion", "--steps", 4,
        "--resamples", 20, "--randomise", "--out", out,
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert "photos, split all: 2 images of 3, evenly spread." in result.out
    for word in ("average drop ↓", "deletion ↓", "gradcam flip", "random", "centre"):
        assert word in result.out
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["cam", "gradcam flip", "random", "centre"]
    assert list(rows[0]["scores"]) == ["average_drop", "increase", "deletion"]
    assert (out / "randomisation.png").is_file()
    layers = (out / "randomisation.csv").read_text().splitlines()
    assert len(layers) == 1 + 2 * 12
    assert layers[1].startswith("cam,classifier.1,")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--faithfulness", "--threshold", 0.3, "--gt-only"], "leave out --threshold, --gt-only"),
        (["--randomise"], "leave out --randomise"),
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
    assert message in result.err
    assert result.err.count("\n") == 1
