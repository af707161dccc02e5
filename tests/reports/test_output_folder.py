"""Output folders: whole files or none, the owner's manifest, and nothing left of a run that failed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

import pytest

from sightline.errors import InputError
from sightline.reports.output_folder import OutputFolder, file_name, write_atomically


def _fail(path: Path, written: str | None = None) -> None:
    with OutputFolder(path, "explain") as folder:
        assert path.is_dir()
        if written is not None:
            folder.write_text(written, "1")
        raise RuntimeError


def test_a_failed_run_leaves_no_folder_and_an_old_one_stays(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        _fail(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError):
        _fail(tmp_path)
    assert tmp_path.is_dir()


def test_what_was_written_stays_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        _fail(tmp_path / "a", "below/one.txt")
    assert (tmp_path / "a" / "below" / "one.txt").read_text() == "1"


def test_the_manifest_of_another_kind_is_not_overwritten(tmp_path: Path) -> None:
    OutputFolder(tmp_path, "batch").prepare().finish({"images": 3})
    with pytest.raises(
        InputError, match="holds the results of `sightline batch`; give another output folder"
    ):
        OutputFolder(tmp_path, "explain").prepare()
    assert OutputFolder(tmp_path, "batch").prepare().manifest() == {"kind": "batch", "images": 3}
    OutputFolder(tmp_path).prepare()  # files without a manifest may lie beside it


@pytest.mark.parametrize("content", ["", "[]", "no json", "{}"])
def test_a_manifest_that_says_nothing_belongs_to_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    OutputFolder(tmp_path, "explain").prepare()


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    for path in (tmp_path / "taken", tmp_path / "taken" / "deeper"):
        with pytest.raises(InputError, match=re.escape(f"{path} is a file, or lies below one")):
            OutputFolder(path, "explain").prepare()


@pytest.mark.parametrize("durable", [False, True])
def test_half_a_file_has_no_name(tmp_path: Path, durable: bool) -> None:
    def breaks(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_atomically(tmp_path / "a.txt", breaks, durable=durable)
    assert os.listdir(tmp_path) == []


def test_file_names_are_never_shared_and_stay_inside() -> None:
    ids = ["a:b", "a_b", "a%3Ab", "a/b", "/a/b", "a//b", "../a", "./a", "a/..", "a\\b", "", "%", "a?", "a*"]
    names = [file_name(one) for one in ids]
    assert len(set(names)) == len(ids)
    for name in names:
        assert os.path.normpath(name) == name or name.endswith("/%")
        assert not name.startswith(("/", ".."))
