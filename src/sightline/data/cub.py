"""CUB-200-2011 (Wah et al. 2011): 200 kinds of birds, one bird and one box in each photo."""

from __future__ import annotations

from pathlib import Path

from sightline.data.reading import BoxCheck, Files, at, boxes_tensor, finish, four_numbers, keyed, whole
from sightline.errors import InputError, unknown
from sightline.types import Dataset, Sample

_FLAGS = {"train": "1", "test": "0"}


def read_cub(
    root: str | Path, split: str = "test", *, bad_boxes: str = "refuse", allow_empty: bool = False
) -> Dataset:
    """Read CUB-200-2011 from ``root`` or ``root/CUB_200_2011``; ``split`` is ``train`` or ``test``.

    There is no official ``val``: hold out a part of ``train`` where something is to be chosen. Labels are the
    class numbers of ``classes.txt`` less one; ``001.Black_footed_Albatross`` is called ``Black footed
    Albatross``. Boxes ``x y width height`` are taken as edges: x0 = x, x1 = x + width. Image sizes are not in
    the files: see `BoxCheck`. A folder ``segmentations`` inside or beside gives each sample its mask, whose
    grey is the annotators' agreement (0 none, 255 all). Raises `InputError` that names file and line.

    >>> read_cub("nowhere")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere/images.txt is missing
    """
    if split not in _FLAGS:
        raise unknown("split", split, _FLAGS, hint="(CUB has no val: hold out a part of train)")
    top = find_top(Path(root))
    names = keyed(top / "images.txt", "id file")
    classes = keyed(top / "classes.txt", "id name")
    labels = {key: label for label, key in enumerate(classes)}
    columns = {
        file: _all_images(top / file, columns, names)
        for file, columns in (
            ("image_class_labels.txt", "id class"),
            ("train_test_split.txt", "id is_training"),
            ("bounding_boxes.txt", "id x y width height"),
        )
    }
    check, files, samples = BoxCheck(bad_boxes), Files(), []
    masks = next(
        (folder for folder in (top / "segmentations", top.parent / "segmentations") if folder.is_dir()), None
    )
    for key, (line, (name,)) in names.items():
        flag_line, (flag,) = columns["train_test_split.txt"][key]
        if flag not in ("0", "1"):
            raise InputError(f"{at(top / 'train_test_split.txt', flag_line)}: expected 0 or 1, got {flag!r}")
        if flag != _FLAGS[split]:
            continue
        image = files.require(top / "images" / name, at(top / "images.txt", line))
        label_line, (class_id,) = columns["image_class_labels.txt"][key]
        if class_id not in labels:
            where = at(top / "image_class_labels.txt", label_line)
            raise InputError(f"{where}: class {class_id!r} is not in {top / 'classes.txt'}")
        box_line, fields = columns["bounding_boxes.txt"][key]
        where = at(top / "bounding_boxes.txt", box_line)
        x, y, width, height = four_numbers(fields, where, "x y width height")
        box = check.keep((x, y, x + width, y + height), None, where)
        mask = masks and files.require((masks / name).with_suffix(".png"), at(top / "images.txt", line))
        samples.append(
            Sample(name, image, labels[class_id], boxes_tensor([box] if box else []), (mask,) if mask else ())
        )
    categories = tuple(name.split(".", 1)[-1].replace("_", " ") for _, (name,) in classes.values())
    return finish(Dataset("cub", split, samples, categories), top, check, allow_empty=allow_empty)


def find_top(root: Path) -> Path:
    """The folder that holds ``images.txt``."""
    inner = root / "CUB_200_2011"
    return inner if inner.is_dir() else root


def recognise(root: Path) -> bool:
    """Whether ``root`` looks like CUB-200-2011."""
    return (find_top(root) / "image_class_labels.txt").is_file()


def _all_images(
    path: Path, columns: str, names: dict[str, tuple[int, list[str]]]
) -> dict[str, tuple[int, list[str]]]:
    """A table with a row for every image of ``images.txt``, and for no other."""
    table = keyed(path, columns)
    for key, (line, _) in table.items():
        whole(key, at(path, line), "image id")
        if key not in names:
            raise InputError(f"{at(path, line)}: image {key} is not in {path.parent / 'images.txt'}")
    for key, (line, _) in names.items():
        if key not in table:
            raise InputError(f"{path} has no line for image {key} ({at(path.parent / 'images.txt', line)})")
    return table
