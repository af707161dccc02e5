"""`watch_folder`: what counts as arrived, what is done once, what is left after an interrupt or a kill."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import sightline
import toybatch
from sightline.errors import InputError, UnsupportedError
from sightline.models.loading import LoadedModel
from sightline.pipeline_watch import Arrivals, watch_folder


@pytest.fixture
def model() -> LoadedModel:
    return toybatch.small_model()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return toybatch.photos(tmp_path / "photos", 3)


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def watched(model: Any, folder: Path, *scenes: Callable[[], object], **options: Any) -> list[dict[str, Any]]:
    """The entries of a watch into ``folder.parent/out`` that ends by Ctrl-C; a scene is played whenever it waits."""
    left, found = iter(scenes), []

    def wait(_: float) -> None:
        try:
            next(left)()
        except StopIteration:
            raise KeyboardInterrupt from None

    watch = watch_folder(model, folder, folder.parent / "out", settle=0, wait=wait, **options)
    with pytest.raises(KeyboardInterrupt):
        found.extend(watch)
    return found


def names(entries: list[dict[str, Any]]) -> list[str]:
    return [Path(entry["path"]).name for entry in entries]


def nothing() -> None:
    pass


def copied(source: Path, to: Path) -> Callable[[], object]:
    return lambda: shutil.copy(source, to)


def manifest(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "manifest.json").read_text())
    assert isinstance(content, dict)
    return content


def test_photos_are_explained_as_they_arrive_each_once(
    model: LoadedModel, photos: Path, incoming: Path, tmp_path: Path
) -> None:
    (incoming / "notes.txt").write_text("no photo")
    shutil.copy(photos / "00.png", incoming)
    (incoming / "later").mkdir()
    found = watched(model, incoming, nothing, copied(photos / "01.png", incoming / "later"), nothing, nothing)
    assert names(found) == ["00.png", "01.png"]
    plain = sightline.explain_files(model, [photos / "00.png"], tmp_path / "plain")
    assert found[0]["results"] == plain["images"][0]["results"]
    assert (tmp_path / "out" / "00.png").read_bytes() == (tmp_path / "plain" / "00.png").read_bytes()
    written = manifest(tmp_path / "out")
    assert (written["kind"], written["complete"], written["errors"]) == ("watch", True, [])
    assert written["images"] == found
    assert written["files"] == ["00.png", "01.png", "journal.jsonl"]
    assert list(written["methods"]) == ["gradcam"]


def test_a_photo_that_still_grows_has_not_arrived(model: LoadedModel, photos: Path, incoming: Path) -> None:
    whole = (photos / "02.png").read_bytes()
    target = incoming / "a.png"

    def grown(to: int) -> Callable[[], object]:
        return lambda: target.write_bytes(whole[:to])

    found = watched(model, incoming, grown(0), nothing, grown(100), grown(300), grown(len(whole)), nothing)
    assert names(found) == ["a.png"]
    assert "error" not in found[0]


def test_arrived_is_unchanged_for_the_time_asked(incoming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("sightline.pipeline_watch.time.monotonic", lambda: now)
    (incoming / "a.jpg").write_bytes(b"half")
    arrivals = Arrivals([incoming], settle=2.0)
    arrived = []
    for now, content in ((0.0, b""), (1.5, b" and more"), (3.0, b""), (3.4, b""), (3.6, b"")):  # noqa: B007
        with (incoming / "a.jpg").open("ab") as file:
            file.write(content)
        arrived.append(len(arrivals.look()))
    assert arrived == [0, 0, 0, 0, 1]


def test_a_photo_that_changes_is_explained_again_in_the_same_panel(
    model: LoadedModel, photos: Path, incoming: Path, tmp_path: Path
) -> None:
    shutil.copy(photos / "00.png", incoming / "latest.png")
    found = watched(
        model, incoming, nothing, copied(photos / "01.png", incoming / "latest.png"), nothing, nothing
    )
    assert [entry["panel"] for entry in found] == ["latest.png"] * 2
    assert found[0]["photo_hw"] != found[1]["photo_hw"]
    assert manifest(tmp_path / "out")["images"] == found[1:]


def test_a_bad_photo_is_one_error_and_is_read_again_when_it_changes(
    model: LoadedModel, photos: Path, incoming: Path, tmp_path: Path
) -> None:
    (incoming / "00.png").write_bytes(b"no picture")
    shutil.copy(photos / "01.png", incoming)
    first = watched(model, incoming, nothing, nothing)
    assert sorted(names(first)) == ["00.png", "01.png"]
    assert [entry["error"].split(",")[0] for entry in first if "error" in entry] == [
        f"{incoming / '00.png'} is not an image of a known format"
    ]
    assert [e["path"] for e in manifest(tmp_path / "out")["errors"]] == [str(incoming / "00.png")]
    second = watched(model, incoming, copied(photos / "00.png", incoming / "00.png"), nothing, nothing)
    assert names(second) == ["00.png"]
    assert manifest(tmp_path / "out")["errors"] == []


def test_a_photo_taken_away_in_time_is_no_error(
    model: LoadedModel, photos: Path, incoming: Path, monkeypatch
) -> None:
    shutil.copy(photos / "00.png", incoming)
    look = Arrivals.look

    def removes(self: Arrivals) -> Any:
        found = look(self)
        for arrival in found:
            arrival.path.unlink()
        return found

    monkeypatch.setattr(Arrivals, "look", removes)
    assert watched(model, incoming, nothing, nothing) == []


def test_the_next_watch_goes_on_where_this_one_ended(
    model: LoadedModel, photos: Path, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(photos / "00.png", incoming)
    first = watched(model, incoming, nothing)
    shutil.copy(photos / "01.png", incoming)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    with closing(watch_folder(model, "in", "out", settle=0, wait=lambda _: None, batch_size=3)) as watch:
        second = next(watch)
    assert names([second]) == ["01.png"]
    assert manifest(out)["images"] == [*first, second]
    assert {"00.png", "01.png"} <= {path.name for path in out.iterdir()}


def test_a_killed_watch_loses_nothing_that_was_finished(
    model: LoadedModel, photos: Path, incoming: Path, tmp_path: Path
) -> None:
    for photo in photos.iterdir():
        shutil.copy(photo, incoming)
    first = watched(model, incoming, nothing, nothing)
    out = tmp_path / "out"
    began = {**manifest(out), "complete": False, "images": [], "files": []}  # as a kill leaves it
    (out / "manifest.json").write_text(json.dumps(began))
    *whole, last = (out / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (out / "journal.jsonl").write_bytes(b"".join(whole) + last[:40])
    second = watched(model, incoming, nothing, nothing)
    assert names(second) == names(first[-1:])
    assert sorted(entry["panel"] for entry in manifest(out)["images"]) == ["00.png", "01.png", "02.png"]
    assert not [path for path in out.iterdir() if path.stem.endswith("-2")]


def test_a_file_of_yours_in_the_output_folder_is_not_overwritten(
    model: LoadedModel, photos: Path, incoming: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "00.png").write_text("mine")
    shutil.copy(photos / "00.png", incoming)
    assert [entry["panel"] for entry in watched(model, incoming, nothing, nothing)] == ["00-2.png"]
    assert (tmp_path / "out" / "00.png").read_text() == "mine"


def test_other_options_another_model_or_another_run_are_refused(
    model: LoadedModel, photos: Path, incoming: Path, tmp_path: Path
) -> None:
    shutil.copy(photos / "00.png", incoming)
    watched(model, incoming, nothing, nothing)
    with pytest.raises(InputError, match=r"holds another watch: classes is 'top1' there and 'top2' here"):
        next(watch_folder(model, incoming, tmp_path / "out", classes="top2"))
    with pytest.raises(InputError, match=r"holds the results of `sightline explain --watch`"):
        sightline.explain_files(model, [photos], tmp_path / "out")
    with closing(watch_folder(model, incoming, tmp_path / "other", settle=0, wait=lambda _: None)) as watch:
        next(watch)
        with pytest.raises(InputError, match="another run is writing into"):
            next(watch_folder(model, incoming, tmp_path / "other"))


@pytest.mark.parametrize(
    ("folder", "out", "message"),
    [
        ("gone", "out", "gone does not exist; expected a folder in which photos arrive"),
        ("photos/00.png", "out", "00.png is not a folder"),
        ("photos", "photos", "is watched and is the output folder"),
        ("", "out", "a path is empty"),
    ],
)
def test_a_folder_that_cannot_be_watched(
    model: LoadedModel,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    out: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        next(watch_folder(model, folder, out))
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, height: int) -> None:
    """`explain` fails where a photo has this height."""
    original = sightline.explain

    def explain(model: Any, photos: Any, *arguments: Any, **options: Any) -> Any:
        if any(geometry.photo_hw[0] == height for geometry in photos.geometries):
            raise error
        return original(model, photos, *arguments, **options)

    monkeypatch.setattr("sightline.pipeline_files.explain", explain)


def test_a_photo_that_the_network_fails_on_is_one_error(
    model: LoadedModel, photos: Path, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for photo in photos.iterdir():
        shutil.copy(photo, incoming)
    failing(monkeypatch, InputError("NaN in the output of 'fc'"), 21)
    found = watched(model, incoming, nothing, nothing)
    assert [entry.get("error") for entry in found] == [None, "NaN in the output of 'fc'", None]


@pytest.mark.parametrize(
    ("error", "height"), [(InputError("unknown class"), 20), (UnsupportedError("no layer"), 21)]
)
def test_what_the_model_or_the_options_are_to_blame_for_ends_the_watch(
    model: LoadedModel,
    photos: Path,
    incoming: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    height: int,
) -> None:
    for photo in photos.iterdir():
        shutil.copy(photo, incoming)
    failing(monkeypatch, error, height)
    with pytest.raises(type(error), match=str(error)):
        for _ in watch_folder(model, incoming, incoming.parent / "out", settle=0, wait=lambda _: None):
            pass


def test_an_interrupt_before_anything_arrived_leaves_no_folder(model: LoadedModel, incoming: Path) -> None:
    assert watched(model, incoming, nothing) == []
    assert [path.name for path in incoming.parent.iterdir()] == ["in"]


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX")
def test_a_name_that_is_not_text(model: LoadedModel, photos: Path, incoming: Path) -> None:
    shutil.copy(os.fsencode(photos / "00.png"), os.fsencode(incoming) + b"/\xff.png")
    assert len(watched(model, incoming, nothing, nothing)) == 1
    assert watched(model, incoming, nothing, nothing) == []
