"""onnxruntime against PyTorch on the CPU: from the same photos to the same scores, maps, heatmaps and boxes.

    .venv/bin/python benchmarks/export.py --write benchmarks/export.md

Interleaved pairs (PyTorch, onnxruntime) of the whole pipeline for the top five classes: `explain(method="cam")`,
`heatmaps()` and `boxes()` on one side, one run of the exported graph on the other; PyTorch's plain forward pass for
reference. One thread is measured in CPU time: medians, and the quartiles of the pairs' ratios. Two threads are
measured in wall time, which other work on the machine disturbs: the best of all runs. Waiting threads do not spin, on
either side. (This file is not called onnx.py, since `import onnx` would then find it.)
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # before torch: on a busy machine, spinning takes time from others

import cv2
import onnxruntime
import torch

import sightline
from sightline.export.graph import GraphOptions, MapGraph
from sightline.export.onnx import boxes_array, example_images, export_onnx
from sightline.inspection.structure import inspect_network
from sightline.models.loading import LoadedModel

MODELS = ("bundled", "squeezenet1_1", "resnet50")
TOP = 5
BatchOptions = Callable[[], object]


def load(name: str) -> LoadedModel:
    return sightline.load_model(name, weights=None if name == "bundled" else "none")


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads must not spin
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def roads(
    model: LoadedModel, files: dict[str, Path], images: torch.Tensor, threads: int
) -> dict[str, tuple[BatchOptions, BatchOptions]]:
    """Pairs (PyTorch, onnxruntime) with equal results."""

    def forward() -> object:
        with torch.inference_mode():
            return model(images)

    def maps() -> torch.Tensor:
        return sightline.explain(model, images, method="cam", classes=f"top{TOP}").heatmaps()

    def run(name: str) -> BatchOptions:
        graph, array = session(files[name], threads), images.numpy()
        return lambda: graph.run(None, {"image": array})

    full, plain = run("boxes"), run("heatmaps")
    return {
        "maps, heatmaps, boxes": (lambda: boxes_array(maps()), full),
        "maps, heatmaps": (maps, plain),
        "all of it beside a plain forward": (forward, full),
    }


def times(
    pair: tuple[BatchOptions, BatchOptions], clock: Callable[[], float], pairs: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of both functions, run alternately."""
    found: tuple[list[float], list[float]] = ([], [])
    for work in pair:
        work()
    for _ in range(pairs):
        for work, kept in zip(pair, found, strict=True):
            start = clock()
            work()
            kept.append(1000 * (clock() - start))
    return found


def figures(pair: tuple[BatchOptions, BatchOptions], threads: int, pairs: int) -> str:
    """Three columns: both times and their ratio."""
    if threads == 1:
        both = times(pair, time.process_time, pairs)
        low, middle, high = statistics.quantiles((a / b for a, b in zip(*both, strict=True)), n=4)
        mine, other = map(statistics.median, both)
        return f"{mine:.1f} | {other:.1f} | **{middle:.2f}** ({low:.2f}–{high:.2f})"
    mine, other = map(min, times(pair, time.perf_counter, pairs))
    return f"{mine:.1f} | {other:.1f} | **{mine / other:.2f}**"


def rows(name: str, batches: list[int], every: list[int], pairs: int, folder: Path) -> list[str]:
    model = load(name)
    height, width = model.preprocess.input_hw if model.preprocess else (224, 224)
    files = {"boxes": folder / f"{name}.onnx", "heatmaps": folder / f"{name}-plain.onnx"}
    for kind, path in files.items():
        export_onnx(model, path, input="normalised", top=TOP, boxes=kind == "boxes")
    example = MapGraph(
        model.network,
        inspect_network(model.network, torch.zeros(1, 3, height, width)),
        GraphOptions(input="normalised"),
    )
    lines = []
    for threads in every:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
        for batch in batches:
            images = example_images(example, batch, (height, width))
            for what, pair in roads(model, files, images, threads).items():
                numbers = figures(pair, threads, pairs)
                lines.append(f"| {name}, {height}×{width} | {threads} | {batch} | {what} | {numbers} |")
                print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "onnx", "onnxscript"))
    lines = [
        "# onnxruntime beside PyTorch",
        "",
        f"`python benchmarks/export.py {' '.join(sys.argv[1:])}`: PyTorch over onnxruntime, so above 1 onnxruntime "
        f"is the faster; {arguments.pairs} interleaved pairs; class maps of the top {TOP} classes. One thread: CPU "
        "time, medians (and quartiles of the ratio). Two threads: wall time, the best turn of each. In the rows "
        "*beside a plain forward* PyTorch does nothing but the forward pass.",
        "",
        f"Python {platform.python_version()}, {packages}; {platform.machine()}, {os.cpu_count()} cores, shared with "
        f"other work: load {os.getloadavg()[0]:.1f} at the start (the higher, the less the wall times mean).",
        "",
        "| model | threads | batch | work | PyTorch, ms | onnxruntime, ms | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            lines += rows(name, arguments.batches, arguments.threads, arguments.pairs, Path(folder))
    if arguments.write:
        arguments.write.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
