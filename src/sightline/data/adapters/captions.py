"""Images with captions: COCO's JSON (Chen et al. 2015), or a CSV with the columns image and caption."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from sightline.data.adapters.coco import image_folder
from sightline.data.reading import Files, at, read_text
from sightline.data.records import field, read_lists, records
from sightline.errors import InputError
from sightline.files import reader


@dataclass(frozen=True)
class CaptionedImage:
    """One image with all its captions; ``id`` is its name in the captions file."""

    id: str
    source: Path
    captions: tuple[str, ...]


@reader
def read_captions(path: str | Path, images: str | Path | None = None) -> list[CaptionedImage]:
    """Read all images with captions, in the order of the file.

    ``path``: COCO's ``annotations/captions_{split}YYYY.json``, or a CSV whose header names ``image`` and
    ``caption`` (one caption per line; an image may have several). ``images``: the image folder; by default COCO's
    (``../{split}YYYY`` or ``../images/{split}YYYY``), or the CSV's own. Raises `InputError` naming the record or line
    that is malformed or missing.

    >>> read_captions("captions.txt")
    Traceback (most recent call last):
    sightline.errors.InputError: captions.txt: captions are read from .json (COCO) or .csv (image,caption)
    """
    path = Path(path)
    if path.suffix.lower() not in (".json", ".csv"):
        raise InputError(f"{path}: captions are read from .json (COCO) or .csv (image,caption)")
    read = _coco if path.suffix.lower() == ".json" else _csv
    captions_of: dict[str, list[str]] = {}
    first_at: dict[str, str] = {}
    for name, caption, where in read(path):
        captions_of.setdefault(name, []).append(caption)
        first_at.setdefault(name, where)
    if not captions_of:
        raise InputError(f"{path} has no caption")
    folder, files = _folder(path, images), Files()
    return [
        CaptionedImage(name, files.require(folder / name, first_at[name]), tuple(captions))
        for name, captions in captions_of.items()
    ]


def _folder(path: Path, images: str | Path | None) -> Path:
    if images is not None:
        if not Path(images).is_dir():
            raise InputError(f"{images}: no such image folder")
        return Path(images)
    if path.suffix.lower() == ".csv":
        return path.parent
    return image_folder(path.parent.parent, path, "captions_")


def _coco(path: Path) -> list[tuple[str, str, str]]:
    """(file name, caption, location) of each caption in COCO's JSON."""
    lists = read_lists(path, "images", "annotations")
    names = {
        field(record, "id", int, where): field(record, "file_name", str, where)
        for where, record in records(path, "images", lists["images"])
    }
    found = []
    for where, record in records(path, "annotations", lists["annotations"]):
        image = field(record, "image_id", int, where)
        if image not in names:
            raise InputError(f"{where}: image_id {image} is not among the images")
        found.append((names[image], field(record, "caption", str, where), where))
    return found


def _csv(path: Path) -> list[tuple[str, str, str]]:
    """(image, caption, location) of each caption in a CSV."""
    reader = csv.reader(read_text(path).splitlines(keepends=True))
    header = [name.strip().lower() for name in next(reader, [])]
    if not {"image", "caption"} <= set(header):
        raise InputError(
            f"{at(path, 1)}: expected a header with 'image' and 'caption', got {','.join(header)!r:.200}"
        )
    image, caption = header.index("image"), header.index("caption")
    found = []
    for row in reader:
        where = at(path, reader.line_num)
        if not row:
            continue
        if len(row) != len(header) or not row[image].strip():
            raise InputError(
                f"{where}: expected {len(header)} columns ({','.join(header)}), got {','.join(row)!r:.200}"
            )
        found.append((row[image].strip(), row[caption].strip(), where))
    return found
