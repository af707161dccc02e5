"""ICDAR 2015's incidental scene text: street photos with word boxes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from sightline.data.subsets.archives import members, shrink
from sightline.data.subsets.base import Subset, listed

WIDTH = 600


def make(sources: Sequence[Path], out: Path) -> None:
    """Photos 600 wide, and the box around each word's quadrilateral in boxes.csv."""
    wanted = {Path(path).stem: path for path in listed("icdar15-text")}
    words, scales = {}, {}
    for name, read in members(sources):
        base = name.rsplit("/", 1)[-1]
        stem = base.rpartition(".")[0]
        if base.endswith(".jpg") and stem in wanted:
            scales[stem] = shrink(
                read(), lambda w, h: (WIDTH, max(1, round(h * WIDTH / w))), 72, out / wanted[stem]
            )
        elif base.startswith("gt_") and stem.removeprefix("gt_") in wanted:
            words[stem.removeprefix("gt_")] = read().decode("utf-8-sig").splitlines()
    out.mkdir(parents=True, exist_ok=True)
    with (out / "boxes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file", "x0", "y0", "x1", "y1"])
        for stem in sorted(scales):
            for line in words.get(stem, []):
                table.writerow([wanted[stem], *_box(line, *scales[stem])])


def _box(line: str, x: float, y: float) -> list[float]:
    """The box of ``x1,y1,x2,y2,x3,y3,x4,y4,word``, scaled.

    >>> _box("0,10,20,10,20,30,0,30,EXIT", 0.5, 0.5)
    [0.0, 5.0, 10.0, 15.0]
    """
    numbers = [int(number) for number in line.split(",")[:8]]
    across, down = [n * x for n in numbers[::2]], [n * y for n in numbers[1::2]]
    return [round(value, 1) for value in (min(across), min(down), max(across), max(down))]


SUBSET = Subset(
    "icdar15-text",
    "ICDAR 2015 robust reading, challenge 4 (Karatzas et al. 2015), 250 training photos",
    "https://rrc.cvc.uab.es/?ch=4&com=downloads",
    ("ch4_training_images.zip", "ch4_training_localization_transcription_gt.zip"),
    "research, after registration",
    "250 street photos, 600 wide, with the box of every word",
    "(for `sightline discover text`)",
    make,
    ("boxes.csv",),
)
