"""Batch runs on Ray Data: decoding in tasks, the model in actors, shards written by tasks, streaming.

One row of the Ray data set is one batch of the `Sharding`, so that batches match the local engine's whatever Ray
does with its blocks; order is preserved, so that the rows of a shard arrive together. Ray Data does the rest:
placement, back-pressure, retries on lost machines, one machine or many.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch

from sightline.batch.decode import prepare
from sightline.batch.places import Place
from sightline.batch.shards import Folder, Sharding
from sightline.batch.worker import BatchOptions, explain_prepared, ready
from sightline.errors import InputError, need
from sightline.methods.registry import Additions
from sightline.models.loading import LoadedModel
from sightline.runtime import tune_cpu

if TYPE_CHECKING:
    from sightline.evaluation.counting import Counts, OnProgress, Skipped
    from sightline.evaluation.models import ModelSource
    from sightline.types import Dataset

Row = dict[str, Any]
REACHED_WITHIN = 3.0  # seconds to wait for a cluster's port
ACTOR_SHARE = 0.75  # of its cores that an actor reserves; the rest is for decoding and writing
TASK_CPUS = 0.25
STORE_BYTES = 2**30  # of the object store on one machine: back-pressure keeps data in flight below it


class RayEngine:
    """``--engine ray``: one model per GPU, or per group of cores (as many as torch has threads), each in an actor.

    ``address``  of a running cluster ("auto", "host:6379", "ray://host:10001"); None starts Ray on this machine.
    ``device``   "cpu", or "auto": GPUs if the cluster has any.
    Every machine must see input and output folders, and plugins (`load_plugin`), under the same path; inputs and the
    output folder may also be URLs. Methods registered without a plugin, such as a notebook's, are sent along.
    Raises `InputError` if the cluster cannot be reached, `MissingExtraError` if Ray is not installed.
    """

    def __init__(self, address: str | None = None, device: str = "auto") -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray is imported
        os.environ.setdefault(
            "RAY_worker_niceness", "0"
        )  # the default is 15: any other process would take priority
        ray = need("ray", "ray")
        self.address, self.threads = address, torch.get_num_threads()
        quiet: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
        if ray.is_initialized():
            pass  # the caller's own
        elif address is None:
            cores, store = os.cpu_count(), STORE_BYTES
            ray.init("local", num_cpus=cores, object_store_memory=store, include_dashboard=False, **quiet)
        else:
            _reach(address)
            try:
                ray.init(address, **quiet)
            except Exception as error:
                raise InputError(f"no Ray cluster at {address!r}: {_one_line(error)}") from error
        resources: Any = ray.cluster_resources  # it is not typed
        there = resources()
        gpus = 0 if device == "cpu" else int(there.get("GPU", 0))
        self.gpu = gpus > 0
        self.actors = gpus or max(1, int(there.get("CPU", 1)) // self.threads)

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        return {"name": "ray", "address": self.address, "actors": self.actors, "threads": self.threads}

    def __call__(
        self, model: LoadedModel, sharding: Sharding, shards: Sequence[int], folder: Folder
    ) -> Iterator[int]:
        """Process ``shards``; yields each written shard's number of items."""
        import ray

        preprocess, view, here = model.preprocess, sharding.options.view, os.getcwd()
        channels_last = sharding.options.channels_last
        target = folder.elsewhere()
        listing = ray.put(sharding)
        batches = [(shard, start, stop) for shard in shards for start, stop in sharding.spans(shard)]
        per_shard = len(sharding.spans(shards[0]))

        def decode(row: Row) -> Row:
            shard, start, stop = batches[int(row["id"])]
            os.chdir(here)  # paths are relative to the driver's folder
            torch.set_num_threads(1)
            assert preprocess is not None  # validated in `explain_batch`
            prepared = prepare(ray.get(listing).batch((start, stop)), preprocess, view, channels_last)
            return {"shard": shard, "count": stop - start, "data": pickle.dumps(prepared, 5), "error": b""}

        def write(rows: Row) -> Row:
            if not (error := max(rows["error"])):
                shard = {int(number) for number in rows["shard"]}
                if len(shard) != 1 or len(rows["data"]) != len(sharding.spans(number := shard.pop())):
                    raise RuntimeError(f"Ray split the batches of a shard: {sorted(rows['shard'])}")
                _, error = _pickle_result(
                    lambda: target.write(number, [pickle.loads(data) for data in rows["data"]])
                )
            return {"count": [int(sum(rows["count"]))], "error": [error]}

        data = self._rows(len(batches)).map(decode, num_cpus=TASK_CPUS)
        data = data.map(
            _Explainer,
            fn_constructor_args=(
                self.threads,
                Additions.here(),
                ray.put(model),
                sharding.options,
                target.overlays if sharding.options.overlays else None,
            ),
            **self._actors(len(batches)),
        )
        data = data.map_batches(write, batch_size=per_shard, batch_format="numpy", num_cpus=TASK_CPUS)
        for row in _rows_of(data):
            yield int(row["count"])

    def score(
        self,
        source: ModelSource,
        dataset: Dataset,
        indices: Sequence[int],
        shown: Sequence[float],
        skipped: Skipped,
        advance: OnProgress,
    ) -> Counts:
        """`ModelSource.score` in actors: batches are scored separately and their counts merged, in order."""
        import ray

        from sightline.evaluation.counting import chunks, merged

        pieces = list(chunks(indices, source.options.batch_size))
        if not pieces:
            return source.score(dataset, indices, shown, skipped, advance)
        shared = ray.put((source, dataset, pieces, list(shown)))
        data = self._rows(len(pieces)).map(
            _Scorer,
            fn_constructor_args=(self.threads, Additions.here(), shared),
            **self._actors(len(pieces)),
        )
        found = []
        for row in _rows_of(data):
            counted, left_out = pickle.loads(row["data"])
            found.append(counted)
            skipped.add(left_out)
            advance(int(row["count"]))
        return merged(found)

    def _rows(self, count: int) -> Any:
        """A Ray data set of ``count`` rows 0, 1, …, each in its own block.

        Not `ray.data.range`: its tasks reserve a whole core each, and the actors may leave none free.
        """
        import logging

        import ray.data

        logging.getLogger("ray.data").setLevel(
            logging.ERROR
        )  # errors are raised, and the caller reports progress
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        return ray.data.from_items([{"id": number} for number in range(count)], override_num_blocks=count)

    def _actors(self, batches: int) -> dict[str, Any]:
        import ray

        booked = {"num_gpus": 1, "num_cpus": 1} if self.gpu else {"num_cpus": self.threads * ACTOR_SHARE}
        return {"compute": ray.data.ActorPoolStrategy(size=min(self.actors, batches)), **booked}


