"""`sightline explain --watch`: what is printed, how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def watch(
    sightline: Any, model: list[object], tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """``explain --watch`` of a folder in which a.png lies and c.png arrives; then Ctrl-C."""
    incoming = tmp_path / "in"
    incoming.mkdir()
    shutil.copy(photos / "a.png", incoming)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, end: int = signal.SIGINT) -> Any:
        waits = iter(range(10))

        def arrives(_: float) -> None:
            number = next(waits)
            if number == 1:
                shutil.copy(photos / "c.png", incoming)
                (incoming / "d.png").write_bytes(b"no picture")
            if number == 3:
                os.kill(os.getpid(), end)

        monkeypatch.setattr(
            "sightline.pipeline_watch.watch_folder.__kwdefaults__", {"settle": 0.0, "wait": arrives}
        )
        before = signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # a shell's background jobs ignore Ctrl-C
        try:
            return sightline("explain", "--watch", "in", *model, *arguments)
        finally:
            signal.signal(signal.SIGINT, before)

    return run


def test_a_line_for_each_photo_and_a_summary(watch: Any, tmp_path: Path) -> None:
    result = watch("--out", "out")
    lines = result.out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["a.png", "c.png"]
    assert lines[0].endswith(" -> a.png")
    assert lines[2:] == [
        "2 photos explained, 1 could not be read; panels, journal.jsonl and manifest.json in out"
    ]
    assert result.err.splitlines()[0] == "sightline: watching in; Ctrl-C ends"
    assert "d.png is not an image of a known format" in result.err
    assert result.code == 3
    assert len(json.loads((tmp_path / "out" / "manifest.json").read_text())["images"]) == 2


def test_json_lines_into_the_default_folder_until_a_service_manager_ends_it(
    watch: Any, tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    result = watch("--json", end=signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
    found = [json.loads(line) for line in result.out.splitlines()]
    assert [Path(entry["path"]).name for entry in found] == ["a.png", "c.png", "d.png"]
    assert "error" in found[2]
    assert "2 photos explained" in result.err
    assert (tmp_path / "out" / "watch" / "journal.jsonl").is_file()


def test_only_folders_are_watched(sightline: Any, tmp_path: Path, photos: Path) -> None:
    result = sightline("explain", "--watch", photos / "a.png", "--out", tmp_path / "out")
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        f"sightline: {photos / 'a.png'} is not a folder; expected a folder in which photos arrive\n"
    )


def test_a_reader_that_ended_ends_the_watch(
    watch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("sightline.cli._watch._tell", closed)
    result = watch("--out", "out")
    assert result.code == 2
    assert result.err.endswith(
        "sightline: nothing reads the output any more; the same command goes on from here\n"
    )
    assert len(json.loads((tmp_path / "out" / "manifest.json").read_text())["images"]) == 1
