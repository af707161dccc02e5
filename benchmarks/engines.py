"""One network on several engines and memory allocators: CPU milliseconds per image, in turns, in one run.

    .venv/bin/python benchmarks/engines.py lite0 --jemalloc libjemalloc.so.2 --mimalloc libmimalloc.so.2

A process for each: PyTorch as usual; under the memory policy, channels last; with another allocator (``LD_PRELOAD``),
channels last; the graph of `sightline export` (scores and Grad-CAM maps) in onnxruntime and, where it is installed, in
OpenVINO. They take turns; the last column is the largest difference of the scores from PyTorch's, over their largest.
``--graph`` keeps the exported graph for the next run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

Run = Callable[[np.ndarray], np.ndarray]  # images (N, 3, H, W) -> scores (N, C)


def pytorch(name: str, graph: Path) -> Run:
    """As the process was started: `tune_cpu` if ``SIGHTLINE_MALLOC`` is 1; channels last if it is set."""
    from sightline import load_model
    from sightline.runtime import in_fast_format, tune_cpu

    torch.manual_seed(0)
    net = load_model(name, weights=None if name == "lite0" else "none").network.eval()
    asked = os.environ.get("SIGHTLINE_MALLOC")
    if asked == "1":
        tune_cpu()
    net = in_fast_format(net) if asked else net

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(images)).numpy()

    return run


def onnx(name: str, graph: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits", "maps"], {"image": images})[0]


def openvino(name: str, graph: Path) -> Run:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph), "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
    wanted = compiled.output("logits")
    return lambda images: compiled({"image": images})[wanted]


def child(engine: str, name: str, graph: Path, size: int) -> None:
    """Answer each line of stdin with the CPU milliseconds per image of one batch; the scores are saved at the start."""
    run = {"onnx": onnx, "openvino": openvino}.get(engine, pytorch)(name, graph)
    images = np.random.default_rng(0).standard_normal((size, 3, 224, 224), np.float32)
    np.save(graph.with_suffix(f".{engine}.npy"), run(images))
    run(images)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        run(images)
        print(1e3 * (time.process_time() - start) / size, flush=True)


def environments(arguments: argparse.Namespace) -> dict[str, dict[str, str]]:
    """The engines, and what is set where they run."""
    found = {"PyTorch as usual": {}, "memory policy": {"SIGHTLINE_MALLOC": "1"}}
    for name in ("jemalloc", "mimalloc"):
        if library := getattr(arguments, name):
            found[name] = {"SIGHTLINE_MALLOC": "0", "LD_PRELOAD": str(library)}
    found["onnx"] = {}
    if importlib.util.find_spec("openvino"):
        found["openvino"] = {}
    return found


def exported(name: str, graph: Path) -> None:
    from sightline import export_onnx, load_model

    torch.manual_seed(0)
    model = load_model(name, weights=None if name == "lite0" else "none")
    export_onnx(model, graph, method="gradcam", top=1, input="normalised", boxes=False, any_size=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", nargs="?", default="lite0")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jemalloc", type=Path)
    parser.add_argument("--mimalloc", type=Path)
    parser.add_argument("--graph", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help="appends")
    arguments = parser.parse_args()
    graph = arguments.graph or Path(tempfile.mkdtemp()) / f"{arguments.network}.onnx"
    if arguments.child:
        child(arguments.child, arguments.network, graph, arguments.batch_size)
        return
    if not graph.exists():
        exported(arguments.network, graph)
    packages = [name for name in ("torch", "onnxruntime", "openvino") if importlib.util.find_spec(name)]
    lines = [
        f"`python benchmarks/engines.py {' '.join(sys.argv[1:])}`: Python {platform.python_version()}, "
        f"{', '.join(f'{name} {version(name)}' for name in packages)}, {platform.machine()}, {os.cpu_count()} CPUs, "
        f"load {os.getloadavg()[0]:.1f} at the start.",
        "",
        "| network | engine | CPU ms per image, median (lowest–highest) | times as fast | difference |",
        "|---|---|---|---|---|",
    ]
    command = [sys.executable, __file__, arguments.network, "--graph", str(graph)]
    command += ["--batch-size", str(arguments.batch_size), "--child"]
    runs: dict[str, subprocess.Popen[str]] = {}
    for engine, more in environments(arguments).items():
        runs[engine] = subprocess.Popen(
            [*command, engine],
            env={**os.environ, **more},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert runs[engine].stdout.readline() == "ready\n", engine
    found: dict[str, list[float]] = {engine: [] for engine in runs}
    for _ in range(arguments.rounds):
        for engine, process in runs.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            found[engine].append(float(process.stdout.readline()))
            print(f"{engine}: {found[engine][-1]:.1f}", file=sys.stderr, flush=True)
    scores = {engine: np.load(graph.with_suffix(f".{engine}.npy")) for engine in runs}
    first = "PyTorch as usual"
    for engine, process in runs.items():
        process.communicate()
        each = found[engine]
        middle, usual = statistics.median(each), statistics.median(found[first])
        apart = np.abs(scores[engine] - scores[first]).max() / np.abs(scores[first]).max()
        lines.append(
            f"| {arguments.network} | {engine} | {middle:.1f} ({min(each):.1f}–{max(each):.1f}) | {usual / middle:.2f} "
            f"| {apart:.0e} |"
        )
    print("\n".join(lines))
    if arguments.write:
        with arguments.write.open("a") as file:
            file.write("\n".join(lines) + "\n\n")


if __name__ == "__main__":
    main()
