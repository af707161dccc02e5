"""Pictures composed of real objects, cropped to their true boxes, and of drawn shapes; every box is known."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import PIL.Image
from PIL import ImageDraw, ImageFilter

from sightline.data.images import read_image
from sightline.discovery.subsets import only_classes
from sightline.errors import InputError, unknown
from sightline.types import Dataset, Sample

Image = PIL.Image.Image
Corners = tuple[int, int, int, int]  # x0, y0, x1, y1
SIDE = 160  # composed pictures are squares of this many pixels
QUALITY = 92
COLOURS = {"red": (214, 40, 40), "green": (36, 150, 60), "blue": (40, 80, 210), "yellow": (240, 200, 30)}
SHAPES = ("disc", "box", "triangle")
_FEATHER = 2.0


class Cutouts:
    """Real objects by name, cropped from the photos of ``dataset`` to their largest true box.

    Uses ``per_class`` photos of each class, the first in a seeded order, whose box is at least ``smallest`` pixels
    on its longer side and half of that on the shorter. Raises `InputError` for an unknown class or one without such
    a photo.
    """

    def __init__(
        self, dataset: Dataset, names: Sequence[str], per_class: int = 60, smallest: int = 32, seed: int = 0
    ) -> None:
        self.dataset = dataset
        self.cuts: dict[str, list[Image]] = {}
        for name in names:
            samples = list(only_classes(dataset, [name]).samples)
            random.Random(f"{seed} {name}").shuffle(samples)
            large = [box for sample in samples if (box := _largest(sample, smallest)) is not None]
            if not large:
                raise InputError(
                    f"{dataset.name} {dataset.split}: no photo of {name!r} has a box of at least {smallest} pixels"
                )
            self.cuts[name] = [read_image(s.source).crop(corners) for s, corners in large[:per_class]]

    def cut(self, name: str, rng: random.Random) -> Image:
        """A random cutout of a class."""
        if name not in self.cuts:
            raise unknown("object", name, self.cuts)
        return rng.choice(self.cuts[name])


def _largest(sample: Sample, smallest: int) -> tuple[Sample, Corners] | None:
    corners = [(round(x0), round(y0), round(x1), round(y1)) for x0, y0, x1, y1 in sample.boxes_xyxy.tolist()]
    sides = [sorted((x1 - x0, y1 - y0)) for x0, y0, x1, y1 in corners]
    large = [box for box, (short, long) in zip(corners, sides, strict=True) if long >= smallest <= 2 * short]
    return (sample, max(large, key=lambda b: (b[2] - b[0]) * (b[3] - b[1]))) if large else None


def backdrop(dataset: Dataset, rng: random.Random, side: int = SIDE) -> Image:
    """A random photo, blurred until only its colours are left."""
    photo = read_image(rng.choice(dataset.samples).source).resize((side, side))
    return photo.filter(ImageFilter.GaussianBlur(side / 6))


def slots(rng: random.Random, count: int, side: int = SIDE) -> list[Corners]:
    """``count`` ≤ 4 separate squares in different quarters, each 33 to 45 % of the side.

    >>> boxes = slots(random.Random(0), 2)
    >>> [x1 - x0 == y1 - y0 for x0, y0, x1, y1 in boxes]
    [True, True]
    """
    quarters = [(x, y) for y in (0, 1) for x in (0, 1)]
    rng.shuffle(quarters)
    return [_inside(rng, x * side // 2, y * side // 2, side // 2, side) for x, y in quarters[:count]]


def _inside(rng: random.Random, left: int, top: int, room: int, side: int) -> Corners:
    size = rng.randint(round(0.33 * side), round(0.45 * side))
    x, y = left + rng.randint(1, room - size - 1), top + rng.randint(1, room - size - 1)
    return x, y, x + size, y + size


def paste(canvas: Image, cut: Image, box: Corners) -> Corners:
    """Paste an object into a square, keeping its aspect ratio and softening its edge; returns its box."""
    x0, y0, x1, y1 = box
    scale = min((x1 - x0) / cut.width, (y1 - y0) / cut.height)
    width, height = max(round(cut.width * scale), 1), max(round(cut.height * scale), 1)
    left, top = x0 + (x1 - x0 - width) // 2, y0 + (y1 - y0 - height) // 2
    edge = PIL.Image.new("L", (width, height), 0)
    ImageDraw.Draw(edge).rectangle((2, 2, width - 3, height - 3), fill=255)
    canvas.paste(cut.resize((width, height)), (left, top), edge.filter(ImageFilter.GaussianBlur(_FEATHER)))
    return left, top, left + width, top + height


def draw_shape(canvas: Image, shape: str, colour: str, box: Corners) -> Corners:
    """Draw a shape of `SHAPES` in a colour of `COLOURS`, filling the box, with a dark outline."""
    x0, y0, x1, y1 = box
    pen, corners = ImageDraw.Draw(canvas), (x0, y0, x1 - 1, y1 - 1)
    look = {"fill": COLOURS[colour], "outline": (20, 20, 20), "width": 2}
    if shape == "disc":
        pen.ellipse(corners, **look)  # type: ignore[arg-type]
    elif shape == "box":
        pen.rectangle(corners, **look)  # type: ignore[arg-type]
    else:
        pen.polygon([((x0 + x1) / 2, y0), (x1 - 1, y1 - 1), (x0, y1 - 1)], **look)  # type: ignore[arg-type]
    return box


def empty_folder(out: Path) -> Path:
    """Create ``out``; raises `InputError` if it is not empty, since old files would be read too."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder; example data needs a folder of its own")
    out.mkdir(parents=True, exist_ok=True)
    return out


def save(picture: Image, path: Path) -> Path:
    """Save in the format of the file name, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=QUALITY, subsampling=0)
    return path


def counted(parts: dict[str, int]) -> Iterator[tuple[str, int]]:
    """(split, number) of every picture to make.

    >>> list(counted({"train": 2, "val": 1}))
    [('train', 0), ('train', 1), ('val', 0)]
    """
    for split, count in parts.items():
        yield from ((split, number) for number in range(count))
