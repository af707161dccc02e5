"""The whole road on one machine: resume after SIGKILL to the last bit, one run a folder, errors, a full disk."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import time
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import toybatch
from sightline.batch import local_engine as local
from sightline.batch import shards
from sightline.batch.local_engine import LocalEngine
from sightline.batch.run import explain_batch
from sightline.batch.worker import BatchOptions
from sightline.errors import InputError
from sightline.models.loading import LoadedModel, load_model
from sightline.types import BoxRule
from toybatch import SMALL, contents

ALONE = LocalEngine(workers=0)
KINDS = (("heatmaps", "npy"), ("results", "parquet"))


@pytest.fixture(scope="module")
def unbroken(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run leaves: three shards of 4, 4 and 3 photos."""
    out = tmp_path_factory.mktemp("unbroken")
    explain_batch(toybatch.small_model(), [photos], out, BatchOptions(**SMALL), ALONE)
    return contents(out)


def test_the_folder_holds_every_image_once_and_its_heatmap(
    model: LoadedModel, photos: Path, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    manifest = explain_batch(
        model, [photos], tmp_path, BatchOptions(**SMALL, classes="top2"), ALONE, lambda *now: told.append(now)
    )
    table = pd.read_parquet(tmp_path / "results")
    assert sorted(table.image_id) == sorted([f"{number:02d}.png" for number in range(11)] * 2)
    assert told == [(n, 11) for n in (2, 4, 6, 8, 10, 11)]
    assert {name: manifest[name] for name in ("images", "rows", "shards", "errors", "complete")} == {
        "images": 11,
        "rows": 22,
        "shards": 3,
        "errors": 0,
        "complete": True,
    }
    assert manifest == json.loads((tmp_path / "manifest.json").read_text())
    parts = [f"{kind}/part-0000{number}.{end}" for kind, end in KINDS for number in range(3)]
    assert sorted(contents(tmp_path)) == ["errors.parquet", *parts]
    row = table[(table.image_id == "06.png") & (table["rank"] == 1)].iloc[0]
    heatmap = np.load(tmp_path / row.heatmap_file, mmap_mode="r")[row.heatmap_row]
    found = toybatch.explained(photos / "06.png")
    assert row.category == found.category(0, 1)
    assert np.abs(heatmap - 255 * found.heatmaps()[0, 1].numpy()).max() <= 0.51


def test_worker_processes_change_nothing(
    model: LoadedModel, photos: Path, tmp_path: Path, unbroken: dict[str, bytes]
) -> None:
    explain_batch(model, [photos], tmp_path, BatchOptions(**SMALL), LocalEngine(workers=2))
    assert contents(tmp_path) == unbroken


def test_killed_at_any_moment_and_started_again_equals_an_unbroken_run(
    photos: Path, tmp_path: Path, unbroken: dict[str, bytes], processes: BaseContext
) -> None:
    chance, out, deaths = random.Random(0), tmp_path / "out", 0
    while True:
        process = processes.Process(target=toybatch.die_at, args=(chance.randint(1, 24), photos, out))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        deaths += 1
        for path in [*out.glob("results/part*"), *out.glob("heatmaps/part*")]:  # what has its name is whole
            assert path.read_bytes() == unbroken[str(path.relative_to(out))]
        assert deaths < 40
    assert deaths >= 2
    assert contents(out) == unbroken


@pytest.mark.slow
def test_killed_from_outside_while_worker_processes_are_at_work(
    photos: Path, tmp_path: Path, unbroken: dict[str, bytes], processes: BaseContext, model: LoadedModel
) -> None:
    process = processes.Process(target=toybatch.run_slowly, args=(photos, tmp_path))
    process.start()
    limit = time.monotonic() + 60
    while not (tmp_path / shards.part(0)).exists() and time.monotonic() < limit:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "errors.parquet").exists()
    explain_batch(model, [photos], tmp_path, BatchOptions(**SMALL), ALONE)
    assert contents(tmp_path) == unbroken


def test_finished_shards_are_not_computed_again_and_damaged_ones_are(
    model: LoadedModel,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unbroken: dict[str, bytes],
) -> None:
    batches: list[list[str]] = []

    def counted(model: Any, batch: Any, *others: Any) -> Any:
        batches.append([item.id for item in batch.items])
        return explain_prepared(model, batch, *others)

    explain_prepared = local.explain_prepared
    monkeypatch.setattr(local, "explain_prepared", counted)
    explain_batch(model, [photos], tmp_path, BatchOptions(**SMALL), ALONE)
    batches.clear()
    explain_batch(model, [photos], tmp_path, BatchOptions(**SMALL), ALONE)
    assert batches == []
    for name in (shards.heatmaps(0), shards.part(2)):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
    (tmp_path / "results" / ".part-00001.parquet.99.part").write_bytes(b"half")
    explain_batch(model, [photos], tmp_path, BatchOptions(**SMALL), ALONE)
    assert batches == [["00.png", "01.png"], ["02.png", "03.png"], ["08.png", "09.png"], ["10.png"]]
    assert contents(tmp_path) == unbroken


