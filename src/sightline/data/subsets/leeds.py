"""The Leeds Butterfly data set: ten species with masks."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sightline.data.images import open_picture
from sightline.data.subsets.archives import longest, members, shrink
from sightline.data.subsets.base import Subset, listed

META = "metadata/LEEDS/test"
SPECIES = (
    "Danaus_plexippus", "Heliconius_charitonius", "Heliconius_erato", "Junonia_coenia", "Lycaena_phlaeas",
    "Nymphalis_antiopa", "Papilio_cresphontes", "Pieris_rapae", "Vanessa_atalanta", "Vanessa_cardui",
)  # fmt: skip


def make(sources: Sequence[Path], out: Path) -> None:
    """Photos by species with boxes.csv, their masks, and wsolevaluation's metadata."""
    wanted = {Path(path).stem: path for path in listed("leeds-butterflies")}
    masks = {}
    for name, read in members(sources):
        found = re.search(r"(\d{7})(_seg0)?\.png$", name)
        if not found or found[1] not in wanted:
            continue
        path = wanted[found[1]]
        if found[2] is None:
            shrink(read(), longest(288), 75, out / path)
        else:
            masks[path] = _mask(read(), out / _mask_of(path))
    (out / META).mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {"image_ids": [], "class_labels": [], "localization": []}
    with (out / "photos" / "boxes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file", "x0", "y0", "x1", "y1"])
        for path in sorted(masks):
            table.writerow([path.removeprefix("photos/"), *masks[path]])
            lines["image_ids"].append(path)
            lines["class_labels"].append(f"{path},{SPECIES.index(path.split('/')[1])}")
            lines["localization"].append(f"{path},{_mask_of(path)},")
    for name, rows in lines.items():
        (out / META / f"{name}.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def _mask_of(path: str) -> str:
    return path.replace("photos/", "masks/").replace(".jpg", ".png")


def _mask(data: bytes, path: Path) -> tuple[int, int, int, int]:
    """Save a mask, shrunk, and return its box, half-open."""
    with open_picture(data) as drawn:
        white = drawn.convert("L").point(lambda value: 255 if value else 0)
    small = white.resize(longest(288)(*white.size), Image.Resampling.BILINEAR)
    path.parent.mkdir(parents=True, exist_ok=True)
    small.save(path)
    rows, columns = np.nonzero(np.asarray(small) > 127)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


SUBSET = Subset(
    "leeds-butterflies",
    "Leeds Butterfly (Wang, Markert, Everingham 2009), 416 of its 832 photos",
    "http://www.josiahwang.com/dataset/leedsbutterfly/",
    ("leedsbutterfly_dataset_v1.0.zip",),
    "learning and research; the photos belong to their photographers",
    "416 photos of ten species with masks; longest side at most 288; a box is that of the mask",
    "--data {folder}/photos --dataset folder --split all --class-names leeds-butterflies --unknown-classes skip",
    make,
    ("photos/boxes.csv", *(f"{META}/{name}.txt" for name in ("image_ids", "class_labels", "localization"))),
)
