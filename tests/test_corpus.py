"""A part of `tools/corpus.py`, with a small network; the tool goes through every kind."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

import sightline


@pytest.fixture(scope="module")
def corpus() -> ModuleType:
    spec = importlib.util.spec_from_file_location("corpus", Path(__file__).parents[1] / "tools" / "corpus.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["corpus"] = module
    spec.loader.exec_module(module)
    return module


def test_kinds_of_image_file_are_the_right_picture_or_one_line(
    corpus: ModuleType, tiny40_file: Path, tmp_path: Path
) -> None:
    every = list(corpus.kinds())
    assert len(every) >= 108
    model = sightline.load_model(tiny40_file)
    rows = corpus.check(every[::20], tmp_path, model, ["--model", str(tiny40_file)])
    assert [(kind.name, wrong) for kind, wrong, _ in rows if wrong] == []


def test_a_wrong_picture_or_answer_is_told(corpus: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(corpus.encoded(corpus.scene(), "PNG"))
    same = dict.fromkeys(("Python", "the app"), corpus.Answer(0.5))
    for picture, answers, wrong in (
        (corpus.scene(), same, ""),
        (corpus.scene().rotate(180), same, "its pixels differ by"),
        (Image.new("RGB", (3, 2)), same, "its size is"),
        (corpus.scene(), {**same, "the app": corpus.Answer(0.6)}, "the app gives another score"),
        (corpus.scene(), {**same, "the app": corpus.Answer(reason="no")}, "the app refuses it: no"),
        (None, {"Python": corpus.Answer(0.5)}, "Python reads it"),
        (None, {"Python": corpus.Answer(reason="a.png\nis bad")}, "Python says"),
        (None, {"Python": corpus.Answer(reason="a.png is bad")}, ""),
    ):
        found = corpus.fault(corpus.Kind("", b"", picture), path, answers)
        assert found.startswith(wrong)
        assert bool(found) == bool(wrong)
