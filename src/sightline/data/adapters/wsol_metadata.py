"""The metadata folders of wsolevaluation (Choe et al., CVPR 2020): ILSVRC, CUB and OpenImages in one format."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sightline.data.reading import (
    Box,
    BoxCheck,
    Files,
    at,
    boxes_tensor,
    finish,
    four_numbers,
    keyed,
    rows,
    whole,
)
from sightline.data.registry import register_dataset
from sightline.errors import InputError, unknown
from sightline.files import reader
from sightline.types import Dataset, Sample

_CLASS_COLUMNS, _SIZE_COLUMNS = "image_id class", "image_id width height"


@dataclass
class _Truth:
    """The entries of ``localization.txt`` for one image."""

    boxes: list[Box] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    ignore: Path | None = None


def recognise(root: Path) -> bool:
    """Whether ``root`` looks like one data set's metadata folder."""
    return any(root.glob("*/class_labels.txt")) and any(root.glob("*/image_ids.txt"))


@register_dataset("wsol", recognise=recognise, order=60)
@reader
def read_wsol_metadata(
    root: str | Path,
    split: str = "test",
    *,
    images: str | Path | None = None,
    masks: str | Path | None = None,
    proxy: bool = False,
    categories: Sequence[str] | None = None,
    bad_boxes: str = "refuse",
    allow_empty: bool = False,
) -> Dataset:
    """Read one data set's metadata, ``root`` = ``metadata/CUB`` or similar; ``split``: train, val or test.

    ``val`` is the paper's train-fullsup, for choosing thresholds. Image ids are paths below ``images`` (default
    ``dataset/CUB``, as in wsolevaluation), masks below ``masks`` (default ``images``). ``proxy`` reads
    ``image_ids_proxy.txt``. The files do not name the classes: give ``categories``, or they are numbered.

    Corners are taken as *inclusive*, x1 = written + 1: the authors' own IoU counts them so, and ILSVRC's are inclusive
    in the original XML. (For CUB they wrote x + width, at most W - 1: one pixel too large by CUB's definition, but the
    published figures use this one rule throughout.) Boxes are checked but never clipped, so that subtracting 1 gives
    back exactly the published numbers. OpenImages has masks and an ignore mask instead of boxes. Raises `InputError`
    naming the file and line.

    >>> read_wsol_metadata("metadata/none")
    Traceback (most recent call last):
    sightline.errors.InputError: metadata/none: no such folder
    """
    root = Path(root)
    folder = _split_folder(root, split)
    image_root = Path(images) if images else root.parent.parent / "dataset" / root.name
    mask_root = Path(masks) if masks else image_root
    check, files = BoxCheck(bad_boxes, clip=False), Files()
    listing = folder / ("image_ids_proxy.txt" if proxy else "image_ids.txt")
    label_of = keyed(folder / "class_labels.txt", _CLASS_COLUMNS, ",")
    truth = _read_localization(folder, split, mask_root, files, check)
    samples = []
    for line, (image_id,) in rows(listing, "image_id", ","):
        if image_id not in label_of:
            raise InputError(f"{at(listing, line)}: {image_id} is not in {folder / 'class_labels.txt'}")
        label_line, (text,) = label_of[image_id]
        label = whole(text, at(folder / "class_labels.txt", label_line), "class")
        image = files.require(image_root / image_id, at(listing, line))
        known = truth.get(image_id, _Truth())
        if truth and image_id not in truth:
            raise InputError(f"{at(listing, line)}: {image_id} is not in {folder / 'localization.txt'}")
        samples.append(
            Sample(image_id, image, label, boxes_tensor(known.boxes), tuple(known.masks), known.ignore)
        )
    names = _categories(categories, samples, folder)
    dataset = Dataset(f"wsol-{root.name.lower()}", split, samples, names)
    return finish(dataset, folder, check, allow_empty=allow_empty or proxy)


def _split_folder(root: Path, split: str) -> Path:
    folder = root / split
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    splits = sorted(path.parent.name for path in root.glob("*/image_ids.txt"))
    if not splits:
        below = sorted(path.parent.parent for path in root.glob("*/*/*/image_ids.txt"))
        raise InputError(
            f"{root} has no split with image_ids.txt; expected one data set's metadata folder, "
            f"such as {below[0] if below else 'metadata/CUB'}"
        )
    if not folder.is_dir():
        raise unknown("split", split, splits, hint=f"(in {root})")
    return folder


def _categories(given: Sequence[str] | None, samples: list[Sample], folder: Path) -> tuple[str, ...]:
    labels = [sample.label or 0 for sample in samples]
    if labels and min(labels) < 0:
        raise InputError(f"{folder / 'class_labels.txt'}: class {min(labels)} is negative")
    count = max(labels, default=-1) + 1
    if given is not None and len(given) < count:
        raise InputError(f"categories has {len(given)} names; {folder} has classes up to {count - 1}")
    return tuple(given) if given is not None else tuple(str(label) for label in range(count))


def _read_localization(
    folder: Path, split: str, mask_root: Path, files: Files, check: BoxCheck
) -> dict[str, _Truth]:
    """Boxes (5 columns) or masks (3 columns) of each image; the file may be absent for train."""
    path = folder / "localization.txt"
    truth: dict[str, _Truth] = defaultdict(_Truth)
    if split == "train" and not path.is_file():
        return truth
    sizes = _sizes(folder / "image_sizes.txt")
    for line, fields in _box_or_mask_rows(path):
        where, known = at(path, line), truth[fields[0]]
        if len(fields) == 5:
            x0, y0, x1, y1 = four_numbers(fields[1:], where)
            box = check.keep((x0, y0, x1 + 1, y1 + 1), sizes.get(fields[0]), where)
            known.boxes += [box] if box else []
        else:
            known.masks.append(files.require(mask_root / fields[1], where))
            if fields[2]:
                known.ignore = files.require(mask_root / fields[2], where)
    return truth


def _box_or_mask_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    width = 0
    for line, (text,) in rows(path, "line", "\n"):
        fields = text.split(",")
        width = width or len(fields)
        if len(fields) not in (3, 5) or len(fields) != width:
            expected = (
                f"{width} columns as in the first line"
                if width in (3, 5)
                else "5 columns of a box or 3 of a mask"
            )
            raise InputError(f"{at(path, line)}: expected {expected}, got {len(fields)}: {text!r}")
        yield line, fields


def _sizes(path: Path) -> dict[str, tuple[int, int]]:
    """Image id -> (height, width); OpenImages has no such file."""
    if not path.is_file():
        return {}
    return {
        image_id: (whole(height, at(path, line), "height"), whole(width, at(path, line), "width"))
        for image_id, (line, (width, height)) in keyed(path, _SIZE_COLUMNS, ",").items()
    }
