"""PASCAL VOC's XML (Everingham et al. 2010): whole pixels, counted from 1, both ends inclusive."""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from xml.sax.saxutils import escape

from sightline.labels.types import Label, LabelledPhoto


def voc_xml(photo: LabelledPhoto) -> str:
    """The annotation of one photo.

    xmin = ⌊x0⌋ + 1 and xmax = ⌈x1⌉: the smallest box of whole pixels around it. ``score`` and ``doubt`` are tags that
    VOC does not know, and readers skip.
    """
    height, width = photo.size_hw
    path = PurePosixPath(photo.file)
    head = [
        "<annotation>",
        f"  <folder>{escape(path.parent.name or 'JPEGImages')}</folder>",
        f"  <filename>{escape(path.name)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        f"  <segmented>{int(any(label.rle for label in photo.labels))}</segmented>",
    ]
    return "\n".join([*head, *(_object(label) for label in photo.labels), "</annotation>"]) + "\n"


def _object(label: Label) -> str:
    x0, y0, x1, y1 = label.box_xyxy
    corners = {
        "xmin": math.floor(x0) + 1,
        "ymin": math.floor(y0) + 1,
        "xmax": math.ceil(x1),
        "ymax": math.ceil(y1),
    }
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners.items())
    score = "" if label.score is None else f"<score>{label.score:.6f}</score>"
    return (
        f"  <object><name>{escape(label.category)}</name><pose>Unspecified</pose><truncated>0</truncated>"
        f"<difficult>0</difficult><bndbox>{box}</bndbox>{score}<doubt>{label.doubt:.4f}</doubt></object>"
    )
