"""Output folders: whole files or none, the owner's manifest, and nothing left of a run that failed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import BinaryIO

import pytest

from sightline.errors import InputError
from sightline.reports.output_folder import OutputFolder, file_name, locked, write_atomically


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
def test_a_manifest_that_says_nothing_belongs_to_somebody_else(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=r"manifest\.json is not of an explain run"):
        OutputFolder(tmp_path, "explain").prepare()
    assert (tmp_path / "manifest.json").read_text() == content


def test_a_manifest_from_before_it_named_its_kind(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"sightline": "0.1.0"}')
    OutputFolder(tmp_path, "explain").prepare()


def test_files_of_others_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine")
    with OutputFolder(tmp_path, "explain") as folder:
        assert folder.taken() == {"a.txt"}
        with pytest.raises(
            InputError, match=r"a\.txt is there already and was not written by `sightline explain`"
        ):
            folder.write_text("a.txt", "other")
    assert (tmp_path / "a.txt").read_text() == "mine"
    (tmp_path / "results.json").write_text("mine")
    with pytest.raises(InputError, match=r"results\.json is there already"):  # before the run, not after it
        OutputFolder(tmp_path, "evaluate").prepare()


def test_files_of_the_run_before_go_when_it_is_done(tmp_path: Path) -> None:
    for names, complete in ((["a", "b"], True), (["b", "c"], False), (["c", "d"], True)):
        with OutputFolder(tmp_path, "explain") as folder:
            for name in names:
                folder.write_text(name, name)
            folder.finish({"complete": complete})
        expected = {"a", "b", "c"} if not complete else set(names)
        assert set(folder.manifest()["files"]) == expected  # type: ignore[index]
        assert {path.name for path in tmp_path.iterdir()} == {*expected, "manifest.json"}


def test_a_manifest_cannot_have_files_elsewhere_removed(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("1")
    out = tmp_path / "out"
    out.mkdir()
    names = ["../precious.txt", str(tmp_path / "precious.txt"), 3, ""]
    (out / "manifest.json").write_text(json.dumps({"sightline": "1", "kind": "explain", "files": names}))
    with OutputFolder(out, "explain") as folder:
        folder.finish({})
    assert (tmp_path / "precious.txt").read_text() == "1"


def test_what_a_killed_run_leaves(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path, "explain").prepare()
    folder.begin({}, ["a.txt"])
    folder.write_text("a.txt", "1")  # and then it is killed, while it writes another file
    gone = tmp_path / ".0123456789ab.999999999.1.part"
    alive = tmp_path / f".0123456789ab.{os.getpid()}.1.part"
    gone.write_text("half")
    alive.write_text("half")
    with OutputFolder(tmp_path, "explain") as again:
        assert not gone.exists()
        assert alive.exists()
        again.write_text("a.txt", "2")  # known to be the killed run's own
        again.finish({})


def test_a_killed_run_s_files_are_known_to_be_its_own_without_begin(tmp_path: Path) -> None:
    OutputFolder(tmp_path, "explain").prepare().write_text("a.txt", "1")  # and then it is killed
    with OutputFolder(tmp_path, "explain") as again:
        assert again.manifest()["complete"] is False  # type: ignore[index]
        again.write_text("a.txt", "2")
        again.finish({})


def test_a_folder_that_a_run_owns_stays(tmp_path: Path) -> None:
    for _ in range(2):
        with OutputFolder(tmp_path, "batch") as folder:
            (tmp_path / "overlays").mkdir(exist_ok=True)  # `files_in` a batch's manifest
            folder.finish({"complete": True})
    assert (tmp_path / "overlays").is_dir()


def test_a_run_that_writes_nothing_leaves_the_manifest_as_it_was(tmp_path: Path) -> None:
    for before in (None, {"kind": "explain", "images": 3}):
        if before is not None:
            OutputFolder(tmp_path, "explain").prepare().finish(before)
        folder = OutputFolder(tmp_path, "explain").prepare()
        folder.begin({}, ["a.txt"])
        folder.abandon()
        assert folder.manifest() == before


def test_an_empty_path_is_no_folder() -> None:
    with pytest.raises(InputError, match="the output folder is ''"):
        OutputFolder("", "explain")


@pytest.mark.parametrize("path", ["s3://bucket/out", Path("s3://bucket/out")])
def test_results_are_written_on_this_machine(path: str | Path) -> None:
    with pytest.raises(
        InputError, match=r"the output folder is 's3:/.*bucket/out', a URL; expected a folder"
    ):
        OutputFolder(path, "batch")


def test_long_names_are_written_and_shortened(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("x" * 250), lambda file: file.write(b"1"))
    assert (tmp_path / ("x" * 250)).read_bytes() == b"1"
    long = [file_name(start + "ä" * 300 + end) for start in "ab" for end in ("", "x", "y.jpg")]
    assert len(set(long)) == 6
    assert max(len(os.fsencode(name)) for name in long) <= 200


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


def _run(path: Path, *, finish: bool) -> None:
    folder = OutputFolder(path, "watch")
    with folder, locked(folder):
        with pytest.raises(InputError, match=re.escape(f"another run is writing into {path}; wait for it")):
            _run(path, finish=True)
        if finish:
            folder.finish({})


def test_a_folder_is_one_runs_at_a_time_and_free_afterwards(tmp_path: Path) -> None:
    _run(tmp_path / "a", finish=False)
    assert list(tmp_path.iterdir()) == []  # nothing was started: not even the lock stays
    _run(tmp_path / "a", finish=True)
    _run(tmp_path / "a", finish=True)


def test_a_folder_that_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(InputError, match=r"cannot be locked: .+; give another output folder"):
        _run(tmp_path, finish=True)
