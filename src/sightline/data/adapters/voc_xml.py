"""PASCAL VOC's XML, also used by ILSVRC: an image's size and its objects, with their line numbers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sightline.data.adapters.xml_events import XmlEvents
from sightline.data.reading import Box, at, four_numbers, whole
from sightline.errors import InputError

_CORNERS = ("bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax")


@dataclass(frozen=True)
class XmlObject:
    """One object: ``corners`` xmin, ymin, xmax, ymax as written, both ends inclusive."""

    name: str
    corners: Box
    difficult: bool
    where: str


@dataclass(frozen=True)
class XmlAnnotation:
    """One annotation file; ``size_hw`` is None if the file gives none, or zero."""

    size_hw: tuple[int, int] | None
    objects: tuple[XmlObject, ...]


class _Reader(XmlEvents):
    """Collects the text of each tag by its path, so that an object's parts are kept separate from it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.head: dict[str, str] = {}
        self.objects: list[tuple[int, dict[str, str]]] = []

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        if self.tags[1:] == ["object"]:
            self.objects.append((self.line, {}))

    def finish(self, tag: str) -> None:
        if self.tags[1:2] == ["object"]:
            self.objects[-1][1]["/".join(self.tags[2:])] = self.text.strip()
        else:
            self.head["/".join(self.tags[1:])] = self.text.strip()


def read_voc_xml(path: Path) -> XmlAnnotation:
    """Read one annotation file. Raises `InputError` naming the line of what is missing or malformed."""
    reader = _Reader(path)
    if not os.path.lexists(path):
        raise InputError(f"{path} is missing")
    reader.parse()
    return XmlAnnotation(_size(reader.head, path), tuple(_object(path, *found) for found in reader.objects))


def _size(head: dict[str, str], path: Path) -> tuple[int, int] | None:
    if "size/width" not in head or "size/height" not in head:
        return None
    height = whole(head["size/height"], str(path), "size/height")
    width = whole(head["size/width"], str(path), "size/width")
    return (height, width) if height > 0 and width > 0 else None


def _object(path: Path, line: int, tags: dict[str, str]) -> XmlObject:
    where = at(path, line)
    missing = [tag for tag in ("name", *_CORNERS) if tag not in tags]
    if missing:
        raise InputError(f"{where}: this object has no <{missing[0].replace('/', '><')}>")
    corners = four_numbers([tags[tag] for tag in _CORNERS], where, "xmin ymin xmax ymax")
    return XmlObject(tags["name"], corners, tags.get("difficult", "0") == "1", where)
