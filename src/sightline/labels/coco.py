"""COCO's instances JSON (Lin et al. 2014): boxes as x, y, width, height; regions as compressed run lengths."""

from __future__ import annotations

from typing import Any

from sightline.errors import need
from sightline.labels.rle import area
from sightline.labels.types import Label, LabelledPhoto, Labels


def coco_dict(labels: Labels) -> dict[str, Any]:
    """Images, annotations and categories; ids count from 1, and a category's id is its class index + 1.

    Beside COCO's own fields an annotation has ``score`` and ``doubt``. A region is written as compressed run
    lengths, by pycocotools (extra ``[export]``); without one ``segmentation`` is empty and ``area`` is the box's.
    """
    annotations = [
        {"id": number, **_annotation(label, photo, image)}
        for number, (image, photo, label) in enumerate(
            ((i, p, one) for i, p in enumerate(labels.photos, start=1) for one in p.labels), start=1
        )
    ]
    images = [
        {"id": i, "file_name": p.file, "height": p.size_hw[0], "width": p.size_hw[1]}
        for i, p in enumerate(labels.photos, start=1)
    ]
    categories = [
        {"id": i, "name": name, "supercategory": ""} for i, name in enumerate(labels.names, start=1)
    ]
    return {
        "info": {"description": "sightline: predictions, not checked by a person"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def _annotation(label: Label, photo: LabelledPhoto, image: int) -> dict[str, Any]:
    x0, y0, x1, y1 = label.box_xyxy
    width, height = round(x1 - x0, 2), round(y1 - y0, 2)
    return {
        "image_id": image,
        "category_id": label.class_index + 1,
        "bbox": [x0, y0, width, height],
        "area": round(width * height, 2) if label.rle is None else area(label.rle),
        "iscrowd": 0,
        "segmentation": [] if label.rle is None else compressed(label.rle, photo.size_hw),
        "score": label.score,
        "doubt": round(label.doubt, 4),
    }


def compressed(rle: tuple[int, ...], size_hw: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed run lengths, as JSON holds them."""
    mask = need("pycocotools.mask", "export")
    found = mask.frPyObjects({"size": list(size_hw), "counts": list(rle)}, *size_hw)
    return {"size": list(size_hw), "counts": found["counts"].decode("ascii")}
