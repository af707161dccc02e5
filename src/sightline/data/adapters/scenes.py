"""Scenes with their objects: ADE20K's benchmark, SUN's LabelMe files, COCO's JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.data.adapters.coco import image_folder, read_coco
from sightline.data.adapters.coco import recognise as is_coco
from sightline.data.adapters.labelme import Polygons, polygon_mask, read_polygons
from sightline.data.images import open_picture, read_image
from sightline.data.items import images_below
from sightline.data.reading import Files, finish, keyed, rows, whole
from sightline.data.records import field, read_lists, records
from sightline.data.splits import hold_out
from sightline.errors import InputError, unknown
from sightline.files import reader
from sightline.types import Dataset, Sample

Mask = NDArray[np.bool_]
Regions = Callable[[tuple[int, int]], dict[str, Mask]]
Found = list[tuple[str, Path, str, Regions]]
LAYOUTS = ("ade20k", "sun", "coco")
PARTS = ("-fit", "-heldout")


@dataclass(frozen=True)
class Scenes:
    """Scene images: ``dataset``, labelled by scene, and ``objects``, sample id -> the objects in the image.

    ``objects[id]((H, W))`` gives, for a photo of that size, object name -> mask (H, W) bool; objects of a kind
    share one mask.
    """

    dataset: Dataset
    objects: Mapping[str, Regions]


@reader
def read_scenes(
    root: str | Path, split: str = "val", layout: str | None = None, held_per_class: int = 30
) -> Scenes:
    """Read a split of scene images with their objects; ``layout`` is detected by default.

    ``ade20k``: ``images/training/*.jpg`` (and ``validation``; splits ``train`` and ``val``),
    ``annotations/training/*.png`` whose values index ``objectInfo150.txt`` (0: none), ``sceneCategories.txt``.
    ``sun``: ``Images/a/abbey/*.jpg`` and LabelMe polygons in ``Annotations/a/abbey/*.xml``; one split, ``all``.
    ``coco``: ``annotations/instances_{split}*.json``; a scene is the ``scene`` of the image's record, else the
    folder in its ``file_name``; objects are boxes. ``SPLIT-fit`` and ``SPLIT-heldout`` are the parts of a split
    made by `hold_out`, with ``held_per_class`` images of each scene held out. Raises `InputError` naming the file
    and line.

    >>> read_scenes("nowhere")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere: no such folder
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    name = layout or _detect_layout(root)
    if name not in LAYOUTS:
        raise unknown("layout", name, LAYOUTS)
    read = {"ade20k": _ade20k, "sun": _sun, "coco": _coco}[name]
    part = next((part for part in PARTS if split.endswith(part)), "")
    found = read(root, split.removesuffix(part))
    if not found:
        raise InputError(f"{root}: split {split!r} has no image")
    categories = tuple(sorted({scene for _, _, scene, _ in found}))
    samples = [Sample(key, source, categories.index(scene)) for key, source, scene, _ in found]
    dataset = finish(Dataset(name, split.removesuffix(part), samples, categories), root)
    if part:
        dataset = hold_out(dataset, per_class=held_per_class)[PARTS.index(part)]
    return Scenes(dataset, {key: regions for key, _, _, regions in found})


def _detect_layout(root: Path) -> str:
    if (root / "sceneCategories.txt").is_file():
        return "ade20k"
    if (root / "Annotations").is_dir() and (root / "Images").is_dir():
        return "sun"
    if is_coco(root):
        return "coco"
    raise InputError(
        f"{root} is neither ADE20K (sceneCategories.txt, objectInfo150.txt, images/, annotations/), "
        "SUN (Images/, Annotations/) nor COCO (annotations/instances_*.json)"
    )


def _ade20k(root: Path, split: str) -> Found:
    folder = {"train": "training", "val": "validation"}.get(split, split)
    images, masks = root / "images" / folder, root / "annotations" / folder
    if not images.is_dir():
        there = sorted(path.name for path in (root / "images").glob("*/"))
        raise unknown("split", split, there, hint=f"(in {root / 'images'})")
    names = _object_names(root / "objectInfo150.txt")
    scenes = keyed(root / "sceneCategories.txt", "image scene")
    files, found = Files(), Found()
    for path in images_below(images):
        if path.stem not in scenes:
            raise InputError(f"{root / 'sceneCategories.txt'} has no line for {path.stem}")
        mask = files.require(masks / f"{path.stem}.png", str(path))
        found.append((path.stem, path, scenes[path.stem][1][0], partial(_index_mask, mask, names)))
    return found


