"""Results in an object store: the files of a folder, bit for bit; resumed, refused and left out as on a disk."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

import toybatch
from sightline.batch import shards
from sightline.batch.listing import items_of, read_items
from sightline.batch.local_engine import LocalEngine
from sightline.batch.places import Disk, Store, place_of
from sightline.batch.run import explain_batch
from sightline.batch.worker import BatchOptions
from sightline.errors import InputError
from sightline.models.loading import LoadedModel
from sightline.reports.output_folder import OutputFolder
from sightline.types import BoxRule
from toybatch import SMALL, contents

ALONE = LocalEngine(workers=0)
OUT = "memory://bucket/run"
OPTIONS = BatchOptions(**SMALL, overlays=True)


@pytest.fixture
def store() -> Iterator[Any]:
    """An empty store in memory."""
    found = fsspec.filesystem("memory")
    found.store.clear()
    found.pseudo_dirs[:] = [""]
    yield found
    found.store.clear()


@pytest.fixture(scope="module")
def on_disk(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("disk")
    explain_batch(toybatch.small_model(), [photos], out, OPTIONS, ALONE)
    return contents(out)


def objects(store: Any) -> dict[str, bytes]:
    """Every object of the run but its manifest."""
    names = [name for name in store.find("/bucket/run") if not name.endswith("manifest.json")]
    return {name.removeprefix("/bucket/run/"): store.cat_file(name) for name in names}


def manifest(store: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.cat_file("/bucket/run/manifest.json"))
    return found


@pytest.mark.parametrize("out", [OUT, f"{OUT}/", Path(OUT)])
def test_a_run_into_a_store_writes_what_a_run_into_a_folder_writes(
    model: LoadedModel, photos: Path, store: Any, on_disk: dict[str, bytes], out: str | Path
) -> None:
    found = explain_batch(model, [photos], out, OPTIONS, ALONE)
    assert found == manifest(store)
    assert (found["complete"], found["images"], found["kind"]) == (True, 11, "batch")
    assert objects(store) == on_disk


def test_the_same_run_again_computes_only_what_is_missing(
    model: LoadedModel, photos: Path, store: Any, on_disk: dict[str, bytes]
) -> None:
    explain_batch(model, [photos], OUT, OPTIONS, ALONE)
    store.rm_file(f"/bucket/run/{shards.part(1)}")
    store.pipe_file(f"/bucket/run/{shards.heatmaps(2)}", b"half")
    told: list[tuple[int, int]] = []
    explain_batch(model, [photos], OUT, OPTIONS, ALONE, lambda *now: told.append(now))
    assert told == [(6, 11), (8, 11), (10, 11), (11, 11)]
    assert objects(store) == on_disk
    told.clear()
    explain_batch(model, [photos], OUT, OPTIONS, ALONE, lambda *now: told.append(now))
    assert told == []


def test_a_store_that_fails_in_the_middle_is_one_line_and_the_same_call_completes_the_run(
    model: LoadedModel, photos: Path, store: Any, on_disk: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    put, sent = type(store).put_file, []

    def fails(self: Any, local: str, remote: str, **options: Any) -> None:
        sent.append(remote)
        if len(sent) == 5:
            raise ConnectionError("the store is\n  away")
        put(self, local, remote, **options)

    monkeypatch.setattr(type(store), "put_file", fails)
    said = f"^{OUT}/results/part-00001.parquet cannot be written: the store is away; run the same command again, once"
    with pytest.raises(InputError, match=said):
        explain_batch(model, [photos], OUT, OPTIONS, ALONE)
    assert not manifest(store)["complete"]
    assert sent[-1].endswith("results/part-00001.parquet")  # its heatmaps are there, so it is not finished
    explain_batch(model, [photos], OUT, OPTIONS, ALONE)
    assert objects(store) == on_disk


def test_another_run_s_folder_is_refused(model: LoadedModel, photos: Path, store: Any) -> None:
    explain_batch(model, [photos], OUT, OPTIONS, ALONE)
    before = objects(store), manifest(store)
    with pytest.raises(InputError, match=r"^memory://bucket/run holds another run: view is 'whole' there"):
        explain_batch(model, [photos], OUT, BatchOptions(**SMALL, view="crop"), ALONE)
    assert (objects(store), manifest(store)) == before
    store.pipe_file("/bucket/run/manifest.json", b'{"kind": "explain", "sightline": "1.0"}')
    with pytest.raises(InputError, match=r"^memory://bucket/run holds the results of `sightline explain`;"):
        explain_batch(model, [photos], OUT, OPTIONS, ALONE)
    for content in (b"{}", b"[]", b"half", b"\xff"):
        store.pipe_file("/bucket/run/manifest.json", content)
        with pytest.raises(InputError, match=r"^memory://bucket/run/manifest.json is not of a batch run;"):
            explain_batch(model, [photos], OUT, OPTIONS, ALONE)
        assert store.cat_file("/bucket/run/manifest.json") == content


def test_of_two_runs_that_begin_at_once_the_one_whose_manifest_is_gone_stops(
    model: LoadedModel, photos: Path, store: Any
) -> None:
    def other(done: int, total: int) -> None:
        if done == 2:
            folder = shards.Folder(OUT)
            folder.place.write_manifest("batch", {**like, "options": {**like["options"], "view": "crop"}})

    explain_batch(model, [photos], "memory://bucket/like", OPTIONS, ALONE)
    like = json.loads(store.cat_file("/bucket/like/manifest.json"))
    with pytest.raises(InputError, match=r"holds another run: view is 'crop' there and 'whole' here"):
        explain_batch(model, [photos], OUT, OPTIONS, ALONE, other)
    assert store.find("/bucket/run/results") == []


def test_a_shard_of_another_run_is_no_shard_of_this_one(model: LoadedModel, photos: Path, store: Any) -> None:
    lower = BatchOptions(**SMALL, rule=BoxRule(0.1))
    explain_batch(model, [photos], "memory://bucket/like", lower, ALONE)
    explain_batch(model, [photos], OUT, BatchOptions(**SMALL, rule=BoxRule(0.6)), ALONE)
    store.copy(
        "/bucket/like/manifest.json", "/bucket/run/manifest.json"
    )  # as the later of two that began at once
    explain_batch(model, [photos], OUT, lower, ALONE)
    like = {name: store.cat_file(f"/bucket/like/{name}") for name in objects(store)}
    assert objects(store) == like


def test_what_disappears_during_the_run_is_named(
    model: LoadedModel, photos: Path, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(done: int, total: int) -> None:
        if done == 4:
            store.rm_file("/bucket/run/manifest.json")

    with pytest.raises(
        InputError, match=rf"^{OUT}/manifest.json disappeared during the run; run the same command"
    ):
        explain_batch(model, [photos], OUT, BatchOptions(**SMALL), ALONE, gone)
    explain_batch(model, [photos], "memory://bucket/new", BatchOptions(**SMALL), ALONE)
    store.pipe_file("/bucket/new/errors.parquet", b"<html>")
    with pytest.raises(
        InputError, match=r"^memory://bucket/new/errors.parquet cannot be read: .*failures of this run$"
    ):
        shards.Folder("memory://bucket/new").reasons(5)


def test_a_manifest_of_odd_types_is_another_run(model: LoadedModel, photos: Path, store: Any) -> None:
    store.pipe_file(
        "/bucket/run/manifest.json", b'{"kind": "batch", "options": 3, "model": null, "input": []}'
    )
    with pytest.raises(
        InputError, match=r"holds another run: .*; and \d+ more; give another output folder"
    ) as told:
        explain_batch(model, [photos], OUT, OPTIONS, ALONE)
    assert len(str(told.value)) < 400


def test_an_object_is_no_folder(model: LoadedModel, photos: Path, store: Any) -> None:
    store.pipe_file("/bucket/run", b"mine")
    with pytest.raises(InputError, match=f"^{OUT} is a file; expected a folder$"):
        explain_batch(model, [photos], OUT, OPTIONS, ALONE)


def test_a_full_folder_for_temporary_files_is_named(
    model: LoadedModel, photos: Path, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    with pytest.raises(
        InputError, match=r"^the folder for temporary files .* cannot be written to: No space left"
    ):
        explain_batch(model, [photos], OUT, OPTIONS, ALONE)


def test_its_own_output_and_earlier_runs_overlays_are_no_photos(
    model: LoadedModel, photos: Path, store: Any
) -> None:
    for photo in sorted(photos.iterdir()):
        store.put_file(str(photo), f"/bucket/photos/{photo.name}")
    store.put_file(str(photos / "00.png"), "/bucket/photos/old.jpg/overlays2/own.png")
    listed = [item.id for item in items_of(read_items(["memory://bucket/photos"]))]
    assert listed == [*(f"{n:02d}.png" for n in range(11)), "old.jpg/overlays2/own.png"]
    for name in ("old", "new", "new"):
        found = explain_batch(
            model, ["memory://bucket/photos"], f"memory://bucket/photos/{name}", OPTIONS, ALONE
        )
        assert found["images"] == 12
    assert len(store.find("/bucket/photos/old/overlays")) == 12
    within = read_items(["memory://bucket/photos/new/overlays"], ["memory://bucket/photos/new"])
    assert len(within) == 12  # who names a folder wants what is in it


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("https://host/run", "'https://host/run' is no place for results; expected a folder, or a URL of s3"),
        ("sftp://host/run", "'sftp://host/run' is no place for results"),  # its files can be half-written
        ("simplecache::s3://b/run", "'simplecache::s3://b/run' is no place for results"),
        ("oss://bucket/run", "oss://bucket/run cannot be used: .*ossfs"),  # a package that is not installed
        ("", "the output folder is ''; expected a path"),
        ("s3://", "'s3://' names no bucket; expected a URL such as s3://bucket/run"),
        (None, "the output folder is None; expected a path or a URL"),
    ],
)
def test_what_is_no_place_for_results_is_refused(out: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"^{reason}"):
        place_of(out)


def test_a_place_is_told_by_its_name(tmp_path: Path) -> None:
    assert isinstance(place_of("s3:odd"), Disk)
    assert isinstance(place_of(tmp_path), Disk)
    for same in (f"file://{tmp_path}", Path(f"file://{tmp_path}"), f"FILE://{tmp_path}"):
        assert str(place_of(same)) == str(tmp_path)
    assert str(place_of("file://out/run")) == str(Path("out/run"))
    assert str(place_of("MEMORY:/bucket/Run")) == "memory://bucket/Run"
    store = place_of("memory://bucket/run/")
    assert isinstance(store, Store)
    assert (str(store), str(store.below("overlays"))) == (
        "memory://bucket/run",
        "memory://bucket/run/overlays",
    )


def test_other_verbs_name_the_one_that_writes_into_a_store() -> None:
    with pytest.raises(
        InputError, match=r"expected a folder of this machine \(`sightline batch` also writes"
    ):
        OutputFolder("s3://bucket/run", "explain")
