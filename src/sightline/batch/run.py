"""`explain_batch`: any number of photos into a Parquet dataset and heatmaps in shards, whatever the engine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
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
    """What runs shards: `explain_prepared` for every batch of `Sharding.spans`, then `Folder.write` for the shard."""

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

    A Parquet dataset in ``out/results``, heatmaps in ``out/heatmaps``, failures in ``out/errors.parquet``. What is
    finished is never half-written; the same call again does what is missing, and each image is there exactly once.
    The same batches and threads give the same bits. ``engine``: "local", "ray", or an engine such as
    `LocalEngine(workers=4)`. ``progress(done, total)`` is told of images.
    Raises `InputError` where ``out`` holds another run, or one that is at work, and for wrong choices.

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
    folder, items = Folder(Path(out)), read_items(inputs, without=[out])
    sharding = Sharding(items, options)
    described = describe(model, sharding, engine, items)
    with folder.claimed():
        folder.begin(described)
        missing = [shard for shard in sharding.shards if folder.finished(shard) is None]
        done = len(items) - sharding.size(missing)
        for count in engine(model, sharding, missing, folder) if missing else ():
            done += count
            if progress is not None:
                progress(done, len(items))
        return folder.finish(sharding.shards)


def engine_of(
    engine: str | Engine, workers: int | None = None, address: str | None = None, device: str = "auto"
) -> Engine:
    """The engine of that name, or the one that is given; ``workers`` are those of "local", the others of "ray".

    >>> engine_of("local", workers=2)
    LocalEngine(workers=2)
    """
    if not isinstance(engine, str):
        return engine
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if engine == "local":
        if address is not None:
            raise InputError("a cluster's address belongs to engine ray; this is engine local")
        return LocalEngine(workers)
    from sightline.batch.ray_engine import RayEngine

    if workers is not None:
        raise InputError("workers belong to engine local; Ray shares out the cores itself")
    return RayEngine(address, device)


def describe(model: LoadedModel, sharding: Sharding, engine: Engine, items: pa.Table) -> dict[str, Any]:
    """The manifest of a run that begins: what the results depend on, and what they do not."""
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
        options=sharding.work.as_dict(),
        input={"images": len(items), "listing_sha256": digest(items)},
        engine={**engine.describe(), "device": next((str(p.device) for p in model.parameters()), "cpu")},
    )


def _check(model: LoadedModel, work: BatchOptions) -> None:
    """Refuse now what would be refused after the listing."""
    if model.preprocess is None:
        raise InputError(
            f"{model.name} has no transform; give one: sightline.load_model(model, transform=...)"
        )
    spec = parse_method(work.method)
    get_method(spec.name).checked_options({**spec.options, **work.method_options})
    if work.heatmap_size == "map" and get_method(spec.name).signed:
        raise UnsupportedError(f"{work.method} makes maps of the input's size; leave out heatmap_size")
