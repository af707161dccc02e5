"""Two objects side by side, with captions that say so, in COCO's layout: every word has a known box."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import PIL.Image

from sightline.discovery.examples.canvas import (
    COLOURS,
    SHAPES,
    SIDE,
    Corners,
    Cutouts,
    backdrop,
    draw_shape,
    empty_folder,
    paste,
    save,
)
from sightline.discovery.examples.captions import save_json
from sightline.progress import tracked
from sightline.types import Dataset

ANIMALS = ("lion", "king penguin", "golden retriever", "ladybug", "goldfish", "bullfrog")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
Words = dict[str, Corners]


def make_places(
    out: Path, train: Dataset, test: Dataset, *, count: int = 1200, test_count: int = 200, seed: int = 0,
    progress: bool = True,
) -> None:  # fmt: skip
    """``annotations/captions_{split}.json`` and ``instances_{split}.json`` with ``{split}/*.jpg``.

    A drawn coloured shape and an animal from a real photo, side by side or one above the other. Both captions are
    true: "a red disc left of a lion", "a lion right of a red disc". The instance categories are the words that
    have a box: red, disc, lion.
    """
    empty_folder(out)
    words = [*COLOURS, *SHAPES, *ANIMALS]
    for split, dataset, wanted in (("train", train, count), ("val", test, test_count)):
        cutouts = Cutouts(dataset, ANIMALS, seed=seed)
        images, annotations, boxes = [], list[dict[str, Any]](), list[dict[str, Any]]()
        for number in tracked(range(wanted), f"pictures of {split}", progress):
            picture, captions, where = compose(cutouts, random.Random(f"{seed} {split} {number}"))
            file = f"{number:06d}.jpg"
            save(picture, out / split / file)
            images.append({"id": number, "file_name": file, "width": SIDE, "height": SIDE})
            annotations += [
                {"id": len(annotations) + i, "image_id": number, "caption": c} for i, c in enumerate(captions)
            ]
            for word, (x0, y0, x1, y1) in where.items():
                box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "category_id": words.index(word)}
                boxes.append({"id": len(boxes), "image_id": number, **box})
        save_json(
            out / "annotations" / f"captions_{split}.json", {"images": images, "annotations": annotations}
        )
        categories = [{"id": i, "name": word} for i, word in enumerate(words)]
        content = {"images": images, "annotations": boxes, "categories": categories}
        save_json(out / "annotations" / f"instances_{split}.json", content)


def compose(cutouts: Cutouts, rng: random.Random) -> tuple[PIL.Image.Image, list[str], Words]:
    """A picture, its two captions, and the box of every word that has one."""
    picture, half = backdrop(cutouts.dataset, rng), SIDE // 2
    relation = rng.choice(list(OPPOSITE))
    beside = relation in ("left of", "right of")
    first = 0 if relation in ("left of", "above") else half
    places = [_place(rng, side, half, beside) for side in (first, half - first)]
    colour, shape, animal = rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.choice(ANIMALS)
    drawn = draw_shape(picture, shape, colour, places[0])
    pasted = paste(picture, cutouts.cut(animal, rng), places[1])
    thing = f"a {colour} {shape}"
    captions = [f"{thing} {relation} a {animal}", f"a {animal} {OPPOSITE[relation]} {thing}"]
    return picture, captions, {colour: drawn, shape: drawn, animal: pasted}


def _place(rng: random.Random, side: int, half: int, beside: bool) -> Corners:
    """A square somewhere in one half of the picture."""
    size = rng.randint(52, 70)
    along = side + rng.randint(1, half - size - 1)
    across = rng.randint(1, SIDE - size - 1)
    x, y = (along, across) if beside else (across, along)
    return x, y, x + size, y + size
