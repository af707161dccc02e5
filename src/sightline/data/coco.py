"""COCO (Lin et al. 2014): several classes in one photo, boxes in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.data.reading import Box, BoxCheck, Files, at, boxes_tensor, finish, four_numbers, read_text
from sightline.errors import InputError, unknown
from sightline.types import Dataset, Sample


def read_coco(
    root: str | Path,
    split: str = "val",
    *,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    keep_crowds: bool = False,
    bad_boxes: str = "refuse",
    allow_empty: bool = False,
) -> Dataset:
    """Read COCO's instances: one sample for each image and category present, called ``FILE:CATEGORY``.

    The official layout is ``root/annotations/instances_{split}YYYY.json`` with the images in
    ``root/{split}YYYY`` or ``root/images/{split}YYYY``; ``annotations`` and ``images`` (relative to ``root``)
    name another file and folder. Labels follow the category ids, in order, without their gaps. A ``bbox`` is
    x, y, width, height in pixel edges. Crowd regions are left out unless ``keep_crowds``. The JSON has no
    useful lines, so messages name the record: ``annotations[3]``. Raises `InputError`.

    >>> read_coco("nowhere")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere/annotations holds no instances_val*.json
    """
    root = Path(root)
    path = root / annotations if annotations else _find(root, split)
    records = {name: list(_records(path, content)) for name, content in _load(path).items()}
    folder = root / images if images else _image_folder(root, path)
    categories = sorted(
        (_get(c, "id", int, w), str(_get(c, "name", str, w))) for w, c in records["categories"]
    )
    labels = {key: label for label, (key, _) in enumerate(categories)}
    names, check, files = tuple(name for _, name in categories), BoxCheck(bad_boxes), Files()
    photos = {_get(photo, "id", int, where): (photo, where) for where, photo in records["images"]}
    boxes: dict[tuple[int, int], list[Box]] = {}
    for where, record in records["annotations"]:
        image, category = _get(record, "image_id", int, where), _get(record, "category_id", int, where)
        if image not in photos:
            raise InputError(f"{where}: image_id {image} is not among the images")
        if category not in labels:
            raise InputError(f"{where}: category_id {category} is not among the categories")
        box = check.keep(_xyxy(record, where), _size(*photos[image]), where)
        if keep_crowds or not record.get("iscrowd"):
            boxes.setdefault((image, labels[category]), []).extend([box] if box else [])
    samples = []
    for image, label in sorted(boxes):
        photo, where = photos[image]
        name = _get(photo, "file_name", str, where)
        source = files.require(folder / name, where)
        samples.append(Sample(f"{name}:{names[label]}", source, label, boxes_tensor(boxes[image, label])))
    return finish(Dataset("coco", split, samples, names), path, check, allow_empty=allow_empty)


def recognise(root: Path) -> bool:
    """Whether ``root`` looks like COCO."""
    return any((root / "annotations").glob("instances_*.json"))


def _find(root: Path, split: str) -> Path:
    folder = root / "annotations"
    found = sorted(folder.glob(f"instances_{split}[0-9]*.json")) or sorted(
        folder.glob(f"instances_{split}.json")
    )
    splits = sorted(path.stem.removeprefix("instances_") for path in folder.glob("instances_*.json"))
    if not found and splits:
        raise unknown("split", split, splits, hint=f"(in {folder})")
    if not found:
        raise InputError(f"{folder} holds no instances_{split}*.json")
    if len(found) > 1:
        raise InputError(f"{folder} holds several: {', '.join(p.name for p in found)}; give annotations=")
    return found[0]


def _image_folder(root: Path, path: Path) -> Path:
    name = path.stem.removeprefix("instances_")
    return next((folder for folder in (root / name, root / "images" / name) if folder.is_dir()), root / name)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{at(path, error.lineno)}, column {error.colno}: not JSON ({error.msg})") from None
    parts = ("images", "annotations", "categories")
    missing = [
        part for part in parts if not isinstance(content, dict) or not isinstance(content.get(part), list)
    ]
    if missing:
        raise InputError(f"{path} has no list {missing[0]!r}; expected {', '.join(parts)}")
    return {part: (part, content[part]) for part in parts}


def _records(path: Path, part: tuple[str, list[Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Records with where they stand."""
    name, records = part
    for index, record in enumerate(records):
        where = f"{path}, {name}[{index}]"
        if not isinstance(record, dict):
            raise InputError(f"{where}: expected an object, got {type(record).__name__}")
        yield where, record


def _get(record: dict[str, Any], key: str, kind: type, where: str) -> Any:
    if not isinstance(record.get(key), kind):
        raise InputError(f"{where}: expected {key!r} as {kind.__name__}, got {record.get(key)!r}")
    return record[key]


def _size(photo: dict[str, Any], where: str) -> tuple[int, int]:
    return _get(photo, "height", int, where), _get(photo, "width", int, where)


def _xyxy(record: dict[str, Any], where: str) -> Box:
    values = _get(record, "bbox", list, where)
    x, y, width, height = four_numbers([str(value) for value in values], where, "x y width height")
    return x, y, x + width, y + height
