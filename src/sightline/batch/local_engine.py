"""The engine of one machine: worker processes decode and transform while the model explains."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from sightline.batch.decode import Decoder, Prepared
from sightline.batch.shards import Folder, Sharding
from sightline.batch.worker import BatchOptions, Explainer, explain_photos, explain_prepared, ready
from sightline.data.items import Item
from sightline.errors import InputError
from sightline.files import read_text
from sightline.models.loading import LoadedModel
from sightline.runtime import tune_worker

PRELOAD = ["sightline.batch.decode"]  # imported once, by the process that the workers are forked from


@dataclass(frozen=True)
class LocalEngine:
    """``--engine local``: ``workers`` processes prepare batches; 0: this process does it.

    None: one worker per eight cores if the model runs on the CPU (and needs the cores), all but one core with a GPU.
    """

    workers: int | None = None

    def __call__(
        self, model: LoadedModel, sharding: Sharding, shards: Sequence[int], folder: Folder
    ) -> Iterator[int]:
        """Process ``shards``; yields each finished batch's number of items."""
        model, options = ready(model, sharding.options), sharding.options
        batches = iter(self._loader(model, sharding, shards))
        overlays = folder.overlays if options.overlays else None
        explainer = self.explainer(model, options)
        for shard in shards:
            done = []
            for start, stop in sharding.spans(shard):
                done.append(explain_prepared(model, _next(batches), options, overlays, explainer))
                yield stop - start
            folder.write(shard, done)

    def explainer(self, model: LoadedModel, options: BatchOptions) -> Explainer:
        """What explains a batch; an engine that runs the network by other means has its own."""
        return explain_photos

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        return {"name": "local", "workers": self.workers, "threads": torch.get_num_threads()}

    def _loader(self, model: LoadedModel, sharding: Sharding, shards: Sequence[int]) -> DataLoader[Prepared]:
        workers = _workers(model) if self.workers is None else self.workers
        assert model.preprocess is not None  # validated in `explain_batch`
        context = _context() if workers else None
        return DataLoader(
            Decoder(model.preprocess, sharding.options.view, sharding.options.channels_last),
            batch_size=None,
            sampler=_Batches(sharding, shards),
            num_workers=workers,
            collate_fn=_as_it_is,
            multiprocessing_context=context,
            worker_init_fn=tune_worker,
        )


class _Batches:
    """The items of every batch, in order, listed on demand."""

    def __init__(self, sharding: Sharding, shards: Sequence[int]) -> None:
        self.sharding, self.shards = sharding, shards

    def __iter__(self) -> Iterator[list[Item]]:
        for shard in self.shards:
            yield from map(self.sharding.batch, self.sharding.spans(shard))


def _as_it_is(batch: Any) -> Any:
    return batch


def _next(batches: Iterator[Prepared]) -> Prepared:
    try:
        return next(batches)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        if _imports_script_again():
            raise InputError(
                "the processes that decode images import your script again, and it starts a run of its own: call "
                "explain_batch inside `if __name__ == '__main__':`, or give engine=LocalEngine(workers=0)"
            ) from error
        raise InputError(
            "a process that decodes images was killed (out of memory?); run the same command again, "
            "perhaps with fewer --workers"
        ) from error


def _imports_script_again() -> bool:
    """Whether this program is a script without the guard that processes started afresh need."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    try:
        return script is not None and "__main__" not in read_text(script)
    except InputError:
        return False


def _workers(model: LoadedModel) -> int:
    cores = os.cpu_count() or 1
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    return max(1, cores // 8 if on_cpu else cores - 1)


def _context() -> multiprocessing.context.BaseContext:
    """Never a plain fork, since this process has threads; a fork server imports torch once for all workers."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context
