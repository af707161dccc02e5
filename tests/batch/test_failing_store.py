"""A run whose photos lie in an object store: a store that fails ends it, and loses nothing; a listing is never old."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from sightline.batch.decode import prepare
from sightline.batch.listing import items_of, read_items
from sightline.batch.local_engine import LocalEngine
from sightline.batch.places import place_of
from sightline.batch.run import explain_batch
from sightline.batch.worker import BatchOptions, explain_prepared
from sightline.errors import InputError, StoreError
from sightline.models.loading import LoadedModel
from sightline.models.preprocess import Preprocess
from toybatch import SMALL, contents

ALONE = LocalEngine(workers=0)
PHOTOS = "memory://bucket/photos"


@pytest.fixture
def store(photos: Path) -> Iterator[Any]:
    """A store in memory that holds the photos."""
    found = fsspec.filesystem("memory")
    found.store.clear()
    found.pseudo_dirs[:] = [""]
    for photo in sorted(photos.iterdir()):
        found.put_file(str(photo), f"/bucket/photos/{photo.name}")
    yield found
    found.store.clear()


@pytest.fixture
def broken(store: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Exception | None]]:
    """Errors that opening an object raises, one at a time (None: it opens), by the object's name."""
    errors, opened = dict[str, list[Exception | None]](), type(store)._open

    def fails(self: Any, path: str, *given: Any, **named: Any) -> Any:
        if (waiting := errors.get(path.rpartition("/")[2])) and (error := waiting.pop(0)) is not None:
            raise error
        return opened(self, path, *given, **named)

    monkeypatch.setattr(type(store), "_open", fails)
    return errors


@pytest.mark.parametrize(
    "before", [[], [None]], ids=["explained", "drawn"]
)  # an overlay reads the photo again
def test_a_store_that_fails_ends_the_run_and_no_photo_is_lost(
    model: LoadedModel, broken: dict[str, list[Exception | None]], tmp_path: Path, before: list[None]
) -> None:
    options, out = BatchOptions(**SMALL, overlays=True), tmp_path / "out"
    explain_batch(model, [PHOTOS], tmp_path / "whole", options, ALONE)
    broken["06.png"] = [*before, ConnectionError("it is gone")]
    with pytest.raises(
        StoreError, match=r"^memory:///bucket/photos/06.png cannot be read: it is gone; run the same"
    ):
        explain_batch(model, [PHOTOS], out, options, ALONE)
    assert [path.name for path in (out / "results").iterdir()] == ["part-00000.parquet"]
    found = explain_batch(model, [PHOTOS], out, options, ALONE)
    assert (found["images"], found["errors"]) == (11, 0)
    assert contents(out) == contents(tmp_path / "whole")


def test_what_a_worker_met_is_raised_by_the_one_that_explains(
    model: LoadedModel, broken: dict[str, list[Exception | None]]
) -> None:
    broken["06.png"] = [TimeoutError()]
    prepared = prepare(list(items_of(read_items([PHOTOS]))), Preprocess((16, 16), 16), "whole")
    assert (len(prepared.photos), prepared.items, prepared.errors) == (0, [], [])
    with pytest.raises(
        StoreError, match=r"06.png cannot be read: it did not answer in time; run the same command"
    ):
        explain_prepared(model, prepared, BatchOptions())


def test_one_photo_that_cannot_be_had_is_an_error_row(
    model: LoadedModel, broken: dict[str, list[Exception | None]], tmp_path: Path
) -> None:
    broken["06.png"] = [PermissionError(13, "Forbidden")]
    found = explain_batch(model, [PHOTOS], tmp_path / "out", BatchOptions(**SMALL), ALONE)
    assert (found["images"], found["errors"]) == (10, 1)


def test_a_store_that_fails_while_a_tar_is_listed_is_no_tar_cut_off(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as archive:
        for number in range(3):
            archive.addfile(tarfile.TarInfo(f"{number}.png"))
    store.pipe_file("/bucket/a.tar", file.getvalue())
    step, steps = tarfile.TarFile.next, list[int]()

    def fails(self: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            raise TimeoutError
        return step(self)

    monkeypatch.setattr(tarfile.TarFile, "next", fails)
    with pytest.raises(
        StoreError, match=r"^memory:///bucket/a.tar cannot be read: it did not answer in time"
    ):
        read_items(["memory://bucket/a.tar"])


def test_a_listing_is_not_what_a_package_remembers(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known, look = dict[str, list[str]](), type(store).find
    monkeypatch.setattr(type(store), "find", lambda self, path, **_: known.setdefault(path, look(self, path)))
    monkeypatch.setattr(type(store), "invalidate_cache", lambda self, path=None: known.clear())
    assert len(read_items([PHOTOS])) == 11
    store.rm_file("/bucket/photos/00.png")
    assert len(read_items([PHOTOS])) == 10


def test_an_object_that_stands_for_a_folder_is_no_photo(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    look = type(store).find
    monkeypatch.setattr(type(store), "find", lambda self, path, **_: [f"{path}/old.jpg/", *look(self, path)])
    assert [item.id for item in items_of(read_items([PHOTOS]))] == [f"{n:02d}.png" for n in range(11)]


@pytest.mark.parametrize("name", ["nope", "nope/", "nope.jpg", "nope.parquet", "nope.tar"])
def test_what_is_not_there_is_said_to_be_missing(store: Any, name: str) -> None:
    with pytest.raises(InputError, match=f"^no such file: 'memory://bucket/{name}'$"):
        read_items([f"memory://bucket/{name}"])


def test_a_listing_that_fails_says_so(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, said in (
        (ConnectionError("gone"), "gone; run the same command again, once the store answers"),
        (ValueError("odd\nRequestId:1"), "odd"),
    ):
        monkeypatch.setattr(type(store), "isdir", _raising(error))
        with pytest.raises(InputError, match=f"^{PHOTOS} cannot be listed: {said}$"):
            read_items([PHOTOS])


def test_a_folder_has_no_size_and_a_bucket_that_is_not_there_is_named(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of("memory://bucket/run")
    monkeypatch.setattr(
        type(store), "info", lambda self, path: {"size": None, "type": "directory"}
    )  # as adlfs
    assert place.size("results") is None
    url = "https://storage/upload/storage/v1/b/bucket/o"
    monkeypatch.setattr(type(store), "put_file", _raising(FileNotFoundError(url)))  # as gcsfs
    with pytest.raises(
        InputError, match=r"^memory://bucket/run/a cannot be written: there is no such bucket$"
    ):
        place.write("a", lambda file: file.write(b"1"))


def _raising(error: Exception) -> Any:
    def raises(*_: Any, **__: Any) -> Any:
        raise error

    return raises
