"""Drawn images: coloured shapes whose class and box are known to the pixel."""

from __future__ import annotations

import colorsys
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

Corners = tuple[int, int, int, int]
BACKGROUND = (230, 230, 230)


@dataclass(frozen=True)
class Shape:
    """One coloured shape: its class and the half-open pixel edges of its bounding box."""

    label: int
    box: Corners

    @property
    def inclusive(self) -> Corners:
        x0, y0, x1, y1 = self.box
        return x0, y0, x1 - 1, y1 - 1


@dataclass(frozen=True)
class Drawing:
    """One image of a fixture: the class it is filed under and all its shapes."""

    number: int
    label: int
    size_wh: tuple[int, int]
    shapes: tuple[Shape, ...]

    def boxes(self, label: int) -> list[list[float]]:
        """What an adapter should read for a class."""
        return [[float(edge) for edge in shape.box] for shape in self.shapes if shape.label == label]

    @property
    def labels(self) -> list[int]:
        return sorted({shape.label for shape in self.shapes})

    def image(self) -> Image.Image:
        picture = Image.new("RGB", self.size_wh, BACKGROUND)
        pen = ImageDraw.Draw(picture)
        for shape in self.shapes:
            draw = (pen.rectangle, pen.ellipse)[shape.label % 2]
            draw(shape.inclusive, fill=colour(shape.label))
        return picture

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.image().save(path, quality=95, subsampling=0)


def colour(label: int) -> tuple[int, int, int]:
    """A saturated colour for each class; steps of the golden ratio keep neighbours apart."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 1, 0.75)
    return round(red * 255), round(green * 255), round(blue * 255)


def drawings(
    classes: int, per_class: int, side: int, seed: int, *, mixed: bool = False, wide: bool = True
) -> list[Drawing]:
    """``per_class`` drawings of each class; every third has a second shape, of another class if ``mixed``.

    Images are ``side`` high and, if ``wide``, a quarter wider. The two shapes lie in different halves.

    >>> [d.label for d in drawings(2, 2, 32, seed=0)]
    [0, 1, 0, 1]
    """
    rng = random.Random(seed)
    size_wh = (side + side // 4 if wide else side, side)
    found = []
    for number in range(classes * per_class):
        label, halves = number % classes, [0, 1]
        rng.shuffle(halves)
        second = (label + 1) % classes if mixed else label
        shapes = [Shape(label, _box(rng, size_wh, halves[0]))]
        shapes += [Shape(second, _box(rng, size_wh, halves[1]))] if number % 3 == 2 else []
        found.append(Drawing(number, label, size_wh, tuple(shapes)))
    return found


def _box(rng: random.Random, size_wh: tuple[int, int], half: int) -> Corners:
    """A box in the left (0) or right (1) half, between a quarter of the image's height and all of it."""
    width, height = size_wh[0] // 2, size_wh[1]
    w, h = rng.randint(width // 2, width - 2), rng.randint(height // 4, height - 2)
    x, y = rng.randint(0, width - w) + half * (size_wh[0] - width), rng.randint(0, height - h)
    return x, y, x + w, y + h


def names(classes: int) -> list[str]:
    """What the classes are called: sorted names give the labels.

    >>> names(3)
    ['000 box', '001 disc', '002 box']
    """
    return [f"{label:03d} {('box', 'disc')[label % 2]}" for label in range(classes)]


def wnids(classes: int) -> list[str]:
    """Made-up WordNet ids in ascending order."""
    return [f"n{10000000 + 37 * label:08d}" for label in range(classes)]
