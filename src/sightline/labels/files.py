"""The files of each format, in an output folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sightline.errors import unknown
from sightline.labels.indexed import as_picture, indexed_masks, mask_values
from sightline.labels.label_studio import labelling_config
from sightline.labels.types import LabelledPhoto, Labels
from sightline.labels.yolo import data_yaml
from sightline.reports.manifest import describe_run
from sightline.reports.output_folder import OutputFolder
from sightline.reports.tables import csv_text

BOX_FORMATS = ("coco", "voc", "yolo", "label-studio", "cvat", "csv")
MASK_FORMATS = ("coco-rle", "voc-png", "indexed-png")
# Where a format's readers look for the photos.
PHOTOS = {
    "coco": "all",
    "coco-rle": "all",
    "voc": "JPEGImages",
    "voc-png": "JPEGImages",
    "csv": "",
    "cvat": "",
}
Texts = Iterator[tuple[str, str]]
Writer = Callable[[BinaryIO], object]  # writes one file


def write_labels(labels: Labels, folder: OutputFolder, format: str, photos: str | None = None) -> list[Path]:
    """Write the files of one of `BOX_FORMATS` or `MASK_FORMATS`; returns their paths.

    ``photos``: the folder that the labels' files lie in; if given, they are copied to where the format's readers
    look for them. Raises `InputError` for an unknown format.
    """
    if format not in (*BOX_FORMATS, *MASK_FORMATS):
        raise unknown("format", format, (*BOX_FORMATS, *MASK_FORMATS))
    planned: dict[str, Writer] = {name: _as_bytes(text) for name, text in _TEXTS[format](labels)}
    if format in ("voc-png", "indexed-png"):
        planned.update(_masks(labels, objects=format == "voc-png"))
    if photos is not None:
        for photo in labels.photos:
            name = f"{PHOTOS.get(format, 'images')}/{photo.file}".lstrip("/")
            planned[name] = partial(_copy, Path(photos) / photo.file)
    if folder.kind is not None:
        folder.begin(describe_run(), planned)
    return [folder.write(name, write) for name, write in planned.items()]


def _as_bytes(text: str) -> Writer:
    return lambda file: file.write(text.encode("utf-8", "backslashreplace"))


def _copy(path: Path, file: BinaryIO) -> None:
    file.write(path.read_bytes())


def _coco(labels: Labels) -> Texts:
    yield "annotations/instances_all.json", json.dumps(labels.coco(), ensure_ascii=False, allow_nan=False)


def _voc(labels: Labels) -> Texts:
    yield "ImageSets/Main/all.txt", _lines(labels.voc_ids())
    for name, text in labels.voc().items():
        yield f"Annotations/{name}", text


def _yolo(labels: Labels) -> Texts:
    for name, text in labels.yolo().items():
        yield f"labels/{name}", text
    yield "data.yaml", data_yaml(labels.names)


def _label_studio(labels: Labels) -> Texts:
    tasks = labels.label_studio("/data/local-files/?d=")
    yield "tasks.json", json.dumps(tasks, ensure_ascii=False, indent=1)
    used = dict.fromkeys(one.category for photo in labels.photos for one in photo.labels)
    yield "config.xml", labelling_config(list(used))


def _cvat(labels: Labels) -> Texts:
    yield "annotations.xml", labels.cvat()


def _csv(labels: Labels) -> Texts:
    """The layout of class folders: `sightline.data.adapters.folder` reads it."""
    rows = [
        {
            "file": photo.file,
            **dict(zip(("x0", "y0", "x1", "y1"), label.box_xyxy, strict=True)),
            "class": label.category,
        }
        for photo in labels.photos
        for label in photo.labels
    ]
    yield "boxes.csv", csv_text(rows) if rows else "file,x0,y0,x1,y1,class\n"


def _png(labels: Labels) -> Texts:
    """The names of the masks' values, and for VOC the list of photos; the masks are pictures."""
    names = labels.names
    rows = [{"value": value, "class": names[index]} for index, value in mask_values(labels).items()]
    yield "classes.csv", csv_text([{"value": 0, "class": "background"}, *rows])


def _voc_png(labels: Labels) -> Texts:
    yield "ImageSets/Segmentation/all.txt", _lines(labels.voc_ids())
    yield from _png(labels)


_TEXTS: dict[str, Callable[[Labels], Texts]] = {
    "coco": _coco,
    "voc": _voc,
    "yolo": _yolo,
    "label-studio": _label_studio,
    "cvat": _cvat,
    "csv": _csv,
    "coco-rle": _coco,
    "voc-png": _voc_png,
    "indexed-png": _png,
}


def _masks(labels: Labels, objects: bool) -> Iterator[tuple[str, Writer]]:
    values = mask_values(labels)
    place = "SegmentationClass" if objects else "masks"
    for photo in labels.unique_stems():
        classes = [values[label.class_index] for label in photo.labels]
        yield f"{place}/{photo.stem}.png", partial(_draw_mask, photo, classes)
        if objects:
            numbers = range(1, len(photo.labels) + 1)
            yield f"SegmentationObject/{photo.stem}.png", partial(_draw_mask, photo, numbers)


def _draw_mask(photo: LabelledPhoto, values: Sequence[int], file: BinaryIO) -> None:
    as_picture(indexed_masks(photo, np.asarray(values).tolist())).save(file, "PNG")


def _lines(texts: Sequence[str]) -> str:
    return "".join(f"{text}\n" for text in texts)
