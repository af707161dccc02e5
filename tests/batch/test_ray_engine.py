"""Ray and one machine give the same bits; evaluations counted in parts are those counted in one; lost clusters."""

from __future__ import annotations

import pickle
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toybatch
from sightline.batch import shards
from sightline.batch.local_engine import LocalEngine
from sightline.batch.run import explain_batch
from sightline.batch.worker import BatchOptions
from sightline.errors import InputError
from sightline.evaluation import evaluate
from sightline.evaluation.counting import Skipped, chunks, merged
from sightline.methods import register_method, unregister_method
from sightline.metrics.accumulators import BoxTally, PixelTally
from sightline.plugins import forget_plugin, load_plugin
from sightline.types import BoxRule, Dataset, Sample
from toybatch import SMALL, contents


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toybatch.photos(tmp_path_factory.mktemp("ray") / "photos", 11)


@pytest.fixture
def dataset(photos: Path) -> Dataset:
    """The eleven photos, a class and a box each."""
    samples = [
        Sample(path.name, path, number % 5, torch.tensor([[2.0, 3.0, 9.0 + number, 17.0]]))
        for number, path in enumerate(sorted(photos.iterdir()))
    ]
    return Dataset("noise", "val", samples, tuple("abcde"))


ROWS: dict[str, Any] = {"methods": ["cam", "layercam"], "relative_to": ["max", "percentile"], "batch_size": 2}


def _in_parts(source: Any, dataset: Dataset, indices: Any, shown: Any, skipped: Skipped, advance: Any) -> Any:
    """`ModelSource.score` a batch at a time, each by a copy that went through pickle."""
    found = []
    for piece in chunks(indices, source.options.batch_size):
        counted = source.score(dataset, piece, shown, skipped, advance)
        found.append(pickle.loads(pickle.dumps(counted)))
    return merged(found)


@pytest.mark.parametrize("protocol", ["exact", "wsol-v2"])
def test_counts_of_parts_add_up_to_the_same_report(dataset: Dataset, protocol: str) -> None:
    model = toybatch.small_model()
    whole = evaluate(model, dataset, **ROWS, protocol=protocol, resamples=50)
    parts = evaluate(model, dataset, **ROWS, protocol=protocol, resamples=50, scorer=_in_parts)
    assert parts.table() == whole.table()
    assert [row.scores for row in parts.rows] == [row.scores for row in whole.rows]
    assert any(
        0 < row.scores["gt_known_swept"].value < 1 for row in whole.rows
    )  # there is something to add up


def test_pixel_counts_of_parts_add_up_to_the_same_score_and_interval() -> None:
    random = np.random.default_rng(0)
    maps, masks = (
        random.random((4, 224, 224), np.float32),
        (random.random((4, 224, 224)) < 0.3).astype(np.uint8),
    )
    whole, first, second = (PixelTally(BoxRule(), resamples=20) for _ in range(3))
    whole.update(list(maps), list(masks), range(4))
    first.update(list(maps[:3]), list(masks[:3]), range(3))
    second.update(list(maps[3:]), list(masks[3:]), [3])
    assert (first + second).interval() == whole.interval()
    assert first.interval() != whole.interval()


def test_hits_kept_at_different_thresholds_do_not_add_up() -> None:
    with pytest.raises(InputError, match=r"cannot add IoUs kept at τ = 0\.5 to those at 0\.2"):
        BoxTally("exact", BoxRule(0.2)) + BoxTally("exact", BoxRule(0.5))


def test_a_cluster_that_cannot_be_reached_is_told_within_seconds() -> None:
    pytest.importorskip("ray")
    from sightline.batch.ray_engine import RayEngine

    with socket.socket() as listener:  # a port that nobody listens on
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        start = time.monotonic()
        with pytest.raises(
            InputError, match=f"no Ray cluster at '.*127.0.0.1:{port}': .*refused; expected auto"
        ):
            RayEngine(address)
        assert time.monotonic() - start < 30
    with pytest.raises(InputError, match="no Ray cluster at 'head:port'"):
        RayEngine("head:port")


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """Ray on this machine; it phones nobody."""
    ray = pytest.importorskip("ray")
    from sightline.batch.ray_engine import RayEngine

    yield RayEngine(device="cpu")
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own warnings are not ours
def test_ray_gives_the_bits_of_one_machine_and_goes_on_where_it_stopped(
    engine: Any, photos: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    inputs, model, work = (
        [photos, bad],
        toybatch.small_model(),
        BatchOptions(**SMALL, classes="top2", heatmap_bits=16),
    )
    explain_batch(model, inputs, tmp_path / "local", work, LocalEngine(workers=0))
    manifest = explain_batch(model, inputs, tmp_path / "ray", work, engine)
    assert (manifest["images"], manifest["errors"], manifest["engine"]["name"]) == (11, 1, "ray")
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    (tmp_path / "ray" / shards.part(1)).unlink()
    told: list[tuple[int, int]] = []
    explain_batch(model, inputs, tmp_path / "ray", work, engine, lambda *now: told.append(now))
    assert told == [(12, 12)]  # one shard of four
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_what_fails_in_an_actor_is_told_as_it_is_here(engine: Any, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown layer 'nowhere'") as here:
        explain_batch(
            toybatch.small_model(),
            [photos],
            tmp_path / "a",
            BatchOptions(layers=["nowhere"]),
            LocalEngine(workers=0),
        )
    with pytest.raises(InputError) as there:
        explain_batch(
            toybatch.small_model(), [photos], tmp_path / "b", BatchOptions(layers=["nowhere"]), engine
        )
    assert str(there.value) == str(here.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_evaluate_on_ray_gives_the_same_table_to_the_last_digit(engine: Any, dataset: Dataset) -> None:
    model = toybatch.small_model()
    whole = evaluate(model, dataset, **ROWS, resamples=50)
    spread = evaluate(model, dataset, **ROWS, resamples=50, scorer=engine.score)
    assert spread.table() == whole.table()
    assert [row.scores for row in spread.rows] == [row.scores for row in whole.rows]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_methods_of_the_user_s_own_are_known_to_the_actors(
    engine: Any, photos: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """One of a plugin's, one that was registered here: both give the bits of one machine."""
    plugin = tmp_path / "own_plugin.py"
    plugin.write_text(
        "from sightline import register_method\n\n"
        '@register_method("own", paper="a test")\n'
        "def own(evidence, target):\n    return evidence.activations.sum(1)\n"
    )
    load_plugin(plugin)

    @register_method("local", paper="a test")
    def local(evidence: Any, target: Any) -> torch.Tensor:
        return evidence.activations.square().sum(1)

    model = toybatch.small_model()
    try:
        for method in ("own", "local"):
            work = BatchOptions(method=method, **SMALL)
            for name, where in (("here", LocalEngine(workers=0)), ("there", engine)):
                explain_batch(model, [photos], tmp_path / method / name, work, where)
            assert contents(tmp_path / method / "there") == contents(tmp_path / method / "here")
        rows: dict[str, Any] = {"methods": ["own", "local"], "batch_size": 2, "resamples": 50}
        there = evaluate(model, dataset, **rows, scorer=engine.score)
        assert there.table() == evaluate(model, dataset, **rows).table()
        plugin.unlink()
        unregister_method("own")
        with pytest.raises(InputError, match=r"own_plugin\.py: no such file"):
            explain_batch(model, [photos], tmp_path / "gone", BatchOptions(**SMALL), engine)
    finally:
        unregister_method("local")
        forget_plugin(plugin)
