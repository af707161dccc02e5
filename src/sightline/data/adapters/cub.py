"""CUB-200-2011 (Wah et al. 2011): 200 bird species, one bird and one box per photo."""

from __future__ import annotations

from pathlib import Path

from sightline.data.reading import BoxCheck, Files, at, boxes_tensor, finish, four_numbers, keyed
from sightline.data.registry import register_dataset
from sightline.errors import InputError, unknown
from sightline.files import reader
from sightline.types import Dataset, Sample

Table = dict[str, tuple[int, list[str]]]  # key -> (line, the other columns)
_FLAGS = {"train": "1", "test": "0"}


def recognise(root: Path) -> bool:
    """Whether ``root`` looks like CUB-200-2011."""
    return (find_top(root) / "image_class_labels.txt").is_file()


@register_dataset("cub", recognise=recognise, order=20)
@reader
def read_cub(
    root: str | Path, split: str = "test", *, bad_boxes: str = "refuse", allow_empty: bool = False
) -> Dataset:
    """Read CUB-200-2011 from ``root`` or ``root/CUB_200_2011``; ``split`` is ``train`` or ``test``.

    There is no official ``val``: hold out part of ``train`` to choose anything on. Labels are the class numbers of
    ``classes.txt`` minus one; ``001.Black_footed_Albatross`` becomes ``Black footed Albatross``. Boxes ``x y width
    height`` are edges: x0 = x, x1 = x + width. The files do not give image sizes: see `BoxCheck`. A folder
    ``segmentations``, inside or next to ``CUB_200_2011``, gives each sample a mask whose grey level is the
    annotators' agreement (0 none, 255 all). Raises `InputError` naming file and line.

    >>> read_cub("nowhere")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere/images.txt is missing
    """
    if split not in _FLAGS:
        raise unknown("split", split, _FLAGS, hint="(CUB has no val: hold out part of train)")
    top = find_top(Path(root))
    names = keyed(top / "images.txt", "id file")
    classes = keyed(top / "classes.txt", "id name")
    class_of = _column(top / "image_class_labels.txt", "id class", names)
    is_training = _column(top / "train_test_split.txt", "id is_training", names)
    box_of = _column(top / "bounding_boxes.txt", "id x y width height", names)
    labels = {key: label for label, key in enumerate(classes)}
    masks = next(
        (place for place in (top / "segmentations", top.parent / "segmentations") if place.is_dir()), None
    )
    check, files, samples = BoxCheck(bad_boxes), Files(), []
    for key, (line, (name,)) in names.items():
        flag, where = is_training[key][0][0], is_training[key][1]
        if flag not in _FLAGS.values():
            raise InputError(f"{where}: expected 0 or 1, got {flag!r}")
        if flag != _FLAGS[split]:
            continue
        here = at(top / "images.txt", line)
        image = files.require(top / "images" / name, here)
        mask = files.require((masks / name).with_suffix(".png"), here) if masks else None
        (class_id,), where = class_of[key]
        if class_id not in labels:
            raise InputError(f"{where}: class {class_id!r} is not in {top / 'classes.txt'}")
        x, y, width, height = four_numbers(*box_of[key], "x y width height")
        box = check.keep((x, y, x + width, y + height), None, box_of[key][1])
        boxes = boxes_tensor([box] if box else [])
        samples.append(Sample(name, image, labels[class_id], boxes, (mask,) if mask else ()))
    categories = tuple(name.split(".", 1)[-1].replace("_", " ") for _, (name,) in classes.values())
    return finish(Dataset("cub", split, samples, categories), top, check, allow_empty=allow_empty)


def find_top(root: Path) -> Path:
    """The folder that holds ``images.txt``."""
    inner = root / "CUB_200_2011"
    return inner if inner.is_dir() else root


def _column(path: Path, columns: str, names: Table) -> dict[str, tuple[list[str], str]]:
    """Image id -> (fields, location), with exactly one line for each image of ``images.txt``."""
    table = keyed(path, columns)
    for key, (line, _) in table.items():
        if key not in names:
            raise InputError(f"{at(path, line)}: image {key} is not in {path.parent / 'images.txt'}")
    for key, (line, _) in names.items():
        if key not in table:
            raise InputError(f"{path} has no line for image {key} ({at(path.parent / 'images.txt', line)})")
    return {key: (fields, at(path, line)) for key, (line, fields) in table.items()}
