"""YOLO (ultralytics): data.yaml, photos in images/, one text file of boxes per photo in labels/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sightline.data.adapters.folder import is_image
from sightline.data.images import photo_size
from sightline.data.reading import Box, BoxCheck, at, boxes_tensor, finish, read_text, whole
from sightline.data.registry import register_dataset
from sightline.errors import InputError, unknown
from sightline.files import read_yaml, reader
from sightline.types import Dataset, Sample

_SPLITS = ("train", "val", "test")


def recognise(root: Path) -> bool:
    """Whether ``root`` looks like YOLO's layout."""
    return (root / "data.yaml").is_file()


@register_dataset("yolo", recognise=recognise, order=70)
@reader
def read_yolo(
    root: str | Path, split: str = "val", *, bad_boxes: str = "refuse", allow_empty: bool = False
) -> Dataset:
    """Read YOLO's layout: one sample per photo and class present, with id ``FILE:CLASS``.

    ``root/data.yaml`` names the classes and, for each split, a folder, a text file that lists photos, or several of
    them. A photo ``…/images/…/a.jpg`` has its boxes in ``…/labels/…/a.txt``: a line ``class x y w h`` per box, centre
    and size as shares of the photo, or ``class x1 y1 x2 y2 x3 y3 …`` for a polygon, whose bounding box counts. A photo
    without that file, or with an empty one, gives no sample. Raises `InputError` naming file and line.

    >>> read_yolo("nowhere")
    Traceback (most recent call last):
    sightline.errors.InputError: no such file or folder: 'nowhere/data.yaml' (. has no 'nowhere')
    """
    path = Path(root) / "data.yaml"
    about = read_yaml(path)
    if not isinstance(about, dict):
        raise InputError(f"{path}: expected names and splits, got {about!r:.80}")
    names = _names(about.get("names"), path)
    check, samples = BoxCheck(bad_boxes), []
    for name, photo in _photos(about, path, split):
        for label, boxes in sorted(_boxes(photo, len(names), check).items()):
            samples.append(Sample(f"{name}:{names[label]}", photo, label, boxes_tensor(boxes)))
    return finish(Dataset("yolo", split, samples, names), path, check, allow_empty=allow_empty)


def _names(given: Any, path: Path) -> tuple[str, ...]:
    """The class names: a list, or a mapping from 0, 1, … to names."""
    if isinstance(given, dict) and list(given) == list(range(len(given))):
        given = list(given.values())
    if not isinstance(given, list) or not given:
        raise InputError(f"{path}: expected names: a list, or a mapping from 0, 1, …; got {given!r:.80}")
    return tuple(map(str, given))


def _photos(about: dict[str, Any], path: Path, split: str) -> list[tuple[str, Path]]:
    """The photos of a split: name below their folder, and path."""
    if not about.get(split):
        raise unknown("split", split, [name for name in _SPLITS if about.get(name)], hint=f"(in {path})")
    base = path.parent / str(about.get("path") or "")
    base = (
        base if base.is_dir() else path.parent
    )  # ``path`` is often that of the machine where the set was made
    places = about[split] if isinstance(about[split], list) else [about[split]]
    found: list[tuple[str, Path]] = []
    for place in places:
        where = base / str(place)
        if where.is_dir():
            photos = sorted(photo for photo in where.rglob("*") if is_image(photo))
            found += [(photo.relative_to(where).as_posix(), photo) for photo in photos]
        elif where.suffix == ".txt":
            found += _listed(where, base)
        else:
            raise InputError(f"{path}: {split}: {where} is neither a folder nor a .txt list of photos")
    return found


def _listed(path: Path, base: Path) -> list[tuple[str, Path]]:
    """The photos of a list: one path per line, relative to the data set, or to the list if it begins with ``./``."""
    found = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if name := line.strip():
            photo = (path.parent if name.startswith("./") else base) / name
            if not photo.is_file():
                raise InputError(f"{at(path, number)}: {photo} is missing")
            found.append((PurePosixPath(name).as_posix(), photo))
    return found


def _boxes(photo: Path, classes: int, check: BoxCheck) -> dict[int, list[Box]]:
    """The boxes of a photo by class, in pixels."""
    path = _label_file(photo)
    text = read_text(path) if path.is_file() else ""
    height, width = photo_size(photo) if text.strip() else (0, 0)
    found: dict[int, list[Box]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (fields := line.split()):
            continue
        where = at(path, number)
        label = whole(fields[0], where, "class")
        if not 0 <= label < classes:
            raise InputError(f"{where}: class {label}; expected 0 to {classes - 1}, as in data.yaml's names")
        x0, y0, x1, y1 = _corners(fields[1:], where)
        box = check.keep((x0 * width, y0 * height, x1 * width, y1 * height), (height, width), where)
        found.setdefault(label, []).extend([box] if box else [])
    return found


def _corners(fields: Sequence[str], where: str) -> Box:
    """Shares x0, y0, x1, y1 of ``x y w h`` or of a polygon.

    >>> _corners("0.5 0.5 0.5 1".split(), "")
    (0.25, 0.0, 0.75, 1.0)
    >>> _corners("0.2 0.1 0.8 0.1 0.5 0.9".split(), "")
    (0.2, 0.1, 0.8, 0.9)
    """
    try:
        values = [float(field) for field in fields]
    except ValueError:
        values = []
    if len(values) == 4:
        x, y, w, h = values
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2
    if len(values) < 6 or len(values) % 2:
        shown = " ".join(fields)
        raise InputError(
            f"{where}: expected class x y w h, or a polygon of three points or more; got {shown!r:.80}"
        )
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])


def _label_file(photo: Path) -> Path:
    """``labels`` in place of the last ``images`` of the path, and .txt.

    >>> _label_file(Path("set/images/val/a.jpg")).as_posix()
    'set/labels/val/a.txt'
    """
    parts = list(photo.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")