def _object_names(path: Path) -> dict[int, str]:
    """Index -> the first of an object's names; columns Idx Ratio Train Val Stuff Name, with tabs."""
    lines = list(rows(path, "Idx Ratio Train Val Stuff Name", "\t"))
    return {whole(line[0], f"{path}, line {n}", "Idx"): line[5].split(",")[0] for n, line in lines[1:]}


def _index_mask(path: Path, names: Mapping[int, str], size_hw: tuple[int, int]) -> dict[str, Mask]:
    read_image(path)  # for its error messages; the indices must not be converted to RGB
    with open_picture(path) as picture:
        index = np.asarray(picture if picture.mode in ("L", "P") or picture.mode.startswith("I") else None)
    if index.ndim != 2:
        raise InputError(f"{path}: expected a mask of object indices, one channel")
    if index.shape != size_hw:
        raise InputError(
            f"{path} is {index.shape[1]}×{index.shape[0]}, its photo {size_hw[1]}×{size_hw[0]}; expected the same size"
        )
    values = [int(value) for value in np.unique(index) if value]
    strange = next((value for value in values if value not in names), None)
    if strange is not None:
        raise InputError(f"{path}: object index {strange} is not in objectInfo150.txt")
    return {names[value]: index == value for value in values}


def _sun(root: Path, split: str) -> Found:
    if split != "all":
        raise unknown("split", split, ["all"], hint="(SUN has one; all-fit and all-heldout split it)")
    images, files, found = root / "Images", Files(), Found()
    for path in images_below(images):
        inner = path.relative_to(images)
        outlines = files.require((root / "Annotations" / inner).with_suffix(".xml"), str(path))
        regions = partial(_polygon_masks, read_polygons(outlines))
        found.append((inner.as_posix(), path, _scene_of(inner.parts[:-1]), regions))
    return found


def _scene_of(folders: tuple[str, ...]) -> str:
    """The scene named by SUN's folders: what follows the single letter.

    >>> _scene_of(("users", "a", "abbey")), _scene_of(("c", "church", "outdoor")), _scene_of(("abbey",))
    ('abbey', 'church/outdoor', 'abbey')
    """
    after = max((i + 1 for i, part in enumerate(folders) if len(part) == 1), default=max(len(folders) - 1, 0))
    return "/".join(folders[after:]) or "unknown"


def _polygon_masks(polygons: Polygons, size_hw: tuple[int, int]) -> dict[str, Mask]:
    return {name: polygon_mask(outlines, size_hw) for name, outlines in polygons.items()}


def _coco(root: Path, split: str) -> Found:
    boxes = read_coco(root, split, allow_empty=True)
    by_source: dict[Path, dict[str, list[list[float]]]] = {}
    for sample in boxes.samples:
        assert isinstance(sample.source, Path)
        assert sample.label is not None
        inside = by_source.setdefault(sample.source, {})
        inside[boxes.categories[sample.label]] = sample.boxes_xyxy.tolist()
    path = sorted((root / "annotations").glob(f"instances_{split}*.json"))[0]
    folder, files, found = image_folder(root, path), Files(), Found()
    for where, record in records(path, "images", read_lists(path, "images")["images"]):
        name = field(record, "file_name", str, where)
        scene = record.get("scene") or Path(name).parent.name
        if not scene:
            raise InputError(f"{where}: expected a 'scene', or a file_name in a folder of that name")
        source = files.require(folder / name, where)
        found.append((name, source, str(scene), partial(_box_masks, by_source.get(source, {}))))
    return found


def _box_masks(boxes: Mapping[str, list[list[float]]], size_hw: tuple[int, int]) -> dict[str, Mask]:
    return {name: polygon_mask([_outline(*box) for box in inside], size_hw) for name, inside in boxes.items()}


def _outline(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    """The corner pixels of a box with half-open edges."""
    return [(x0, y0), (x1 - 1, y0), (x1 - 1, y1 - 1), (x0, y1 - 1)]
