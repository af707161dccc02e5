"""File names that are not text: a row that says so, or an escaped name; never an error of the codec."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sightline.data.registry import load_dataset
from sightline.training.pseudo_boxes import PseudoBoxes, read_pseudo_boxes
from sightline.types import Sample

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
SAID = "odd\\xff.png: the file's name is not UTF-8 text; rename it"


@pytest.fixture
def odd(photos: Path) -> Path:
    """The three photos, and one whose name is not UTF-8."""
    shutil.copy(photos / "a.png", os.fsencode(photos) + b"/odd\xff.png")
    return photos


@pytest.mark.parametrize(
    ("verb", "format"),
    [("boxes", "coco"), ("boxes", "voc"), ("boxes", "yolo"), ("masks", "coco-rle"), ("masks", "voc-png")],
)
def test_labels_have_a_row_for_it_and_the_others_are_done(
    odd: Path, sightline: Any, model: Any, tmp_path: Path, verb: str, format: str
) -> None:
    for _ in range(2):  # the second run finds the others done
        found = sightline(verb, odd, *model, "--format", format, "--out", tmp_path / "out")
        assert found.code == 3
        assert found.err == f"sightline: 1 of 4 images could not be read:\n  {odd}/{SAID}\n"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["photos"] == 3
    assert manifest["errors"] == [{"path": "odd\\xff.png", "error": f"{odd}/{SAID}"}]


def test_a_report_shows_it(odd: Path, sightline: Any, model: Any, tmp_path: Path) -> None:
    assert sightline("explain", odd, *model, "--out", tmp_path / "out").code == 0
    assert sightline("report", tmp_path / "out").code == 0
    page = (tmp_path / "out" / "report.html").read_bytes()
    assert page.decode().count("<img ") == 4


def test_samples_and_classes_have_names_that_are_text(
    photos: Path, sightline: Any, model: Any, tmp_path: Path
) -> None:
    for folder, name in (("boxer", b"odd\xff.png"), ("bull mastiff", b"b.png")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        shutil.copy(photos / "a.png", os.fsencode(tmp_path / "data" / folder) + b"/" + name)
    audited = sightline(
        "audit", "--data", tmp_path / "data", *model, "--checked", 0, "--out", tmp_path / "out"
    )
    assert (audited.code, audited.err) == (0, "")
    os.rename(tmp_path / "data" / "boxer", os.fsencode(tmp_path / "data") + b"/box\xe9r")
    found = load_dataset(tmp_path / "data", dataset="folder")
    assert sorted(found.categories) == ["box\\xe9r", "bull mastiff"]
    assert sorted(sample.id for sample in found.samples) == ["box\\xe9r/odd\\xff.png", "bull mastiff/b.png"]


def test_pseudo_boxes_of_it_are_read_again(tmp_path: Path) -> None:
    ids = tuple(Sample(name, Path(name)).id for name in ("a", "\udcff", "\ud83d"))
    boxes = PseudoBoxes(ids, (0, 0, 1), torch.rand(3, 4), torch.rand(3), torch.tensor([True, False, True]))
    boxes.save(tmp_path / "boxes.csv")
    assert read_pseudo_boxes(tmp_path / "boxes.csv").ids == ("a", "\\xff", "\\ud83d")
