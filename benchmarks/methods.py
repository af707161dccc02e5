"""The cost of an explanation relative to a plain forward pass: CPU time ratios, one thread, interleaved pairs.

    .venv/bin/python benchmarks/methods.py --write benchmarks/methods.md

Comparisons with other packages are in peers.py. ResNet-50 (random weights), 224×224, layer4 unless stated, batch 1 and
8, one thread. Each row is the median of 15 interleaved pairs (forward, method); slow rows use fewer, as stated. 1.00 is
the forward pass itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision

import sightline

BatchOptions = Callable[[torch.nn.Module, torch.Tensor], object]


def ours(method: str, **arguments: object) -> BatchOptions:
    return lambda net, x: sightline.explain(net, x, method=method, **arguments).maps  # type: ignore[arg-type]


FAST: dict[str, tuple[BatchOptions, float]] = {
    "gradcam": (ours("gradcam"), 1.08),
    "gradcam_pp": (ours("gradcam_pp"), 1.08),
    "layercam": (ours("layercam"), 1.08),
    "hirescam": (ours("hirescam"), 1.08),
    "xgradcam": (ours("xgradcam"), 1.08),
    "cam": (ours("cam"), float("nan")),
    "gradcam, 5 classes": (ours("gradcam", classes="top5"), 1.10),
    "eigencam": (ours("eigencam"), 1.08),
    "gradcam at layer2": (ours("gradcam", layer="layer2"), 1.75),
    "guided_gradcam": (ours("guided_gradcam"), 2.6),
    "fullycam (all convolutions)": (ours("fullycam"), float("nan")),
    "ablationcam": (ours("ablationcam"), 6.0),
}
SLOW: dict[str, tuple[BatchOptions, float]] = {
    "scorecam, 64 channels": (ours("scorecam", channels=64), 70.0),
    "scorecam, all 2048 channels": (ours("scorecam"), 2100.0),
}


def forward(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return net(x)


def cpu_seconds(work: BatchOptions, net: torch.nn.Module, x: torch.Tensor) -> float:
    start = time.process_time()
    work(net, x)
    return time.process_time() - start


def ratio(
    work: BatchOptions, net: torch.nn.Module, x: torch.Tensor, pairs: int
) -> tuple[float, float, float]:
    """Median, lowest and highest of method / forward over ``pairs`` interleaved pairs, after one warm-up."""
    if pairs > 3:
        work(net, x)
    forward(net, x)
    found = []
    for _ in range(pairs):
        plain = statistics.median(cpu_seconds(forward, net, x) for _ in range(1 if pairs > 3 else 3))
        found.append(cpu_seconds(work, net, x) / plain)
    return statistics.median(found), min(found), max(found)


def resnet50() -> torch.nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet50(weights=None).eval()


def _resident(field: str) -> float:
    """VmRSS (now) or VmHWM (the highest since it was reset) of this process, in MiB."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(field))
    return int(line.split()[1]) / 1024


def _named(name: str) -> BatchOptions:
    if (
        name == "scorecam, all 2048 channels"
    ):  # chunks of 16 are identical: memory does not grow with their number
        return ours("scorecam", channels=256)
    return {**FAST, **SLOW, "forward": (forward, 1.0)}[name][0]


def _peak(
    find: Callable[[str], BatchOptions], name: str, batch: int, queue: multiprocessing.Queue[float]
) -> None:
    torch.set_num_threads(1)
    net, x, work = resnet50(), torch.randn(batch, 3, 224, 224), find(name)
    forward(net, x[:1])
    work(net, x[:1])  # exclude imports and caches
    Path("/proc/self/clear_refs").write_text("5")  # Linux: reset the peak resident set size
    before = _resident("VmRSS")
    work(net, x)
    queue.put(_resident("VmHWM") - before)


def peak_mb(name: str, batch: int, find: Callable[[str], BatchOptions] = _named) -> float:
    """Growth of the peak resident set by one call in a fresh process, in MiB; ``find`` gives the work of a name."""
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[float] = context.Queue()
    process = context.Process(target=_peak, args=(find, name, batch, queue))
    process.start()
    found = queue.get()
    process.join()
    return found


def rows_of(arguments: argparse.Namespace) -> list[str]:
    net = resnet50()
    rows = []
    table: dict[str, tuple[BatchOptions, float]] = dict(FAST)
    if arguments.slow:
        table.update(SLOW)
    for name, (work, reach) in table.items():
        pairs = 1 if "2048" in name else 3 if name in SLOW else arguments.pairs
        cells = []
        for batch in (1, 8):
            if "2048" in name and batch == 8:
                cells.append("not run (the same work 8 times)")
                continue
            median, low, high = ratio(work, net, torch.randn(batch, 3, 224, 224), pairs)
            cells.append(f"{median:.2f} ({low:.2f}–{high:.2f})" if pairs > 1 else f"{median:.0f}")
        aim = "" if reach != reach else f"≤ {reach:g}"
        rows.append(f"| {name} | {cells[0]} | {cells[1]} | {aim} | {pairs} |")
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--slow", action="store_true", help="also Score-CAM, minutes long")
    parser.add_argument("--memory", action="store_true", help="also the peak memory, batch 8")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    lines = memory_lines() if arguments.memory else time_lines(arguments)
    if arguments.write:
        with arguments.write.open("a" if arguments.memory else "w") as file:
            file.write("\n".join(lines) + "\n")
    if arguments.memory:
        print("\n".join(lines))


def time_lines(arguments: argparse.Namespace) -> list[str]:
    return [
        "# What an explanation costs",
        "",
        f"`python benchmarks/methods.py{' --slow' if arguments.slow else ''}`: ResNet-50, 224×224, one thread's CPU "
        "time, as a ratio to a plain `inference_mode` forward pass of the same batch in the same run: the median "
        "(lowest–highest) of interleaved pairs; layer4 unless stated.",
        "",
        f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"{platform.machine()}, a shared machine of two cores.",
        "",
        "| work | batch 1 | batch 8 | reach | pairs |",
        "|---|---|---|---|---|",
        *rows_of(arguments),
    ]


def memory_lines() -> list[str]:
    plain = peak_mb("forward", 8)
    lines = [
        "",
        "`python benchmarks/methods.py --memory`: growth of the peak resident set by one call in a fresh process, "
        f"batch 8; the forward pass: {plain:.0f} MiB.",
        "",
    ]
    for name in ("gradcam", "gradcam_pp", "eigencam"):
        found = peak_mb(name, 8)
        lines.append(f"- {name}: {found:.0f} MiB, {found / plain:.2f} × the forward's")
    found = peak_mb("scorecam, all 2048 channels", 1)
    return [*lines, f"- scorecam, batch 1, chunks of 16 (256 channels run): {found:.0f} MiB"]


if __name__ == "__main__":
    main()
