"""YOLO's text files: one line per box, as shares of the photo; and data.yaml."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from sightline.labels.types import LabelledPhoto


def yolo_text(photo: LabelledPhoto) -> str:
    """``class x_centre y_centre width height``, each a share in [0, 1]; empty for a photo without a box.

    >>> from sightline.labels.types import Label
    >>> yolo_text(LabelledPhoto("a.jpg", (100, 200), (Label(7, "cat", (50, 0, 150, 100)),)))
    '7 0.500000 0.500000 0.500000 1.000000\\n'
    """
    height, width = photo.size_hw
    lines = []
    for label in photo.labels:
        x0, y0, x1, y1 = label.box_xyxy
        shares = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
        lines.append(f"{label.class_index} {' '.join(f'{share:.6f}' for share in shares)}\n")
    return "".join(lines)


def data_yaml(names: Sequence[str]) -> str:
    """The data set's data.yaml: photos in images/, and the class names."""
    about = {"path": ".", "train": "images", "val": "images", "names": dict(enumerate(names))}
    return yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
