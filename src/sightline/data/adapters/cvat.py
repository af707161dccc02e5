"""CVAT's XML 1.1 "for images": one file for all photos, boxes and outlines with pixel edges."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sightline.data.adapters.xml_events import XmlEvents
from sightline.data.reading import (
    Box,
    BoxCheck,
    at,
    boxes_tensor,
    enclosing,
    finish,
    four_numbers,
    turned,
    whole,
)
from sightline.data.registry import register_dataset
from sightline.errors import InputError, unknown
from sightline.files import reader
from sightline.types import Dataset, Sample

_PLACES = (
    "images",
    "",
)  # "images" in an export with photos; beside the file as `sightline boxes --copy-photos` does
_OUTLINES = ("polygon", "polyline", "points")


def recognise(root: Path) -> bool:
    """Whether ``root`` looks like an export of CVAT."""
    return (root / "annotations.xml").is_file()


@register_dataset("cvat", recognise=recognise, order=75)
@reader
def read_cvat(
    root: str | Path, split: str = "all", *, bad_boxes: str = "refuse", allow_empty: bool = False
) -> Dataset:
    """Read an export "CVAT for images 1.1": one sample per photo and class present, with id ``FILE:CLASS``.

    ``root/annotations.xml`` lists the photos, which lie in ``root/images`` (by subset, if there are any) or beside it.
    Boxes are half-open pixel edges. Of a rotated box and of an outline the enclosing upright box counts; masks and
    skeletons are refused. ``split``: a subset, or ``all``, as which everything is read where there are none. Classes
    are those of the task, in its order. Raises `InputError` naming file and line.

    >>> read_cvat("nowhere")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere/annotations.xml is missing
    """
    path = Path(root) / "annotations.xml"
    if not os.path.lexists(path):
        raise InputError(f"{path} is missing")
    export = _Reader(path)
    export.parse()
    names = tuple(dict.fromkeys(export.names))
    subsets = sorted({photo.subset for photo in export.photos if photo.subset})
    if not subsets:
        split = "all"
    elif split not in (*subsets, "all"):
        raise unknown("split", split, [*subsets, "all"], hint=f"(in {path})")
    check, samples = BoxCheck(bad_boxes), []
    for photo in export.photos:
        if split in (photo.subset, "all"):
            file = _find(path.parent, photo)
            for label, boxes in sorted(_by_class(photo, names, check).items()):
                samples.append(Sample(f"{photo.file}:{names[label]}", file, label, boxes_tensor(boxes)))
    return finish(Dataset("cvat", split, samples, names), path, check, allow_empty=allow_empty)


@dataclass
class _Photo:
    """One ``<image>``: its boxes are (class, corners, where)."""

    file: str
    subset: str
    size_hw: tuple[int, int]
    where: str
    boxes: list[tuple[str, Box, str]] = field(default_factory=list)


class _Reader(XmlEvents):
    """Collects the task's classes and the photos."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.names: list[str] = []
        self.photos: list[_Photo] = []

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        where = at(self.path, self.line)
        if self.tags == ["annotations", "track"]:
            raise InputError(f"{where}: a video's tracks; expected an export as CVAT for images 1.1")
        if self.tags == ["annotations", "image"]:
            size = tuple(whole(_get(attributes, name, where), where, name) for name in ("height", "width"))
            subset = attributes.get("subset", "")
            self.photos.append(_Photo(_get(attributes, "name", where), subset, (size[0], size[1]), where))
        elif self.tags[:-1] == ["annotations", "image"] and tag != "tag":
            box = _box(tag, attributes, where)
            self.photos[-1].boxes.append((_get(attributes, "label", where), box, where))

    def finish(self, tag: str) -> None:
        if self.tags[-3:] == ["labels", "label", "name"]:
            self.names.append(self.text.strip())


def _get(attributes: dict[str, str], name: str, where: str) -> str:
    if name not in attributes:
        raise InputError(f"{where}: {name!r} is missing")
    return attributes[name]


def _box(tag: str, attributes: dict[str, str], where: str) -> Box:
    """The upright box round a shape."""
    if tag == "box":
        corners = [_get(attributes, name, where) for name in ("xtl", "ytl", "xbr", "ybr")]
        box = four_numbers(corners, where, "xtl ytl xbr ybr")
        turn = four_numbers([attributes.get("rotation", "0")] * 4, where, "rotation")[0]
        return turned(box, turn, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
    if tag in _OUTLINES:
        pairs = [point.split(",") for point in _get(attributes, "points", where).split(";")]
        points = [four_numbers([*pair, *pair], where, "x y x y") for pair in pairs]
        return enclosing([point[:2] for point in points])
    raise InputError(f"{where}: <{tag}>; expected boxes, polygons, polylines or points")


def _by_class(photo: _Photo, names: Sequence[str], check: BoxCheck) -> dict[int, list[Box]]:
    found: dict[int, list[Box]] = {}
    for name, box, where in photo.boxes:
        if name not in names:
            raise unknown("class", name, names, hint=f"({where})")
        kept = check.keep(box, photo.size_hw, where)
        found.setdefault(names.index(name), []).extend([kept] if kept else [])
    return found


def _find(root: Path, photo: _Photo) -> Path:
    for place in _PLACES:
        for subset in (photo.subset, ""):
            path = root / place / subset / photo.file
            if path.is_file():
                return path
    raise InputError(f"{photo.where}: {root / 'images' / photo.subset / photo.file} is missing")
