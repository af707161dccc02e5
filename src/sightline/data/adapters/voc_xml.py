"""PASCAL VOC's XML, also used by ILSVRC: an image's size and its objects, with their line numbers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

from sightline.data.reading import Box, at, four_numbers, whole
from sightline.errors import InputError
from sightline.files import DEEPEST, MOST_XML_BYTES, read_bytes, reading

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


class _Reader:
    """Collects the text of each tag by its path, so that an object's parts are kept separate from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.data
        self.parser.EntityDeclHandler = self.entity
        self.tags: list[str] = []
        self.text = ""
        self.head: dict[str, str] = {}
        self.objects: list[tuple[int, dict[str, str]]] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self.tags) == DEEPEST:
            raise InputError(
                f"{at(self.path, self.parser.CurrentLineNumber)}: nested more than {DEEPEST} levels deep"
            )
        self.tags.append(tag)
        self.text = ""
        if self.tags[1:] == ["object"]:
            self.objects.append((self.parser.CurrentLineNumber, {}))

    def entity(self, *_: object) -> None:
        raise InputError(f"{self.path} declares an entity; expected plain XML")

    def data(self, text: str) -> None:
        self.text += text

    def end(self, tag: str) -> None:
        if self.tags[1:2] == ["object"]:
            self.objects[-1][1]["/".join(self.tags[2:])] = self.text.strip()
        else:
            self.head["/".join(self.tags[1:])] = self.text.strip()
        self.tags.pop()
        self.text = ""


def read_voc_xml(path: Path) -> XmlAnnotation:
    """Read one annotation file. Raises `InputError` naming the line of what is missing or malformed."""
    reader = _Reader(path)
    if not os.path.lexists(path):
        raise InputError(f"{path} is missing")
    content = read_bytes(path, MOST_XML_BYTES, "an XML file")
    with reading(path):
        try:
            reader.parser.Parse(content, True)
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            raise InputError(f"{at(path, error.lineno)}: not well-formed XML ({reason})") from None
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
