"""CPU time of `evaluate` with several methods beside the forward passes that it needs, both under the memory policy.

    python benchmarks/evaluate.py --photos FOLDER --write benchmarks/evaluate.md

One thread; every photo has a centred box, so that all scores are made: decoding, one forward pass per photo, a map per
method, the sweep over 1,000 thresholds, bootstrap intervals. The forward passes alone run on decoded batches.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from itertools import pairwise
from pathlib import Path

import torch

import sightline
from sightline.data.images import photo_size
from sightline.data.items import expand_paths
from sightline.data.photos import PhotoBatch
from sightline.evaluation.options import EvaluationOptions
from sightline.runtime import in_fast_format
from sightline.types import Dataset, Sample

METHODS = ("cam", "gradcam", "layercam")


def dataset_of(photos: Path, count: int, categories: tuple[str, ...]) -> Dataset:
    """The photos with a box in the middle of each and the first class."""
    samples = []
    for file in expand_paths([photos])[:count]:
        height, width = photo_size(file)
        box = torch.tensor([[0.2 * width, 0.2 * height, 0.8 * width, 0.8 * height]])
        samples.append(Sample(file.name, file, 0, box))
    return Dataset("photos", "val", samples, categories)


def row(name: str, photos: Path, count: int, batch: int, repeats: int) -> str:
    model = sightline.load_model(name, weights=None if name == "lite0" else "none")
    model = in_fast_format(model.eval())
    if model.categories is None:
        model.categories = tuple(f"class {number}" for number in range(1000))
    assert model.preprocess is not None
    data = dataset_of(photos, count, model.categories)
    files = [sample.source for sample in data.samples]
    batches = [
        PhotoBatch.load(
            files[start : start + batch], model.preprocess, keep_photos=False, channels_last=True
        ).images
        for start in range(0, count, batch)
    ]
    options = EvaluationOptions(batch_size=batch, gt_only=True)
    sightline.evaluate(
        model, Dataset("photos", "val", data.samples[:2], data.categories), METHODS, options=options
    )
    times: list[tuple[float, float, float]] = []
    for _ in range(repeats):
        marks = [time.process_time()]
        with torch.no_grad():
            for images in batches:
                model(images)
        marks.append(time.process_time())
        sightline.evaluate(model, data, METHODS[:1], options=options)
        marks.append(time.process_time())
        sightline.evaluate(model, data, METHODS, options=options)
        marks.append(time.process_time())
        forward, one, several = (1e3 * (b - a) / count for a, b in pairwise(marks))
        times.append((forward, one, several))
    forward, one, several = (statistics.median(column) for column in zip(*times, strict=True))
    return f"| {name} | {forward:.1f} | {one:.1f} | {one / forward:.2f} | {several:.1f} | {several / forward:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["lite0", "resnet50"])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    sightline.tune_cpu()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    lines = [
        "# evaluate beside its forward passes",
        "",
        f"`python benchmarks/evaluate.py --photos FOLDER --images {arguments.images} "
        f"--batch-size {arguments.batch_size} --repeats {arguments.repeats}`: "
        f"CPU milliseconds per photo, one thread, under the memory policy, medians; Python "
        f"{platform.python_version()}, torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} CPUs, load "
        f"{load:.1f} at the start.",
        "",
        f"| network | forward pass | evaluate, {METHODS[0]} | ratio | evaluate, {', '.join(METHODS)} | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for name in arguments.models:
        lines.append(row(name, arguments.photos, arguments.images, arguments.batch_size, arguments.repeats))
        print(lines[-1], flush=True)
    if arguments.write:
        arguments.write.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
