"""Pseudo-masks against COCO's masks: mIoU over background and the categories that ImageNet has a class for.

    python benchmarks/pseudo_masks_coco.py --data data/coco-mini

A photo's categories are given, as in weakly supervised segmentation. A category's heatmap is that of the most probable
of its ImageNet classes (``CLASSES``); a pixel gets the category with the highest heatmap, or background where none
reaches the threshold, which is the one with the highest mIoU on ``train2017``. Pixels of categories without an ImageNet
class are left out. Scores on ``val2017``; intervals: 95 % bootstrap over photos.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageDraw
import torch
from pseudo_masks import SIDE, TAUS, counts, miou

import sightline
from sightline.data.photos import PhotoBatch
from sightline.files import read_json
from sightline.models.loading import LoadedModel
from sightline.reports.tables import spelled
from sightline.runtime import in_fast_format

IGNORED = 255
# COCO category -> ImageNet classes, by name; "first..last" is a range in the order of ImageNet's classes.
CLASSES = {
    "airplane": "airliner, warplane", "backpack": "backpack", "banana": "banana", "bear": "brown bear..sloth bear",
    "bench": "park bench", "bicycle": "bicycle-built-for-two, mountain bike",
    "bird": "cock..great grey owl, black grouse..black swan, white stork..albatross",
    "boat": "speedboat, lifeboat, canoe, yawl, catamaran, trimaran, gondola, fireboat, container ship, liner",
    "bottle": "beer bottle, pop bottle, water bottle, wine bottle, pill bottle", "bowl": "mixing bowl, soup bowl",
    "broccoli": "broccoli", "bus": "school bus, minibus, trolleybus", "cat": "tabby..Egyptian cat",
    "car": "sports car, convertible, cab, beach wagon, minivan, limousine, jeep, racer, Model T",
    "cell phone": "cellular telephone", "chair": "folding chair, rocking chair, barber chair, throne",
    "clock": "analog clock, wall clock, digital clock", "couch": "studio couch", "cow": "ox", "cup": "cup, coffee mug",
    "dining table": "dining table", "dog": "Chihuahua..Mexican hairless",
    "elephant": "Indian elephant, African elephant",
    "horse": "sorrel", "hot dog": "hotdog", "keyboard": "computer keyboard", "laptop": "laptop, notebook",
    "microwave": "microwave", "motorcycle": "motor scooter, moped", "mouse": "mouse", "orange": "orange",
    "oven": "stove", "parking meter": "parking meter", "pizza": "pizza", "potted plant": "pot",
    "refrigerator": "refrigerator", "remote": "remote control", "sandwich": "cheeseburger", "sheep": "ram",
    "sink": "washbasin", "skis": "ski", "sports ball": "soccer ball, tennis ball, volleyball, basketball, rugby ball",
    "teddy bear": "teddy", "tennis racket": "racket", "tie": "Windsor tie, bow tie, bolo tie", "toaster": "toaster",
    "toilet": "toilet seat", "traffic light": "traffic light", "train": "steam locomotive, electric locomotive, "
    "passenger car, freight car, bullet train", "truck": "trailer truck, garbage truck, pickup, moving van, tow truck",
    "tv": "television, screen, monitor", "umbrella": "umbrella", "vase": "vase", "wine glass": "goblet, red wine",
    "zebra": "zebra",
}  # fmt: skip
NUMBER = {name: 1 + i for i, name in enumerate(CLASSES)}


class Photo(NamedTuple):
    """A photo's path, its categories, and the true number of each pixel at 224×224 (0 background)."""

    path: Path
    categories: list[str]
    truth: np.ndarray


def outputs(categories: Sequence[str]) -> dict[str, list[int]]:
    """The model's outputs for each COCO category."""
    found: dict[str, list[int]] = {}
    for name, text in CLASSES.items():
        found[name] = []
        for part in text.split(", "):
            first, _, last = part.partition("..")
            begin = categories.index(first)
            found[name] += range(begin, (categories.index(last) if last else begin) + 1)
    return found


