"""650 photos of ILSVRC 2012's validation set."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from sightline.data.subsets.archives import members, shrink
from sightline.data.subsets.base import Subset, listed
from sightline.errors import InputError

SOLUTION, NAMES = "LOC_val_solution.csv", "LOC_synset_mapping.txt"
SIDE = 227


def make(sources: Sequence[Path], out: Path) -> None:
    """Photos squeezed to 227×227, their boxes with them, in Kaggle's layout."""
    wanted = {Path(path).name: path for path in listed("ilsvrc-val-650")}
    texts, scales = {}, {}
    for name, read in members(sources):
        base = name.rsplit("/", 1)[-1]
        if base in (SOLUTION, NAMES):
            texts[base] = read().decode()
        elif base in wanted:
            scales[base.removesuffix(".JPEG")] = shrink(
                read(), lambda w, h: (SIDE, SIDE), 90, out / wanted[base]
            )
    for needed in (SOLUTION, NAMES):
        if needed not in texts:
            raise InputError(f"none of the sources has {needed}; it is part of the data on Kaggle")
    (out / NAMES).write_text(texts[NAMES], encoding="utf-8")
    with (out / SOLUTION).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for row in csv.reader(StringIO(texts[SOLUTION])):
            if row and (row[0] in scales or row[0] == "ImageId"):
                writer.writerow([row[0], _scaled(row[1], *scales.get(row[0], (1.0, 1.0)))])


def _scaled(prediction: str, x: float, y: float) -> str:
    """``n01440764 0 10 99 49 …`` with its inclusive corners scaled.

    >>> _scaled("n01440764 0 10 99 49", 0.5, 0.5)
    'n01440764 0 5 49 24'
    """
    words = prediction.split()
    if len(words) % 5:
        return prediction  # the header
    found = []
    for place in range(0, len(words), 5):
        x0, y0, x1, y1 = (int(word) for word in words[place + 1 : place + 5])
        corners = (round(x0 * x), round(y0 * y), round((x1 + 1) * x) - 1, round((y1 + 1) * y) - 1)
        found += [words[place], *map(str, corners)]
    return " ".join(found)


SUBSET = Subset(
    "ilsvrc-val-650",
    "ILSVRC 2012 CLS-LOC (Russakovsky et al. 2015), 650 photos of val",
    "https://www.kaggle.com/c/imagenet-object-localization-challenge",
    ("the folder or archive of ILSVRC2012_val_*.JPEG", SOLUTION, NAMES),
    "non-commercial research and teaching",
    "650 photos with all their boxes; photos squeezed to 227×227, boxes with them. They are easier than the whole of "
    "val: the centre box has 61.5 % here and 53.5 % there",
    "--data {folder} --dataset ilsvrc --data-option allow_empty=true",
    make,
    (SOLUTION, NAMES),
)
