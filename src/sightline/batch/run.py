"""`explain_batch`: the batch road, whatever the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from sightline.batch.listing import digest, read_items
from sightline.batch.local_engine import Local
from sightline.batch.shards import KIND, Folder, Plan
from sightline.batch.worker import BatchOptions
from sightline.errors import InputError, UnsupportedError
from sightline.methods import get_method
from sightline.models.loading import LoadedModel
from sightline.reports.manifest import describe_run

Progress = Callable[[int, int], None]


class Engine(Protocol):
    """What runs shards: `explain_prepared` for every batch of `Plan.spans`, then `Folder.write` for the shard."""

    def __call__(
        self, model: LoadedModel, plan: Plan, shards: Sequence[int], folder: Folder
    ) -> Iterator[int]: ...

    def describe(self) -> dict[str, Any]: ...


def explain_batch(
    model: LoadedModel,
    inputs: Sequence[str | Path],
    out: str | Path,
    work: BatchOptions | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Explain every image of ``inputs`` (see `read_items`) into the folder ``out``; returns its manifest.

    A Parquet dataset in ``out/results``, heatmaps in ``out/heatmaps``, failures in ``out/errors.parquet``. What is
    finished is never half-written; the same call again does what is missing, and each image is there exactly once.
    The same batches and threads give the same bits. ``progress(done, total)`` is told of images.
    Raises `InputError` where ``out`` holds another run, or one that is at work, and for wrong choices.

    >>> import tempfile, PIL.Image
    >>> from sightline import load_model
    >>> folder = Path(tempfile.mkdtemp())
    >>> PIL.Image.new("RGB", (9, 9), "red").save(folder / "a.png")
    >>> manifest = explain_batch(load_model(), [folder / "a.png"], folder / "out", engine=Local(workers=0))
    >>> manifest["images"], manifest["errors"], manifest["complete"]
    (1, 0, True)
    """
    work, engine = work or BatchOptions(), engine or Local()
    _check(model, work)
    folder, items = Folder(Path(out)), read_items([str(one) for one in inputs])
    plan = Plan(items, work)
    described = describe(model, plan, engine, items)
    with folder.claimed():
        folder.begin(described)
        missing = [shard for shard in plan.shards if folder.finished(shard) is None]
        done = len(items) - plan.size(missing)
        for count in engine(model, plan, missing, folder) if missing else ():
            done += count
            if progress is not None:
                progress(done, len(items))
        return folder.finish(plan.shards)


def describe(model: LoadedModel, plan: Plan, engine: Engine, items: pa.Table) -> dict[str, Any]:
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
        options=plan.work.as_dict(),
        input={"images": len(items), "listing_sha256": digest(items)},
        engine={**engine.describe(), "device": next((str(p.device) for p in model.parameters()), "cpu")},
    )


def _check(model: LoadedModel, work: BatchOptions) -> None:
    """Refuse now what would be refused after the listing."""
    if model.preprocess is None:
        raise InputError(
            f"{model.name} has no transform; give one: sightline.load_model(model, transform=...)"
        )
    get_method(work.method).checked_options(work.method_options)
    if work.heatmap_size == "map" and get_method(work.method).signed:
        raise UnsupportedError(f"{work.method} makes maps of the input's size; leave out heatmap_size")
