"""Polygons in LabelMe's XML (Russell et al. 2008), the format of SUN's object annotations."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw

from sightline.data.reading import read_text
from sightline.errors import InputError
from sightline.files import DEEPEST, MOST_XML_BYTES, check_size, reader, reading

Polygons = dict[str, list[list[tuple[float, float]]]]


class _Bounded(ET.TreeBuilder):
    """A tree of at most `DEEPEST` levels."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.level = path, 0

    def start(self, tag: Any, attributes: Any, /) -> ET.Element:
        self.level += 1
        if self.level > DEEPEST:
            raise InputError(f"{self.path}: nested more than {DEEPEST} levels deep")
        return super().start(tag, attributes)

    def end(self, tag: Any, /) -> ET.Element:
        self.level -= 1
        return super().end(tag)


@reader
def read_polygons(path: Path) -> Polygons:
    """Object name -> outlines, each of three or more points (x, y) in pixels; deleted objects are skipped.

    Raises `InputError` for a file that is not XML and for a polygon with fewer than three points.

    >>> read_polygons(Path("nowhere.xml"))
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere.xml is missing
    """
    text = read_text(path).strip()
    check_size(str(path), len(text), MOST_XML_BYTES)
    if "<!ENTITY" in text:
        raise InputError(f"{path} declares an entity; expected plain XML")
    with reading(path):
        try:
            tree = ET.fromstring(text, ET.XMLParser(target=_Bounded(path)))
        except ET.ParseError as error:
            raise InputError(f"{path}: not XML ({error})") from None
    found: Polygons = {}
    for number, entry in enumerate(tree.iter("object"), 1):
        name, outline = (entry.findtext("name") or "").strip().lower(), entry.find("polygon")
        if (entry.findtext("deleted") or "0").strip() == "1" or not name or outline is None:
            continue
        where = f"{path}, object {number}"
        points = [(_number(pt, "x", where), _number(pt, "y", where)) for pt in outline.iter("pt")]
        if len(points) < 3:
            raise InputError(f"{where}: its polygon has {len(points)} points; expected 3 or more")
        found.setdefault(name, []).append(points)
    return found


def _number(point: ET.Element, axis: str, where: str) -> float:
    text = (point.findtext(axis) or "").strip()
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{where}: expected a number for {axis}, got {text!r}") from None


def polygon_mask(outlines: list[list[tuple[float, float]]], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels (H, W) inside any of the outlines.

    >>> polygon_mask([[(0, 0), (1, 0), (1, 1), (0, 1)]], (2, 3)).astype(int)
    array([[1, 1, 0],
           [1, 1, 0]])
    """
    picture = PIL.Image.new("1", (size_hw[1], size_hw[0]))
    for outline in outlines:
        ImageDraw.Draw(picture).polygon(outline, fill=1)
    return np.asarray(picture, dtype=np.bool_)
