"""What `localise` costs beside a forward pass, and what of it the affinity walk is. CPU time of this process.

python benchmarks/localise.py --photos 8 --repeat 3
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

import sightline as sl
from sightline.runtime import in_fast_format

ROWS = {
    "localise": "gradcam:nwc=true:flip:scales=1.4286",  # the same without the walk
    "localise-fast": "gradcam:nwc=true",
}


def seconds(function: Callable[[], Any], repeat: int) -> float:
    """The median CPU time of one call, after one call to warm up."""
    function()
    found = []
    for _ in range(repeat):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return median(found)


def main() -> None:
    """Print a table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    sl.tune_cpu()  # as the command line does
    torch.set_num_threads(1)
    model, images = in_fast_format(sl.load_model()), torch.rand(given.photos, 3, 224, 224)
    with torch.no_grad():
        forward = seconds(lambda: model(images), given.repeat)
    print(f"{platform.machine()}, 1 thread, torch {torch.__version__}, {given.photos} photos: ", end="")
    print(f"forward pass {forward / given.photos * 1000:.0f} ms per photo\n")
    print(
        "| method | × a forward pass | its passes alone | the walk, % of the passes |\n| --- | --- | --- | --- |"
    )
    for name, plain in ROWS.items():
        whole = seconds(lambda name=name: sl.explain(model, images, name), given.repeat)  # type: ignore[misc]
        alone = seconds(lambda plain=plain: sl.explain(model, images, plain), given.repeat)  # type: ignore[misc]
        share = 100 * (whole - alone) / alone
        print(f"| {name} | {whole / forward:.1f} | {alone / forward:.1f} | {share:.0f} |")


if __name__ == "__main__":
    main()
