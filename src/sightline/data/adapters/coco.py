"""COCO (Lin et al. 2014): several classes per photo, all boxes in one JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sightline.data.reading import Box, BoxCheck, Files, boxes_tensor, finish, four_numbers
from sightline.data.records import field, read_lists
from sightline.data.records import records as numbered
from sightline.data.registry import register_dataset
from sightline.errors import InputError, unknown
from sightline.files import reader
from sightline.types import Dataset, Sample


def recognise(root: Path) -> bool:
    """Whether ``root`` looks like COCO."""
    return any((root / "annotations").glob("instances_*.json"))


@register_dataset("coco", recognise=recognise, order=50)
@reader
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
    """Read COCO's instances: one sample per image and category present, with id ``FILE:CATEGORY``.

    The official layout is ``root/annotations/instances_{split}YYYY.json`` with the images in
    ``root/{split}YYYY`` or ``root/images/{split}YYYY``; ``annotations`` and ``images`` (relative to ``root``)
    give another file and folder. Labels number the category ids in order, without gaps. A ``bbox`` is x, y, width,
    height in pixel edges. Crowd regions are skipped unless ``keep_crowds``. Messages name the record, such as
    ``annotations[3]``, since JSON has no useful line numbers. Raises `InputError`.

    >>> read_coco("nowhere")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere/annotations has no instances_val*.json
    """
    root = Path(root)
    path = root / annotations if annotations else _find(root, split)
    lists = read_lists(path, "images", "annotations", "categories")
    records = {name: list(numbered(path, name, entries)) for name, entries in lists.items()}
    folder = root / images if images else image_folder(root, path)
    categories = sorted(
        (field(c, "id", int, w), str(field(c, "name", str, w))) for w, c in records["categories"]
    )
    labels = {key: label for label, (key, _) in enumerate(categories)}
    names, check, files = tuple(name for _, name in categories), BoxCheck(bad_boxes), Files()
    for name in ("images", "categories"):
        _refuse_twice(records[name])
    photos = {field(photo, "id", int, where): (photo, where) for where, photo in records["images"]}
    boxes: dict[tuple[int, int], list[Box]] = {}
    for where, record in records["annotations"]:
        image, category = field(record, "image_id", int, where), field(record, "category_id", int, where)
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
        name = field(photo, "file_name", str, where)
        source = files.require(folder / name, where)
        samples.append(Sample(f"{name}:{names[label]}", source, label, boxes_tensor(boxes[image, label])))
    return finish(Dataset("coco", split, samples, names), path, check, allow_empty=allow_empty)


def _find(root: Path, split: str) -> Path:
    folder = root / "annotations"
    found = sorted(folder.glob(f"instances_{split}[0-9]*.json")) or sorted(
        folder.glob(f"instances_{split}.json")
    )
    splits = sorted(path.stem.removeprefix("instances_") for path in folder.glob("instances_*.json"))
    if not found and splits:
        raise unknown("split", split, splits, hint=f"(in {folder})")
    if not found:
        raise InputError(f"{folder} has no instances_{split}*.json")
    if len(found) > 1:
        raise InputError(
            f"{folder} has several: {', '.join(p.name for p in found)}; choose one with annotations="
        )
    return found[0]


def image_folder(root: Path, path: Path, prefix: str = "instances_") -> Path:
    """COCO's image folder for an annotation file named PREFIX + folder name."""
    name = path.stem.removeprefix(prefix)
    return next((folder for folder in (root / name, root / "images" / name) if folder.is_dir()), root / name)


def _refuse_twice(entries: Sequence[tuple[str, dict[str, Any]]]) -> None:
    first: dict[int, str] = {}
    for where, record in entries:
        identity = field(record, "id", int, where)
        if identity in first:
            raise InputError(f"{where}: id {identity} is already that of {first[identity]}")
        first[identity] = where


def _size(photo: dict[str, Any], where: str) -> tuple[int, int]:
    return field(photo, "height", int, where), field(photo, "width", int, where)


def _xyxy(record: dict[str, Any], where: str) -> Box:
    values = field(record, "bbox", list, where)
    x, y, width, height = four_numbers([str(value) for value in values], where, "x y width height")
    return x, y, x + width, y + height
