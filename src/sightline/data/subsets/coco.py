"""159 photos of COCO 2017 with their instances and captions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sightline.data.subsets.archives import longest, members, shrink
from sightline.data.subsets.base import Subset, listed

TABLES = tuple(
    f"annotations/{kind}_{split}2017.json" for kind in ("captions", "instances") for split in ("train", "val")
)


def make(sources: Sequence[Path], out: Path) -> None:
    """Photos at most 360 on their longer side; instances scaled with them, captions as they are."""
    wanted = {Path(path).name: path for path in listed("coco-mini")}
    texts, scales = {}, {}
    for name, read in members(sources):
        base = name.rsplit("/", 1)[-1]
        if f"annotations/{base}" in TABLES:
            texts[base] = read()
        elif base in wanted:
            scales[base] = shrink(read(), longest(360), 76, out / wanted[base])
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    for base, text in texts.items():
        kept = _kept(json.loads(text), scales, base.startswith("instances"))
        (out / "annotations" / base).write_text(json.dumps(kept), encoding="utf-8")


def _kept(table: dict[str, Any], scales: dict[str, tuple[float, float]], scaled: bool) -> dict[str, Any]:
    images = [image for image in table["images"] if image["file_name"] in scales]
    by_id = {image["id"]: scales[image["file_name"]] for image in images}
    annotations = [one for one in table["annotations"] if one["image_id"] in by_id]
    if scaled:
        for image in images:
            x, y = by_id[image["id"]]
            image.update(width=round(image["width"] * x), height=round(image["height"] * y))
        for one in annotations:
            _scale(one, *by_id[one["image_id"]])
    return {**table, "images": images, "annotations": annotations}


def _scale(one: dict[str, Any], x: float, y: float) -> None:
    """An instance's box, area and polygons, scaled; a crowd's run lengths cannot be, and are left out."""
    one["bbox"] = [round(value * scale, 2) for value, scale in zip(one["bbox"], (x, y, x, y), strict=True)]
    one["area"] = one["area"] * x * y
    if isinstance(one["segmentation"], list):
        one["segmentation"] = [
            [round(value * (y if place % 2 else x), 2) for place, value in enumerate(polygon)]
            for polygon in one["segmentation"]
        ]
    else:
        one["segmentation"] = []


SUBSET = Subset(
    "coco-mini",
    "COCO 2017 (Lin et al. 2014), 159 photos with instances and captions",
    "https://cocodataset.org/#download",
    ("train2017.zip", "val2017.zip", "annotations_trainval2017.zip"),
    "annotations CC BY 4.0; the photos belong to their photographers",
    "80 photos of train2017 and 79 of val2017, longest side at most 360, instances with it",
    "--data {folder} --dataset coco",
    make,
    TABLES,
)
