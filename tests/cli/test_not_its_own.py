"""Files that are already in the output folder and are somebody else's: refused in one line, and as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

SMALL = {"data": {"root": "nowhere", "dataset": "folder"}, "model": {"name": "small-gap"}}


@pytest.mark.parametrize(
    ("verb", "name", "said"),
    [
        ("boxes", "labels.jsonl", "{} is damaged, or not of `sightline boxes` or `masks`; delete it"),
        ("boxes", "annotations", "{} is a file, or lies below one; expected a folder"),
        ("masks", "review.csv", "{} is there already and was not written by `sightline boxes` or `sightline masks`;"),
        ("batch", "errors.parquet", "{} is there already and was not written by `sightline batch`;"),
        ("batch", "results", "{} is there already and was not written by `sightline batch`;"),
        ("batch", "overlays/a.png", "{}/overlays is there already and was not written by `sightline batch`;"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("content", ["mine", "mine\n", "[1]\n"])
def test_a_file_in_the_folder(
    photos: Path, sightline: Any, model: Any, tmp_path: Path, verb: str, name: str, said: str, content: str
) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text(content)
    result = sightline(verb, photos, *model, "--out", tmp_path / "out")
    assert result.code == 2
    place = tmp_path / "out" if "/" in name else path
    assert result.err.startswith(f"sightline: {said.format(place)}")
    assert result.err.count("\n") == 1
    assert path.read_text() == content


@pytest.mark.parametrize("name", ["weights.safetensors", "recipe.yaml", "log.csv"])
def test_a_training(sightline: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**SMALL, "run": {"out": str(tmp_path / "out")}}))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    result = sightline("train", tmp_path / "recipe.yaml")
    assert result.code == 2
    assert result.err.startswith(
        f"sightline: {tmp_path / 'out' / name} is there already and was not written by"
    )
    assert (tmp_path / "out" / name).read_text() == "mine"


@pytest.fixture
def refine(sightline: Any, tmp_path: Path) -> Any:
    """``refine`` of a model that is not there: what is refused before it is looked for."""
    given = [
        "--data",
        tmp_path,
        "--dataset",
        "folder",
        "--split",
        "train",
        "--model",
        tmp_path / "m.safetensors",
    ]
    return lambda *arguments: sightline("refine", *given, "--method", "cam", "--threshold", 0.2, *arguments)


@pytest.mark.parametrize("name", ["weights.safetensors", "scores.md", "round-1"])
def test_a_refinement(refine: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    result = refine("--out", tmp_path / "out")
    assert result.code == 2
    assert result.err.startswith(
        f"sightline: {tmp_path / 'out' / name} is there already and was not written by"
    )
    assert (tmp_path / "out" / name).read_text() == "mine"


def test_where_a_folder_should_be_is_a_file(refine: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = refine("--out", tmp_path / "file" / "out")
    assert result.code == 2
    assert result.err.startswith(f"sightline: {tmp_path / 'file' / 'out'} is a file, or lies below one;")


def test_where_a_file_should_be_is_a_folder(photos: Path, sightline: Any, model: Any, tmp_path: Path) -> None:
    assert sightline("explain", photos, *model, "--out", tmp_path / "out").code == 0
    (tmp_path / "page.html").mkdir()
    result = sightline("report", tmp_path / "out", "--out", tmp_path / "page.html")
    assert (result.code, result.err) == (2, f"sightline: Is a directory: {tmp_path / 'page.html'}\n")
