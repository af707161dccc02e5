"""CVAT's XML 1.1 "for images": pixel edges, one element per box."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from sightline.labels.types import Label, Labels


def cvat_xml(labels: Labels) -> str:
    """All photos in one file. Boxes have no attributes: CVAT refuses those that a task does not define."""
    used = dict.fromkeys(one.category for photo in labels.photos for one in photo.labels)
    known = "".join(f"<label><name>{escape(name)}</name></label>" for name in used)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        "<annotations>",
        "  <version>1.1</version>",
        f"  <meta><task><labels>{known}</labels></task></meta>",
    ]
    for number, photo in enumerate(labels.photos):
        height, width = photo.size_hw
        lines.append(
            f'  <image id="{number}" name={quoteattr(photo.file)} width="{width}" height="{height}">'
        )
        lines += [_box(label) for label in photo.labels]
        lines.append("  </image>")
    return "\n".join([*lines, "</annotations>"]) + "\n"


def _box(label: Label) -> str:
    x0, y0, x1, y1 = label.box_xyxy
    return (
        f'    <box label={quoteattr(label.category)} source="auto" occluded="0" '
        f'xtl="{x0:.2f}" ytl="{y0:.2f}" xbr="{x1:.2f}" ybr="{y1:.2f}" z_order="0"/>'
    )
