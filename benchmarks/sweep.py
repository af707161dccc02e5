"""The cost of a threshold sweep against a loop over thresholds with OpenCV, in one run, with equal results.

    .venv/bin/python benchmarks/sweep.py --write benchmarks/sweep.md

A map's MaxBoxAcc, MaxBoxAccV2 and PxAP at all 1000 thresholds. *The loop*: for each τ `cv2.threshold`,
`cv2.findContours` once for both box metrics, `cv2.contourArea`, IoU, and one `numpy.histogram`, as
in wsolevaluation. *Distinct masks*: the same, but each of the at most 255 different masks only once. CPU time on one
thread under the memory policy (`tune_cpu`), in turns: the best of five for each map, the median over maps; the last
column is the wall time of 1 over 2 threads on the same maps.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numba
import numpy as np

from sightline.metrics.pixels import EDGES
from sightline.metrics.protocols import TAUS, contour_ious, in_threads, wsol_scoremap
from sightline.metrics.sweep import count_in_bins
from sightline.runtime import tune_cpu

Result = tuple[np.ndarray, np.ndarray, np.ndarray]


def smooth(rng: np.random.Generator, side: int) -> np.ndarray:
    return cv2.GaussianBlur(rng.standard_normal((side, side)), (0, 0), side / 20)


def noise(rng: np.random.Generator, side: int) -> np.ndarray:
    return rng.standard_normal((side, side))


def ours(raw: np.ndarray, true: np.ndarray, mask: np.ndarray) -> Result:
    scores = wsol_scoremap(raw, side=raw.shape[0])
    v1, v2 = contour_ious((scores * 255).astype(np.uint8), true)
    return v1, v2, count_in_bins(scores, mask, EDGES)


def overlaps(boxes: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Inclusive IoU of boxes (n, 4) with one true box, all at once."""
    low, high = np.maximum(boxes[:, :2], true[:2]), np.minimum(boxes[:, 2:], true[2:])
    shared = np.maximum(high - low + 1, 0).prod(1)
    return shared / ((boxes[:, 2:] - boxes[:, :2] + 1).prod(1) + (true[2:] - true[:2] + 1).prod() - shared)


def at_threshold(level: np.ndarray, threshold: int, true: np.ndarray) -> tuple[float, float]:
    _, mask = cv2.threshold(level, threshold, 255, cv2.THRESH_BINARY)
    contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    largest = max(range(len(contours)), key=lambda i: cv2.contourArea(contours[i]))
    rectangles = np.array([cv2.boundingRect(c) for c in contours])
    rectangles[:, 2:] = np.minimum(rectangles[:, :2] + rectangles[:, 2:], level.shape[0] - 1)
    ious = overlaps(rectangles, true[0])
    return float(ious[largest]), float(ious.max())


def loop(raw: np.ndarray, true: np.ndarray, mask: np.ndarray, distinct: bool = False) -> Result:
    scores = wsol_scoremap(raw, side=raw.shape[0])
    level = (scores * 255).astype(np.uint8)
    thresholds = [int(tau * level.max()) for tau in TAUS]
    if distinct:
        found = {t: at_threshold(level, t, true) for t in sorted(set(thresholds))}
        ious = np.array([found[t] for t in thresholds])
    else:
        ious = np.array([at_threshold(level, t, true) for t in thresholds])
    counts = np.stack([np.histogram(scores[mask == value], EDGES)[0] for value in (0, 1)])
    return ious[:, 0], ious[:, 1], counts


def cpu_ms(work: Callable[[], Result]) -> tuple[float, Result]:
    start = time.thread_time()
    result = work()
    return 1000 * (time.thread_time() - start), result


def two_thread_gain(raws: list[np.ndarray], true: np.ndarray, mask: np.ndarray) -> float:
    """Wall time of one thread over that of two, best of 15 runs each (the machine may be busy)."""
    walls: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(15):
        for workers, found in walls.items():
            start = time.perf_counter()
            in_threads(lambda i: ours(raws[i], true, mask), range(len(raws)), workers)
            found.append(time.perf_counter() - start)
    return min(walls[1]) / min(walls[2])


def row(name: str, make: Callable[[np.random.Generator, int], np.ndarray], side: int, maps: int) -> str:
    rng = np.random.default_rng(side)
    true = np.array([[side * 0.2, side * 0.25, side * 0.7, side * 0.75]]).round()
    mask = rng.choice(np.array([0, 1, 255], np.uint8), (side, side), p=[0.6, 0.3, 0.1])
    raws = [make(rng, side) for _ in range(maps)]
    times: list[list[float]] = [[], [], []]
    for raw in raws:
        best = [float("inf")] * 3
        for _ in range(5 if name == "smooth" else 1):
            found = [
                cpu_ms(lambda raw=raw: ours(raw, true, mask)),
                cpu_ms(lambda raw=raw: loop(raw, true, mask)),
                cpu_ms(lambda raw=raw: loop(raw, true, mask, distinct=True)),
            ]
            best = [min(least, ms) for least, (ms, _) in zip(best, found, strict=True)]
            for mine, slow, fewer in zip(*(result for _, result in found), strict=True):
                assert np.array_equal(mine, slow)
                assert np.array_equal(mine, fewer)
        for kept, ms in zip(times, best, strict=True):
            kept.append(ms)
    mine, slow_ms, fewer_ms = (statistics.median(t) for t in times)
    gain = two_thread_gain([make(rng, side) for _ in range(16 if side <= 256 else 4)], true, mask)
    return (
        f"| {name} | {side}² | {mine:.2f} | {slow_ms:.0f} | {slow_ms / mine:.0f} × "
        f"| {fewer_ms:.0f} | {fewer_ms / mine:.1f} × | {gain:.2f} × |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 224, 512, 1024])
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    tune_cpu()
    ours(smooth(np.random.default_rng(0), 32), np.ones((1, 4)), np.zeros((32, 32), np.uint8))  # compile
    lines = [
        "# A sweep over 1000 thresholds",
        "",
        f"`python benchmarks/sweep.py {' '.join(sys.argv[1:])}`: MaxBoxAcc, MaxBoxAccV2 and PxAP of one map, "
        "milliseconds of one thread's CPU time under the memory policy, the best of 5 turns (noise: one), medians "
        "over maps; every result equal to the loop's.",
        "",
        f"Python {platform.python_version()}, NumPy {np.__version__}, numba {numba.__version__}, OpenCV "
        f"{cv2.__version__}, {platform.machine()}, {os.cpu_count()} CPUs; load {os.getloadavg()[0]:.1f} "
        "at the start (the 2-thread gain is wall time and means little on a busy machine).",
        "",
        "| map | size | here, ms | loop, ms | ratio | distinct masks, ms | ratio | 2 threads |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for name, make in (("smooth", smooth), ("noise", noise)):
        for side in arguments.sizes:
            if name == "noise" and side > 256:
                continue  # the loop would take minutes per map
            lines.append(
                row(name, make, side, 5 if side <= 256 and name == "smooth" else 2 if side <= 128 else 1)
            )
            print(lines[-1], flush=True)
    if arguments.write:
        arguments.write.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
