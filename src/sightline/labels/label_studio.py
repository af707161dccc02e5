"""Label Studio's tasks with predictions: rectangles in per cent of the photo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from sightline.labels.types import Label, LabelledPhoto

VERSION = "sightline"


def task(photo: LabelledPhoto, prefix: str = "") -> dict[str, Any]:
    """One task: the image's URL and one prediction with all boxes.

    >>> task(LabelledPhoto("a b.jpg", (2, 4)), "/data/local-files/?d=")["data"]
    {'image': '/data/local-files/?d=a%20b.jpg'}
    """
    return {"data": {"image": prefix + quote(photo.file)}, "predictions": [prediction(photo)]}


def prediction(photo: LabelledPhoto, from_name: str = "label", to_name: str = "image") -> dict[str, Any]:
    """One prediction; its score is the lowest certainty, 1 − doubt, of its boxes, so that tasks sort by doubt."""
    sure = [1 - label.doubt for label in photo.labels]
    return {
        "model_version": VERSION,
        "score": round(min(sure, default=0.0), 4),
        "result": [
            {"id": f"box{number}", "from_name": from_name, "to_name": to_name, **_rectangle(label, photo)}
            for number, label in enumerate(photo.labels, start=1)
        ],
    }


def _rectangle(label: Label, photo: LabelledPhoto) -> dict[str, Any]:
    height, width = photo.size_hw
    x0, y0, x1, y1 = label.box_xyxy
    return {
        "type": "rectanglelabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {
            "x": 100 * x0 / width,
            "y": 100 * y0 / height,
            "width": 100 * (x1 - x0) / width,
            "height": 100 * (y1 - y0) / height,
            "rotation": 0,
            "rectanglelabels": [label.category],
        },
        "score": round(1 - label.doubt, 4),
    }


def labelling_config(names: Sequence[str]) -> str:
    """The labelling interface that the predictions fit: one `RectangleLabels` with these classes.

    >>> labelling_config(["cat"]).count("<Label ")
    1
    """
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in dict.fromkeys(names))
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <RectangleLabels name="label" toName="image">\n{labels}  </RectangleLabels>\n</View>\n'
    )
