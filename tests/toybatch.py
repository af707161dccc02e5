"""What the tests of the batch road share, importable by the processes that they start: a small model and photos."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import nn

from sightline.batch import shards
from sightline.batch.local_engine import LocalEngine
from sightline.batch.run import explain_batch
from sightline.batch.worker import BatchOptions
from sightline.explanation import Explanation
from sightline.models.loading import LoadedModel, load_model
from sightline.models.preprocess import Preprocess
from sightline.pipeline import explain

SMALL = {"batch_size": 2, "shard_size": 4}
# What a run imports, at once or later: the process that all others are forked from imports it once.
PRELOAD = [
    "sightline.batch.run", "sightline.cli.explain", "sightline.cli.batch", "sightline.methods.gradcam",
    "sightline.inspection.structure", "torch.fx", "torch.nested", "torchvision.models", "pandas",
    "pyarrow.pandas_compat", "numpy.random", "PIL.PngImagePlugin", "PIL.JpegImagePlugin",
]  # fmt: skip


def processes() -> BaseContext:
    """Processes that share the imports of `PRELOAD`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def small_model() -> LoadedModel:
    """A classifier of five classes at 16×16 whose weights are the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    )
    for parameter in net.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator) - 0.4
    return load_model(net, categories=list("abcde"), transform=Preprocess((16, 16), 16))


def photos(folder: Path, count: int) -> Path:
    """``count`` PNGs of noise, of different sizes, below ``folder``."""
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


def explained(path: Path) -> Explanation:
    """What `explain` gives for one photo, its two best classes."""
    return explain(small_model(), path, classes="top2")


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a run but its manifest and its lock."""
    names = ("manifest.json", ".lock")
    return {
        str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name not in names
    }


def die_at(event: int, source: Path, out: Path) -> None:
    """Run, and kill this process with SIGKILL at its ``event``-th batch, sync, or renaming (before or after it)."""
    torch.set_num_threads(1)
    left = [event]

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            _tick(left)
            result = function(*arguments, **named)
            _tick(left)
            return result

        return call

    os.fsync, os.replace = counted(os.fsync), counted(os.replace)
    shards.Folder.write = counted(shards.Folder.write)  # type: ignore[method-assign]
    explain_batch(small_model(), [source], out, BatchOptions(**SMALL), LocalEngine(workers=0))


def _tick(left: list[int]) -> None:
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def run_slowly(source: Path, out: Path) -> None:
    """Run with two worker processes, and wait before each shard but the first."""
    torch.set_num_threads(1)
    write = shards.Folder.write

    def slow(folder: Any, shard: int, done: Any) -> None:
        if shard:
            time.sleep(60)
        write(folder, shard, done)

    shards.Folder.write = slow  # type: ignore[method-assign]
    explain_batch(small_model(), [source], out, BatchOptions(**SMALL), LocalEngine(workers=1))


def hold(out: Path, ready: Any) -> None:
    """Claim a folder until killed."""
    with shards.Folder(out).claimed():
        shards.Folder(out).begin({"kind": shards.KIND})
        ready.set()
        time.sleep(600)


def main_with_full_disk(limit: int, arguments: list[str], report: Path) -> None:
    """The command line in a process that may write no file larger than ``limit`` bytes; its words go to ``report``."""
    import resource

    from sightline.cli import main

    with report.open("w") as file:
        sys.stderr = sys.stdout = file
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        code = main(arguments)
        print(code, file=file)


def command_line(arguments: list[str], said: Path) -> None:
    """The command line as a process that ends with its exit code; its words on stderr go to ``said``."""
    from sightline.cli import main

    torch.set_num_threads(1)
    with said.open("w") as file, open(os.devnull, "w") as nowhere:
        sys.stderr, sys.stdout = file, nowhere
        code = main(arguments)
    sys.exit(code)