def test_what_cannot_be_read_is_listed_and_the_rest_is_done(
    model: LoadedModel, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("00.png", "01.png", "02.png"):
        (folder / name).write_bytes((photos / name).read_bytes())
    (folder / "01.png").write_bytes((photos / "01.png").read_bytes()[:200])
    (folder / "03.png").write_bytes(b"")
    (folder / "04.png").write_bytes(b"text")
    out = tmp_path / "out"
    manifest = explain_batch(model, [folder], out, BatchOptions(batch_size=2, shard_size=3), ALONE)
    assert (manifest["images"], manifest["errors"]) == (2, 3)
    assert pd.read_parquet(out / "results").image_id.tolist() == ["00.png", "02.png"]
    errors = pq.read_table(out / "errors.parquet").to_pylist()
    assert [error["image_id"] for error in errors] == ["01.png", "03.png", "04.png"]
    assert "is damaged or truncated" in errors[0]["reason"]
    assert errors[1]["reason"] == f"{folder / '03.png'} is empty (0 bytes)"
    assert errors[2]["path"] == str(folder / "04.png")


def test_a_folder_of_another_run_is_refused_with_the_difference(
    model: LoadedModel, photos: Path, tmp_path: Path
) -> None:
    explain_batch(model, [photos], tmp_path, BatchOptions(**SMALL), ALONE)
    before = contents(tmp_path)
    with pytest.raises(
        InputError, match=r"another run: threshold is 0\.2 there and 0\.5 here; give another output"
    ):
        explain_batch(model, [photos], tmp_path, BatchOptions(**SMALL, rule=BoxRule(0.5)), ALONE)
    with pytest.raises(
        InputError, match=r"another run: input images is 11 there and 1 here; input listing_sha256"
    ):
        explain_batch(model, [photos / "00.png"], tmp_path, BatchOptions(**SMALL), ALONE)
    other = toybatch.small_model()
    next(other.parameters()).data += 1
    with pytest.raises(InputError, match=r"another run: model weights_sha256 is"):
        explain_batch(other, [photos], tmp_path, BatchOptions(**SMALL), ALONE)
    assert contents(tmp_path) == before
    (tmp_path / "manifest.json").write_text('{"images": []}')
    with pytest.raises(InputError, match=r"manifest\.json is not of a batch run; give another output folder"):
        explain_batch(model, [photos], tmp_path, BatchOptions(**SMALL), ALONE)


def test_two_runs_into_one_folder_are_refused_while_the_first_lives(
    model: LoadedModel, photos: Path, tmp_path: Path, processes: BaseContext, unbroken: dict[str, bytes]
) -> None:
    ready = processes.Event()
    first = processes.Process(target=toybatch.hold, args=(tmp_path, ready))
    first.start()
    try:
        assert ready.wait(60)
        with pytest.raises(InputError, match=r"another run \(process \d+ on .+\) is writing into"):
            explain_batch(model, [photos], tmp_path, BatchOptions(**SMALL), ALONE)
    finally:
        first.kill()  # it cannot clean up; the system lets go of its lock
        first.join()
    (tmp_path / "manifest.json").unlink()  # it says nothing but who held the folder
    explain_batch(model, [photos], tmp_path, BatchOptions(**SMALL), ALONE)
    assert contents(tmp_path) == unbroken


def test_a_full_disk_ends_the_run_whole_and_resumable(
    model: LoadedModel,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unbroken: dict[str, bytes],
) -> None:
    left = [3]

    def full(file: Any, arrays: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            file.write(b"some")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, arrays)

    write = shards.write_arrays
    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_arrays", full)
        with pytest.raises(OSError, match="No space left"):
            explain_batch(model, [photos], tmp_path, BatchOptions(**SMALL), ALONE)
    assert sorted(contents(tmp_path)) == [f"{k}/part-0000{n}.{e}" for k, e in KINDS for n in (0, 1)]
    explain_batch(model, [photos], tmp_path, BatchOptions(**SMALL), ALONE)
    assert contents(tmp_path) == unbroken


def test_a_model_without_transform_and_wrong_choices_are_refused_before_the_work(
    photos: Path, tmp_path: Path
) -> None:
    plain = load_model(toybatch.small_model().network)
    with pytest.raises(InputError, match="has no transform"):
        explain_batch(plain, [photos], tmp_path / "out", BatchOptions(**SMALL), ALONE)
    with pytest.raises(InputError, match="unknown method 'grad'"):
        explain_batch(toybatch.small_model(), [photos], tmp_path / "out", BatchOptions(method="grad"), ALONE)
    with pytest.raises(InputError, match="saliency makes maps of the input's size"):
        explain_batch(
            toybatch.small_model(),
            [photos],
            tmp_path / "out",
            BatchOptions(method="saliency", heatmap_size="map"),
            ALONE,
        )
    assert not (tmp_path / "out").exists()
