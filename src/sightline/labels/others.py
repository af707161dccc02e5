"""The same labels as objects of supervision and FiftyOne."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from sightline.errors import InputError, need
from sightline.labels.rle import decode
from sightline.labels.types import LabelledPhoto


def detections(photo: LabelledPhoto) -> Any:
    """A ``supervision.Detections``: xyxy, confidence, class_id, the masks if every label has one, names and doubts."""
    supervision = need("supervision", "supervision")
    labels = photo.labels
    masks = [decode(one.rle, photo.size_hw) for one in labels if one.rle is not None]
    return supervision.Detections(
        xyxy=np.array([one.box_xyxy for one in labels], dtype=np.float32).reshape(-1, 4),
        mask=np.stack(masks) if labels and len(masks) == len(labels) else None,
        confidence=np.array([np.nan if one.score is None else one.score for one in labels], dtype=np.float32),
        class_id=np.array([one.class_index for one in labels], dtype=int),
        data={
            "class_name": np.array([one.category for one in labels], dtype=str),
            "doubt": np.array([one.doubt for one in labels], dtype=np.float32),
        },
    )


def fiftyone_detections(photo: LabelledPhoto) -> Any:
    """A ``fiftyone.Detections``: boxes as shares x, y, width, height; masks cut to their boxes' whole pixels."""
    try:
        fiftyone = importlib.import_module("fiftyone")
    except ModuleNotFoundError:
        raise InputError("fiftyone is not installed: pip install fiftyone") from None
    height, width = photo.size_hw
    found = []
    for label in photo.labels:
        x0, y0, x1, y1 = label.box_xyxy
        box = [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]
        more: dict[str, Any] = {}
        if label.rle is not None:
            rows, columns = (slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1))))
            more["mask"] = decode(label.rle, photo.size_hw)[rows, columns]
        found.append(
            fiftyone.Detection(
                label=label.category, bounding_box=box, confidence=label.score, doubt=label.doubt, **more
            )
        )
    return fiftyone.Detections(detections=found)
