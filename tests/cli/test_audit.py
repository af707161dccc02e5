"""`sightline audit` and `sightline report`, as a user runs them."""

from __future__ import annotations

import json
from typing import Any

import PIL.Image
import pytest


@pytest.fixture
def data(tmp_path: Any) -> Any:
    root = tmp_path / "data"
    for name, colour in (("boxer", "red"), ("bull mastiff", "green")):
        (root / name).mkdir(parents=True)
        PIL.Image.new("RGB", (32, 32), colour).save(root / name / "a.png")
    return root


def test_an_audit_gates_a_build(data: Any, sightline: Any, model: Any, tmp_path: Any) -> None:
    common = ["audit", "--data", data, *model, "--checked", 0, "--out", tmp_path / "out"]
    done = sightline(*common)
    assert (done.code, done.err) == (0, "")
    assert "heat_on_border" in done.out
    failed = sightline(*common, "--fail-if", "accuracy<=1", "--json")
    assert failed.code == 4
    assert json.loads(failed.out)["failed"]
    assert failed.err.startswith("sightline: failed: accuracy is ")
    wrong = sightline(*common, "--fail-if", "heat<1")
    assert (wrong.code, wrong.err.split(";")[0]) == (2, "sightline: unknown metric 'heat'")


def test_a_folder_becomes_a_page(photos: Any, sightline: Any, model: Any, tmp_path: Any) -> None:
    assert sightline("explain", photos, *model, "--out", tmp_path / "out").code == 0
    done = sightline("report", tmp_path / "out")
    assert done.code == 0
    assert done.out.startswith(f"{tmp_path / 'out' / 'report.html'}: ")
    assert (tmp_path / "out" / "report.html").read_text().count("<img ") == 3
    assert sightline("report", tmp_path / "gone").code == 2
