"""Large JPEGs decoded whole beside libjpeg's draft mode: CPU time, and how far the heatmaps differ.

    .venv/bin/python benchmarks/draft.py --photos FOLDER --write benchmarks/draft.md

Each photo is enlarged to 12 megapixels, given noise like that of a camera, and saved as JPEG: it has detail at every
scale. Draft mode decodes 1/2, 1/4 or 1/8 of each side: here the smallest that is at least ``--margin`` times the input
on both axes. Grad-CAM of the default model, one thread.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image

import sightline
from sightline.boxes import iou
from sightline.data.images import decode_image
from sightline.data.items import expand_paths

SIZE = (4000, 3000)


def enlarged(path: Path, number: int) -> bytes:
    """The photo as a JPEG of 12 megapixels."""
    photo = Image.open(path).convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)
    noise = np.random.default_rng(number).normal(0, 6, (SIZE[1], SIZE[0], 1))
    noisy = Image.fromarray((np.asarray(photo) + noise).clip(0, 255).astype(np.uint8))
    file = BytesIO()
    noisy.save(file, "JPEG", quality=90)
    return file.getvalue()


def drafted(data: bytes, least: int) -> Image.Image:
    """The smallest draft whose sides are at least ``least``."""
    image = Image.open(BytesIO(data))
    image.draft("RGB", (least, least))
    return image.convert("RGB")


def row(paths: list[Path], margin: float) -> str:
    model = sightline.load_model()
    assert model.preprocess is not None
    side = model.preprocess.input_hw[0]
    times: list[tuple[float, float]] = []
    apart, same, overlaps, draft_size = [], 0, [], (0, 0)
    for number, path in enumerate(paths):
        data, marks, shown = enlarged(path, number), [], []
        for decode in (lambda d: decode_image(d, "photo"), lambda d: drafted(d, round(margin * side))):
            start = time.process_time()
            photo = decode(data)
            shown.append(model.preprocess.prepare(photo)[0])
            marks.append(1e3 * (time.process_time() - start))
            draft_size = photo.size
        times.append((marks[0], marks[1]))
        found = [sightline.explain(model, images[None], "gradcam") for images in shown]
        first = int(found[0].classes[0, 0])
        same += first == int(found[1].classes[0, 0])
        found[1] = sightline.explain(model, shown[1][None], "gradcam", classes=first)
        heatmaps = [one.heatmaps()[0, 0] for one in found]
        apart.append(float((heatmaps[0] - heatmaps[1]).abs().max()))
        boxes = [one.boxes()[0][0] for one in found]
        overlaps.append(float(iou(boxes[0], boxes[1]).max()))
    whole, draft = (statistics.median(column) for column in zip(*times, strict=True))
    return (
        f"| {margin:g} | {draft_size[0]}×{draft_size[1]} | {whole:.0f} | {draft:.0f} | {whole / draft:.1f} "
        f"| {statistics.median(apart):.3f} | {max(apart):.3f} | {min(overlaps):.3f} | {same} of {len(paths)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--margin", type=float, nargs="+", default=[1, 2, 4])
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    sightline.tune_cpu()
    torch.set_num_threads(1)
    lines = [
        "# Large photos in libjpeg's draft mode",
        "",
        f"`python benchmarks/draft.py --photos FOLDER --images {arguments.images}`: "
        f"photos of {SIZE[0]}×{SIZE[1]}, read and prepared "
        "for the default model's 224×224, CPU milliseconds, medians; the heatmaps of the same class, in [0, 1], and "
        f"its boxes. Python {platform.python_version()}, Pillow {PIL.__version__}, {platform.machine()}, "
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start.",
        "",
        "| sides at least × 224 | draft | whole, ms | draft, ms | times as fast | heatmaps differ by, median | at most "
        "| least IoU of boxes | same class |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    paths = expand_paths([arguments.photos])[:: max(1, 120 // arguments.images)][: arguments.images]
    for margin in arguments.margin:
        lines.append(row([Path(path) for path in paths], margin))
        print(lines[-1], flush=True)
    if arguments.write:
        arguments.write.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
