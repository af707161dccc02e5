"""Boxes and areas of the 8-connected components: sightline.components against OpenCV and cc3d, with equal results.

    .venv/bin/python -m pip install connected-components-3d
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/components.py --write benchmarks/components.md

The masks are heatmaps ≥ 20 % or 50 % of their maximum: random maps of 7², 14² or 56² positions, upsampled
bilinearly like a network's; and pure noise, which no method produces. *One by one* is a call per mask, *batch* one call
for 32. OpenCV uses SAUF, the algorithm that numbers components by their first pixel, as the rule for equal areas needs.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import numpy as np

from sightline.components import find_components

BATCH = 32


def random_maps(side: int, places: int) -> np.ndarray:
    """BATCH maps (side, side) in [0, 1], upsampled from places × places random values."""
    small = np.random.default_rng(places).random((BATCH, places, places)).astype(np.float32)
    maps = np.stack([cv2.resize(m, (side, side), interpolation=cv2.INTER_LINEAR) for m in small])
    maps -= maps.min((1, 2), keepdims=True)
    return maps / maps.max((1, 2), keepdims=True)


def by_opencv(mask: np.ndarray) -> np.ndarray:
    return cv2.connectedComponentsWithStatsWithAlgorithm(mask, 8, cv2.CV_32S, cv2.CCL_SAUF)[2][1:]


def by_cc3d(mask: np.ndarray) -> dict[str, np.ndarray]:
    import cc3d

    labels = cc3d.connected_components(mask, connectivity=8, binary_image=True)
    return cc3d.statistics(labels, no_slice_conversion=True)


def check(masks: np.ndarray) -> float:
    """Raise if the results differ; returns the mean number of components per mask."""
    found = find_components(masks)
    for i, mask in enumerate(masks):
        x, y, width, height, area = by_opencv(mask).T
        expected = np.stack([x, y, x + width, y + height, area], 1)[np.argsort(-area, kind="stable")]
        mine = np.column_stack([found.boxes_xyxy, found.areas])[found.mask_index == i]
        np.testing.assert_array_equal(mine, expected)
    return len(found.areas) / len(masks)


def microseconds(work: Callable[[np.ndarray], object], parts: Sequence[np.ndarray], turns: int = 9) -> float:
    """CPU time of one thread per mask, the best of ``turns``."""
    best = float("inf")
    for _ in range(turns):
        start = time.thread_time()
        for part in parts:
            work(part)
        best = min(best, time.thread_time() - start)
    return 1e6 * best / BATCH


def row(name: str, masks: np.ndarray, cc3d: bool) -> str:
    components = check(masks)
    opencv = microseconds(by_opencv, list(masks))
    other = f"{microseconds(by_cc3d, list(masks)):.0f}" if cc3d else "–"
    single = microseconds(find_components, [mask[None] for mask in masks])
    batch = microseconds(find_components, [masks])
    return (
        f"| {name} | {masks.shape[1]}² | {components:.1f} | {opencv:.0f} | {other} | {single:.0f} | {batch:.0f} "
        f"| {batch / opencv:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 448])
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    try:
        cc3d = version("connected-components-3d")
    except PackageNotFoundError:
        cc3d = ""
    lines = [
        "# Connected components",
        "",
        f"`python benchmarks/components.py {' '.join(sys.argv[1:])}`: boxes and areas of all 8-connected components, "
        "microseconds of one thread's CPU time per mask, the best of 9 turns; every result equal to OpenCV's.",
        "",
        f"Python {platform.python_version()}, NumPy {np.__version__}, OpenCV {cv2.__version__}, "
        f"connected-components-3d {cc3d or 'not installed'}, {platform.machine()}, {os.cpu_count()} CPUs; "
        f"load {os.getloadavg()[0]:.1f} at the start.",
        "",
        "| mask | size | components | OpenCV | cc3d | here, one by one | here, batch | batch / OpenCV |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for side in arguments.sizes:
        for places in (7, 14, 56):
            for share in (0.2, 0.5):
                masks = (random_maps(side, places) >= share).astype(np.uint8)
                lines.append(row(f"{places}² places ≥ {share:.0%}", masks, bool(cc3d)))
                print(lines[-1], flush=True)
        noise = (np.random.default_rng(0).random((BATCH, side, side)) < 0.5).astype(np.uint8)
        lines.append(row("noise", noise, bool(cc3d)))
        print(lines[-1], flush=True)
    if arguments.write:
        arguments.write.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
