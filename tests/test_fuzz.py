"""A few seconds of `tools/fuzz.py`, with fixed numbers; `make fuzz` runs it for an hour."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz", Path(__file__).parents[1] / "tools" / "fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module
    spec.loader.exec_module(module)
    return module


def test_broken_files_are_read_or_refused_in_one_line(fuzz: ModuleType, tmp_path: Path) -> None:
    counts, failures = fuzz.run(iter(range(1000)), tmp_path)
    assert failures == {}
    assert sum(counts.values()) == 1000  # 40 for each reader


@pytest.mark.parametrize(
    ("name", "number"),
    [("checkpoint", 502), ("checkpoint", 617), ("checkpoint", 1629), ("class folders", 2358), ("checkpoint", 4665),
     ("CVAT", 221), ("VOC XML", 221)],
)  # fmt: skip
def test_what_it_found_once(fuzz: ModuleType, tmp_path: Path, name: str, number: int) -> None:
    _, form, files = fuzz.case(number, fuzz.corpus(), name)
    assert fuzz.outcome(form, files, tmp_path) in ("read", "refused")


def test_a_case_is_the_same_each_time(fuzz: ModuleType) -> None:
    formats = fuzz.corpus()
    assert [fuzz.case(n, formats)[2] for n in range(5)] == [fuzz.case(n, formats)[2] for n in range(5)]


def test_a_reader_that_raises_something_else_is_told(fuzz: ModuleType, tmp_path: Path) -> None:
    def bad(root: Path) -> None:
        raise KeyError("id")

    assert fuzz.outcome(fuzz.Format(bad, {"a": b""}, ("a",)), {"a": b""}, tmp_path) == "KeyError: 'id'"
