"""PASCAL VOC (Everingham et al. 2010): several classes per photo, boxes in XML."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from sightline.data.adapters.voc_xml import read_voc_xml
from sightline.data.reading import Box, BoxCheck, Files, at, boxes_tensor, finish, rows
from sightline.data.registry import register_dataset
from sightline.errors import InputError, unknown
from sightline.files import reader
from sightline.types import Dataset, Sample

# fmt: off
CATEGORIES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle",
    "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person",
    "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on


def recognise(root: Path) -> bool:
    """Whether ``root`` looks like PASCAL VOC."""
    return any(
        True
        for pattern in ("", "VOC[0-9]*/", "VOCdevkit/VOC[0-9]*/")
        for _ in root.glob(pattern + "JPEGImages")
    )


@register_dataset("voc", recognise=recognise, order=40)
@reader
def read_voc(
    root: str | Path,
    split: str = "val",
    *,
    keep_difficult: bool = False,
    categories: Sequence[str] = CATEGORIES,
    bad_boxes: str = "refuse",
    allow_empty: bool = False,
) -> Dataset:
    """Read one year of PASCAL VOC: one sample per image and class present, with id ``IMAGE:CLASS``.

    ``root`` contains ``JPEGImages``, ``Annotations`` and ``ImageSets/Main/{split}.txt``, or one folder ``VOCyyyy``
    (or ``VOCdevkit/VOCyyyy``) that does. Corners are 1-based and inclusive: x0 = xmin - 1, x1 = xmax. Objects marked
    difficult are skipped, as in VOC's own evaluation, unless ``keep_difficult``; a class with no other object in an
    image gives no sample. Raises `InputError` naming file and line.

    >>> read_voc("nowhere")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere has no JPEGImages; expected PASCAL VOC's layout
    """
    top = find_top(Path(root))
    labels = {name: label for label, name in enumerate(categories)}
    check, files, samples = BoxCheck(bad_boxes), Files(), []
    for image_id, where in _image_ids(top, split):
        image = files.require(top / "JPEGImages" / f"{image_id}.jpg", where)
        xml = files.require(top / "Annotations" / f"{image_id}.xml", where)
        for name, boxes in _boxes_by_class(xml, labels, keep_difficult, check).items():
            samples.append(Sample(f"{image_id}:{name}", image, labels[name], boxes_tensor(boxes)))
    return finish(Dataset("voc", split, samples, tuple(categories)), top, check, allow_empty=allow_empty)


def find_top(root: Path) -> Path:
    """The folder with ``JPEGImages``; the user must choose if there are several years."""
    places = [root, *sorted(root.glob("VOC[0-9]*")), *sorted(root.glob("VOCdevkit/VOC[0-9]*"))]
    tops = [place for place in places if (place / "JPEGImages").is_dir()]
    if not tops:
        raise InputError(f"{root} has no JPEGImages; expected PASCAL VOC's layout")
    if len(tops) > 1 and tops[0] != root:
        raise InputError(f"{root} has several years; give one of {', '.join(map(str, tops))}")
    return tops[0]


def _image_ids(top: Path, split: str) -> list[tuple[str, str]]:
    """Image ids with their locations."""
    folder = top / "ImageSets" / "Main"
    path = folder / f"{split}.txt"
    if not path.is_file():
        # files like aeroplane_train.txt list one class's images; split names have no underscore.
        raise unknown(
            "split",
            split,
            sorted(p.stem for p in folder.glob("*.txt") if "_" not in p.stem),
            hint=f"(in {folder})",
        )
    return [(fields[0], at(path, line)) for line, fields in rows(path, "image")]


def _boxes_by_class(
    xml: Path, labels: dict[str, int], keep_difficult: bool, check: BoxCheck
) -> dict[str, list[Box]]:
    annotation = read_voc_xml(xml)
    found: dict[str, list[Box]] = defaultdict(list)
    for thing in annotation.objects:
        if thing.name not in labels:
            raise unknown(
                "class", thing.name, labels, hint=f"({thing.where}; for other classes give categories=[...])"
            )
        xmin, ymin, xmax, ymax = thing.corners
        box = check.keep((xmin - 1, ymin - 1, xmax, ymax), annotation.size_hw, thing.where)
        if keep_difficult or not thing.difficult:
            found[thing.name] += [box] if box else []
    return found
