"""Class folders, optionally with boxes in a CSV: the layout for your own photos."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from pathlib import Path

from sightline.data.items import IMAGE_SUFFIXES
from sightline.data.reading import Box, BoxCheck, at, boxes_tensor, finish, four_numbers
from sightline.data.registry import register_dataset
from sightline.errors import InputError, unknown
from sightline.files import read_text, reader, reading
from sightline.types import Dataset, Sample

_HEADERS = (["file", "x0", "y0", "x1", "y1"], ["file", "x0", "y0", "x1", "y1", "class"])


def has_class_folders(root: Path) -> bool:
    """Whether some subfolder of ``root`` directly contains images."""
    return root.is_dir() and any(
        child.is_dir() and any(is_image(path) for path in child.iterdir()) for child in root.iterdir()
    )


def recognise(root: Path) -> bool:
    """Whether ``root`` looks like class folders, with or without splits."""
    return has_class_folders(root) or any(
        has_class_folders(root / split) for split in ("train", "val", "test")
    )


@register_dataset("folder", recognise=recognise, order=90)
@reader
def read_folder(
    root: str | Path, split: str = "val", *, bad_boxes: str = "refuse", allow_empty: bool = False
) -> Dataset:
    """Read class folders: ``root/split/class/*.jpg``, or ``root/class/*.jpg`` without splits.

    Labels follow the sorted class names, those of ``root/train`` if it exists, so that splits agree. Without splits
    everything is read, as split ``all``. Boxes may be in ``root/split/boxes.csv`` or ``root/boxes.csv``: header
    ``file,x0,y0,x1,y1`` and optionally ``,class``; ``file`` is relative to the CSV; half-open pixel edges. Boxes of
    other classes than their image's folder are dropped. The CSV gives no image sizes: see `BoxCheck` for what is
    checked. Raises `InputError`.

    >>> read_folder("nowhere")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere: no such folder
    """
    root = Path(root)
    top, split = _top(root, split)
    categories = _categories(root / "train" if split != "all" and (root / "train").is_dir() else top)
    strangers = sorted(set(_categories(top)) - set(categories))
    if strangers:
        raise unknown(
            "class",
            strangers[0],
            categories,
            hint=f"({top / strangers[0]} has no folder in {root / 'train'})",
        )
    labels = {
        path: label for label, name in enumerate(categories) for path in _images(top / name, allow_empty)
    }
    check = BoxCheck(bad_boxes)
    boxes: dict[Path, list[Box]] = defaultdict(list)
    for table in {top / "boxes.csv", root / "boxes.csv"}:
        if table.is_file():
            _read_boxes(table, labels, categories, check, boxes)
    samples = [
        Sample(path.relative_to(top).as_posix(), path, label, boxes_tensor(boxes[path]))
        for path, label in labels.items()
    ]
    return finish(Dataset("folder", split, samples, categories), root, check, allow_empty=allow_empty)


def _top(root: Path, split: str) -> tuple[Path, str]:
    """The folder with the class folders, and the name of its split."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    if has_class_folders(root / split):
        return root / split, split
    if has_class_folders(root):
        return root, "all"
    splits = sorted(child.name for child in root.iterdir() if has_class_folders(child))
    if splits:
        raise unknown("split", split, splits, hint=f"(in {root})")
    raise InputError(
        f"{root} has no class folders with images; expected {split}/CLASS/*.jpg or CLASS/*.jpg in it"
    )


def _categories(top: Path) -> tuple[str, ...]:
    return tuple(sorted(child.name for child in top.iterdir() if child.is_dir() and child.name[0] != "."))


def is_image(path: Path) -> bool:
    """Whether a path has a picture's ending and is not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."


def _images(folder: Path, allow_empty: bool) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if is_image(path)) if folder.is_dir() else []
    if not found and not allow_empty:
        raise InputError(
            f"class folder {folder} has no image; allow_empty=True keeps it (--data-option allow_empty=true)"
        )
    return found


def _read_boxes(
    table: Path,
    labels: dict[Path, int],
    categories: tuple[str, ...],
    check: BoxCheck,
    boxes: dict[Path, list[Box]],
) -> None:
    reader = csv.reader(io.StringIO(read_text(table), newline=""))
    with reading(table):
        header = next(reader, [])
        if header not in _HEADERS:
            raise InputError(
                f"{at(table, 1)}: expected the header 'file,x0,y0,x1,y1[,class]', got {','.join(header)!r:.200}"
            )
        for row in reader:
            where = at(table, reader.line_num)
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(
                    f"{where}: expected {len(header)} columns ({','.join(header)}), got {len(row)}"
                )
            path = table.parent / row[0]
            if path not in labels:
                if not path.is_file():
                    raise InputError(f"{where}: {path} is missing")
                continue  # an image of another split: one table may cover all of them
            if len(row) == 6 and row[5] not in categories:
                raise unknown("class", row[5], categories, hint=f"({where})")
            box = check.keep(four_numbers(row[1:5], where), None, where)
            if box and (len(row) == 5 or categories.index(row[5]) == labels[path]):
                boxes[path].append(box)
