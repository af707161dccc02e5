"""ILSVRC CLS-LOC (Russakovsky et al. 2015): 1,000 classes, boxes of the class, in its official layouts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sightline.data.adapters.ilsvrc_devkit import DevkitFiles, read_categories, read_devkit_ids
from sightline.data.adapters.voc_xml import read_voc_xml
from sightline.data.reading import Box, BoxCheck, Files, at, boxes_tensor, finish, four_numbers, rows, whole
from sightline.data.registry import register_dataset
from sightline.errors import InputError, unknown
from sightline.files import reader
from sightline.types import Dataset, Sample

_VAL = "ILSVRC2012_val_"


@dataclass(frozen=True)
class _Entry:
    """One labelled image, the location of its label, and its boxes if they are on the same line (Kaggle)."""

    path: Path
    wnid: str
    where: str
    prediction: str | None = None


def recognise(root: Path) -> bool:
    """Whether ``root`` looks like ILSVRC CLS-LOC."""
    return any((top / "Data" / "CLS-LOC").is_dir() for top in (root / "ILSVRC", root))


@register_dataset("ilsvrc", recognise=recognise, order=30)
@reader
def read_ilsvrc(
    root: str | Path,
    split: str = "val",
    *,
    boxes: bool | None = None,
    blacklist: bool = False,
    bad_boxes: str = "refuse",
    allow_empty: bool = False,
) -> Dataset:
    """Read ILSVRC CLS-LOC; ``root`` contains ``ILSVRC/Data/CLS-LOC`` (or is ``ILSVRC`` itself).

    Labels follow the sorted WordNet ids: the order of torchvision and timm, not of the devkit. ``train``
    comes from ``ImageSets/CLS-LOC/train_cls.txt`` or else the folders. ``val`` is labelled by the first of:
    Kaggle's ``LOC_val_solution.csv``; the devkit's ``*validation_ground_truth.txt`` (line i is image i) with
    ``map_clsloc.txt``, ``meta_clsloc.mat`` or ``meta.mat``; folders ``val/WNID``. Boxes come from
    ``Annotations/CLS-LOC`` (XML, inclusive 0-based corners, so x1 = xmax + 1) or else from Kaggle's table,
    which gives no image sizes (see `BoxCheck`); boxes of other classes are dropped. ``boxes=None``
    reads them for ``val`` only: training never sees any. ``blacklist`` skips the 1,762 images that the challenge
    does not score. Images are not opened. Raises `InputError` naming the file and line.

    >>> read_ilsvrc("nowhere")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere has no Data/CLS-LOC; expected ILSVRC's layout
    """
    if split not in ("train", "val"):
        raise unknown("split", split, ["train", "val"], hint="(the labels of test are not public)")
    if blacklist and split != "val":
        raise InputError("blacklist=True is for split 'val'; the blacklist names validation images")
    top = find_top(Path(root))
    devkit = DevkitFiles(top)
    names = read_categories(devkit)
    wnids = sorted(names)
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    skipped = _blacklisted(devkit) if blacklist else frozenset()
    files, check, samples = Files(), BoxCheck(bad_boxes), []
    with_boxes = split == "val" if boxes is None else boxes
    for entry in _train(top) if split == "train" else _val(top, devkit):
        if entry.wnid not in labels:
            raise unknown("class", entry.wnid, wnids, hint=f"({entry.where})")
        files.require(entry.path, entry.where)
        if entry.path.stem in skipped:
            continue
        kept = _boxes(top, split, entry, files, check) if with_boxes else []
        samples.append(Sample(entry.path.name, entry.path, labels[entry.wnid], boxes_tensor(kept)))
    categories = tuple(names[wnid] for wnid in wnids)
    return finish(Dataset("ilsvrc", split, samples, categories), top, check, allow_empty=allow_empty)


def find_top(root: Path) -> Path:
    """The folder that holds ``Data/CLS-LOC``."""
    for top in (root / "ILSVRC", root):
        if (top / "Data" / "CLS-LOC").is_dir():
            return top
    raise InputError(f"{root} has no Data/CLS-LOC; expected ILSVRC's layout")


def _train(top: Path) -> Iterator[_Entry]:
    folder, listing = top / "Data" / "CLS-LOC" / "train", top / "ImageSets" / "CLS-LOC" / "train_cls.txt"
    if listing.is_file():
        for line, (name, _) in rows(listing, "image number"):
            yield _Entry(folder / f"{name}.JPEG", name.split("/")[0], at(listing, line))
    else:
        yield from _class_folders(folder)


def _class_folders(folder: Path) -> Iterator[_Entry]:
    for child in sorted(folder.iterdir()) if folder.is_dir() else ():
        for name in sorted(os.listdir(child)) if child.is_dir() else ():
            if name.endswith(".JPEG"):
                yield _Entry(child / name, child.name, str(child))


def _val(top: Path, devkit: DevkitFiles) -> Iterator[_Entry]:
    folder = top / "Data" / "CLS-LOC" / "val"
    if solution := devkit.find("LOC_val_solution.csv"):
        yield from _kaggle(folder, solution)
    elif truth := devkit.find(
        "ILSVRC20*_clsloc_validation_ground_truth.txt", "ILSVRC2012_validation_ground_truth.txt"
    ):
        wnids = read_devkit_ids(devkit)
        for number, (line, (text,)) in enumerate(rows(truth, "class"), 1):
            key = whole(text, at(truth, line), "class")
            if key not in wnids:
                raise InputError(
                    f"{at(truth, line)}: class {key} is not in the devkit's table of {len(wnids)} classes"
                )
            yield _Entry(folder / f"{_VAL}{number:08d}.JPEG", wnids[key], at(truth, line))
    elif any(folder.glob("n*/")):
        yield from _class_folders(folder)
    else:
        raise InputError(
            f"no labels for {folder}: expected LOC_val_solution.csv, the devkit's "
            f"validation_ground_truth.txt, or class folders"
        )


def _kaggle(folder: Path, solution: Path) -> Iterator[_Entry]:
    for line, (name, prediction) in rows(solution, "ImageId PredictionString", ","):
        if name == "ImageId":
            continue
        if not re.fullmatch(r"(\s*n\d{8}( -?\d+){4})+", prediction):
            raise InputError(f"{at(solution, line)}: expected 'WNID x0 y0 x1 y1 …', got {prediction[:60]!r}")
        yield _Entry(folder / f"{name}.JPEG", prediction.split()[0], at(solution, line), prediction)


def _boxes(top: Path, split: str, entry: _Entry, files: Files, check: BoxCheck) -> list[Box]:
    """The half-open boxes of the image's own class."""
    folder = top / "Annotations" / "CLS-LOC" / split
    xml = (folder / entry.wnid if split == "train" else folder) / f"{entry.path.stem}.xml"
    size_hw: tuple[int, int] | None = None
    if files.has(xml):
        annotation = read_voc_xml(xml)
        size_hw = annotation.size_hw
        found = [(thing.name, thing.corners, thing.where) for thing in annotation.objects]
    elif entry.prediction and not folder.is_dir():
        words = entry.prediction.split()
        found = [
            (words[i], four_numbers(words[i + 1 : i + 5], entry.where), entry.where)
            for i in range(0, len(words), 5)
        ]
    elif split == "train":
        return []  # half of the training images have no annotation
    else:
        raise InputError(f"{entry.where}: {xml} is missing; boxes=False reads only the labels")
    kept = (
        check.keep((x0, y0, x1 + 1, y1 + 1), size_hw, where)
        for wnid, (x0, y0, x1, y1), where in found
        if wnid == entry.wnid
    )
    return [box for box in kept if box]


def _blacklisted(devkit: DevkitFiles) -> frozenset[str]:
    """Names of the validation images that the challenge does not score."""
    path = devkit.require("the blacklist", "ILSVRC20*_clsloc_validation_blacklist.txt")
    numbers = (whole(fields[0], at(path, line), "image number") for line, fields in rows(path, "image"))
    return frozenset(f"{_VAL}{number:08d}" for number in numbers)
