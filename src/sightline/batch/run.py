"""`explain_batch`: any number of photos into a Parquet data set and heatmap shards, on any engine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa

from sightline.batch.listing import digest, read_items
from sightline.batch.local_engine import LocalEngine
from sightline.batch.shards import KIND, Folder, Sharding
from sightline.batch.worker import BatchOptions
from sightline.errors import InputError, UnsupportedError, unknown
from sightline.methods import get_method
from sightline.methods.spec import parse_method
from sightline.models.loading import LoadedModel
from sightline.progress import Progress
from sightline.reports.manifest import describe_run

ENGINES = ("local", "ray")


class Engine(Protocol):
    """Processes shards: `explain_prepared` for every batch in `Sharding.spans`, then `Folder.write` for the shard."""

    def __call__(
        self, model: LoadedModel, sharding: Sharding, shards: Sequence[int], folder: Folder
    ) -> Iterator[int]: ...

    def describe(self) -> dict[str, Any]: ...


def explain_batch(
    model: LoadedModel,
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    options: BatchOptions | None = None,
    engine: str | Engine = "local",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Explain every image of ``inputs`` (see `read_items`) into the folder ``out``; returns its manifest.

    A Parquet data set in ``out/results``, heatmaps in ``out/heatmaps``, failures in ``out/errors.parquet``. ``out`` may
    be the URL of a folder in an object store, such as "s3://bucket/run". Files appear whole or not at all; the same
    call after an interruption completes the run, with each image exactly once. The same batches and threads give
    bit-identical results. ``engine``: "local", "ray", or an engine such as
    `LocalEngine(workers=4)`. ``progress(done, total)`` counts images.
    Raises `InputError` if ``out`` holds a different run or one in progress, and for invalid options.

    >>> import tempfile, PIL.Image
    >>> from pathlib import Path
    >>> from sightline import load_model
    >>> folder = Path(tempfile.mkdtemp())
    >>> PIL.Image.new("RGB", (9, 9), "red").save(folder / "a.png")
    >>> manifest = explain_batch(load_model(), [folder], folder / "out", engine=LocalEngine(workers=0))
    >>> manifest["images"], manifest["errors"], manifest["complete"]
    (1, 0, True)
    """
    options, engine = options or BatchOptions(), engine_of(engine)
    _check(model, options)
    folder = Folder(out)
    items = read_items(inputs, without=[str(folder.place)])
    sharding = Sharding(items, options)
    described = describe(model, sharding, engine, items)
    with folder.claimed():
        folder.begin(described)
        finished = folder.finished(sharding.shards)
        missing = [shard for shard in sharding.shards if shard not in finished]
        done = len(items) - sharding.size(missing)
        for count in engine(model, sharding, missing, folder) if missing else ():
            done += count
            if progress is not None:
                progress(done, len(items))
        return folder.finish(sharding.shards)


def engine_of(
    engine: str | Engine, workers: int | None = None, address: str | None = None, device: str = "auto"
) -> Engine:
    """The engine of that name, or the given one; ``workers`` is for "local", ``address`` and ``device`` for "ray".

    >>> engine_of("local", workers=2)
    LocalEngine(workers=2)
    """
    if not isinstance(engine, str):
        return engine
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if engine == "local":
        if address is not None:
            raise InputError("a cluster address belongs to engine ray; this is engine local")
        return LocalEngine(workers)
    from sightline.batch.ray_engine import RayEngine

    if workers is not None:
        raise InputError("workers belongs to engine local; Ray allocates the cores itself")
    return RayEngine(address, device)


def describe(model: LoadedModel, sharding: Sharding, engine: Engine, items: pa.Table) -> dict[str, Any]:
    """The manifest at the start of a run: what the results depend on, and what they do not."""
    preprocess = model.preprocess
    assert preprocess is not None
    return describe_run(
        kind=KIND,
        model={
            "name": model.name,
            "weights_sha256": model.weights_sha256,
            "scores": model.scores,
            "preprocess": preprocess.to_dict()
            if preprocess.transform is None
            else repr(preprocess.transform),
        },
        about_model=model.describe(),
        options=sharding.options.as_dict(),
        input={"images": len(items), "listing_sha256": digest(items)},
        engine={**engine.describe(), "device": next((str(p.device) for p in model.parameters()), "cpu")},
    )


def _check(model: LoadedModel, options: BatchOptions) -> None:
    """Refuse before the listing what would fail after it."""
    if model.preprocess is None:
        raise InputError(
            f"{model.name} has no transform; give one: sightline.load_model(model, transform=...)"
        )
    spec = parse_method(options.method)
    get_method(spec.name).checked_options({**spec.options, **options.method_options})
    if options.heatmap_size == "map" and get_method(spec.name).signed:
        raise UnsupportedError(f"{options.method} makes maps of the input's size; leave out heatmap_size")