class _Explainer:
    """An actor: one model, which runs `explain_prepared` on each batch."""

    def __init__(
        self, threads: int, additions: Additions, model: Any, options: BatchOptions, overlays: Place | None
    ) -> None:
        import ray

        tune_cpu()
        torch.set_num_threads(threads)
        _, self.error = _pickle_result(additions.register)
        loaded = _on_gpu(ray.get(model))
        self.model, self.options, self.overlays = ready(loaded, options), options, overlays

    def __call__(self, row: Row) -> Row:
        if self.error:
            return {"shard": row["shard"], "count": row["count"], "data": b"", "error": self.error}
        batch = pickle.loads(row["data"])
        data, error = _pickle_result(lambda: explain_prepared(self.model, batch, self.options, self.overlays))
        return {"shard": row["shard"], "count": row["count"], "data": data, "error": error}


class _Scorer:
    """An actor: one model and its methods, scoring one batch per call."""

    def __init__(self, threads: int, additions: Additions, shared: Any) -> None:
        import ray

        tune_cpu()
        torch.set_num_threads(threads)
        _, self.error = _pickle_result(additions.register)
        self.source, self.dataset, self.pieces, self.shown = ray.get(shared)
        _on_gpu(self.source.model)

    def __call__(self, row: Row) -> Row:
        from sightline.evaluation.counting import Skipped

        piece, skipped = self.pieces[int(row["id"])], Skipped(self.source.options.on_bad)

        def count() -> Any:
            counted = self.source.score(self.dataset, piece, self.shown, skipped, lambda count: None)
            return counted, skipped.reasons

        data, error = (b"", self.error) if self.error else _pickle_result(count)
        return {"count": len(piece), "data": data, "error": error}


def _on_gpu(model: LoadedModel) -> LoadedModel:
    """The model on the GPU that Ray gave this actor, if it gave one."""
    return model.to("cuda") if torch.cuda.is_available() else model


def _pickle_result(call: Callable[[], Any]) -> tuple[bytes, bytes]:
    """Pickle what ``call`` returns, and an `InputError` or `OSError` that it raises: Ray would return it as text."""
    try:
        return pickle.dumps(call(), 5), b""
    except (InputError, OSError) as error:
        return b"", pickle.dumps(error)


def _rows_of(data: Any) -> Iterator[Row]:
    """The rows of a data set as they arrive; an error in a row is raised."""
    for row in data.iter_rows():
        if row["error"]:
            raise pickle.loads(row["error"])
        yield row


def _reach(address: str) -> None:
    """Fail within seconds if nothing listens at the address; Ray itself would retry for minutes."""
    if address in ("auto", "local"):
        return
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        where = (parts.hostname or "", parts.port or (10001 if parts.scheme == "ray" else 6379))
        socket.create_connection(where, REACHED_WITHIN).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f"no Ray cluster at {address!r}: {_one_line(error)}; expected auto, HOST:PORT or ray://HOST:PORT"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
