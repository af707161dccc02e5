"""Composed scenes in ADE20K's layout: each class has one informative object, the others appear everywhere."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import PIL.Image
from PIL import ImageDraw

from sightline.discovery.examples.canvas import SIDE, Cutouts, backdrop, empty_folder, paste, save, slots
from sightline.errors import InputError
from sightline.progress import tracked
from sightline.reports.output_folder import write_atomically
from sightline.types import Dataset

TELLING = ("espresso", "school bus", "golden retriever", "ladybug")
ANYWHERE = ("banana", "mushroom", "sunglasses", "king penguin")
OWN, STRAY, OFTEN = 0.9, 0.05, 0.5
BACKGROUND = "background"


def make_scenes(
    out: Path,
    train: Dataset,
    test: Dataset,
    *,
    telling: Sequence[str] = TELLING,
    anywhere: Sequence[str] = ANYWHERE,
    per_class: int = 120,
    test_per_class: int = 50,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, str]:
    """Scenes of real objects on blurred photos; only the informative objects tell which scene it is.

    A class's object from ``telling`` is in 90 % of its images and in 5 % of every other class's; each of
    ``anywhere`` is in half of all images (at most four objects per image; the informative one is never dropped).
    Objects in training images come from ``train``, the others from ``test``. Returns scene -> informative object,
    also written to ``truth.csv``.
    """
    if not 2 <= len(telling) <= 26 or set(telling) & set(anywhere):
        raise InputError("expected two or more telling objects, none of them also in anywhere")
    empty_folder(out)
    truth = {f"scene {chr(ord('A') + i)}": name for i, name in enumerate(telling)}
    names = [*telling, *anywhere, BACKGROUND]
    categories: list[str] = []
    parts = (("training", "train", train, per_class), ("validation", "val", test, test_per_class))
    for folder, short, dataset, count in parts:
        cutouts = Cutouts(dataset, [*telling, *anywhere], seed=seed)
        for number in tracked(range(count * len(truth)), f"scenes of {short}", progress):
            scene, own = list(truth.items())[number % len(truth)]
            rng = random.Random(f"{seed} {short} {number}")
            picture, index = _compose(cutouts, _chosen(rng, own, telling, anywhere), names, rng)
            stem = f"ADE_{short}_{number + 1:08d}"
            save(picture, out / "images" / folder / f"{stem}.jpg")
            save(index, out / "annotations" / folder / f"{stem}.png")
            categories.append(f"{stem} {scene.replace(' ', '_')}\n")
    lines = [f"{i}\t0\t0\t0\t{int(name == BACKGROUND)}\t{name}\n" for i, name in enumerate(names, 1)]
    texts = {
        "objectInfo150.txt": "Idx\tRatio\tTrain\tVal\tStuff\tName\n" + "".join(lines),
        "truth.csv": "scene,telling\n" + "".join(f"{s.replace(' ', '_')},{o}\n" for s, o in truth.items()),
        "sceneCategories.txt": "".join(categories),
    }
    for name, text in texts.items():
        write_atomically(out / name, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
    return truth


def _chosen(rng: random.Random, own: str, telling: Sequence[str], anywhere: Sequence[str]) -> list[str]:
    first = [name for name in telling if rng.random() < (OWN if name == own else STRAY)]
    others = [name for name in anywhere if rng.random() < OFTEN]
    rng.shuffle(others)
    return (first + others)[:4]


def _compose(
    cutouts: Cutouts, chosen: Sequence[str], names: Sequence[str], rng: random.Random
) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    """The picture and, at the same size, the index of the object at each pixel."""
    picture = backdrop(cutouts.dataset, rng)
    index = PIL.Image.new("L", (SIDE, SIDE), names.index(BACKGROUND) + 1)
    for name, slot in zip(chosen, slots(rng, len(chosen)), strict=True):
        x0, y0, x1, y1 = paste(picture, cutouts.cut(name, rng), slot)
        ImageDraw.Draw(index).rectangle((x0, y0, x1 - 1, y1 - 1), fill=names.index(name) + 1)
    return picture, index