def read(data: Path, split: str) -> list[Photo]:
    """The photos of one split that have at least one category of `CLASSES`."""
    given = read_json(data / "annotations" / f"instances_{split}.json")
    names = {one["id"]: one["name"] for one in given["categories"]}
    photos = []
    for image in given["images"]:
        own = [one for one in given["annotations"] if one["image_id"] == image["id"]]
        present = sorted({names[one["category_id"]] for one in own} & set(CLASSES))
        if present:
            photos.append(Photo(data / split / image["file_name"], present, truth(image, own, names)))
    return photos


def truth(image: dict[str, Any], own: Sequence[dict[str, Any]], names: dict[int, str]) -> np.ndarray:
    """The polygons of an image, the small ones over the large ones."""
    mask = PIL.Image.new("L", (SIDE, SIDE))
    draw = PIL.ImageDraw.Draw(mask)
    scale = np.array([SIDE / image["width"], SIDE / image["height"]])
    for one in sorted(own, key=lambda one: -one["area"]):
        value = NUMBER.get(names[one["category_id"]], IGNORED)
        if isinstance(one["segmentation"], dict):  # a crowd, run-length encoded
            value, polygons = IGNORED, [box_corners(one["bbox"])]
        else:
            polygons = one["segmentation"]
        for polygon in polygons:
            draw.polygon([tuple(point) for point in np.reshape(polygon, (-1, 2)) * scale], fill=value)
    return np.asarray(mask)


def box_corners(bbox: Sequence[float]) -> list[float]:
    """x, y, width, height as a polygon.

    >>> box_corners([1, 2, 3, 4])
    [1, 2, 4, 2, 4, 6, 1, 6]
    """
    x, y, w, h = bbox
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def heatmaps(model: LoadedModel, photos: Sequence[Photo], method: str) -> list[np.ndarray]:
    """Each photo's heatmaps of its categories: (K, 224, 224)."""
    known, found = outputs(model.categories), []
    for photo in photos:
        image = PhotoBatch.load([photo.path], model.preprocess, keep_photos=False).to(model).images
        with torch.inference_mode():
            logits = model(image)[0]
        best = [max(known[name], key=lambda index: float(logits[index])) for name in photo.categories]
        maps = sightline.explain(model, photo.path, method, classes=torch.tensor([best]))
        found.append(maps.heatmaps((SIDE, SIDE))[0].numpy())
    return found


def labelled(maps: np.ndarray, photo: Photo, tau: float) -> np.ndarray:
    """The number of each pixel."""
    numbers = np.array([NUMBER[name] for name in photo.categories])
    return np.where(maps.max(0) >= tau, numbers[maps.argmax(0)], 0)


def counted(photos: Sequence[Photo], maps: Sequence[np.ndarray], tau: float) -> np.ndarray:
    """Intersection and union per photo and number."""
    found = [labelled(own, photo, tau) for own, photo in zip(maps, photos, strict=True)]
    return counts(np.stack(found), np.stack([photo.truth for photo in photos]), 1 + len(CLASSES))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["cam", "localise-fast", "localise"])
    given = parser.parse_args()
    sightline.tune_cpu()
    torch.set_num_threads(1)
    model = in_fast_format(sightline.load_model())
    photos = {split: read(given.data, split) for split in ("train2017", "val2017")}
    print(", ".join(f"{len(some)} photos of {split}" for split, some in photos.items()) + "\n")
    print(
        "| masks | threshold | mIoU, train2017 | mIoU, val2017 | categories in val2017 |\n"
        + "| --- " * 5
        + "|"
    )
    for method in given.methods:
        maps = {split: heatmaps(model, some, method) for split, some in photos.items()}
        scored = {tau: miou(counted(photos["train2017"], maps["train2017"], tau), 1).value for tau in TAUS}
        tau = max(scored, key=lambda one: scored[one])
        found = counted(photos["val2017"], maps["val2017"], tau)
        present = int((found.sum(0)[1] > 0).sum()) - 1
        print(
            f"| {method} | {tau:.2f} | {100 * scored[tau]:.1f} | {spelled(miou(found))} | {present} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
