"""Text drawn on real photos at known positions, and the same photos without it: class folders with boxes.csv."""

from __future__ import annotations

import random
import string
from pathlib import Path

import PIL.Image
from PIL import ImageDraw, ImageFont

from sightline.data.images import read_image
from sightline.discovery.examples.canvas import Corners, empty_folder, save
from sightline.progress import tracked
from sightline.reports.output_folder import write_atomically
from sightline.types import Dataset

SIDE = 128
INKS = ((255, 255, 255), (15, 15, 15), (240, 220, 60), (200, 30, 40))


def make_text(
    out: Path, train: Dataset, test: Dataset, *, count: int = 400, test_count: int = 150, seed: int = 0,
    progress: bool = True,
) -> None:  # fmt: skip
    """``{train,test}/{text,plain}/*.jpg`` and ``{train,test}/boxes.csv``: one or two lines of random letters.

    Every photo appears twice, with and without text, so that nothing else separates the classes; training photos
    come from ``train``, the others from ``test``. Letters are 12 to 24 pixels high on 128-pixel photos, in Pillow's
    default font, in one of four colours with an outline of the opposite brightness.
    """
    empty_folder(out)
    for split, dataset, wanted in (("train", train, count), ("test", test, test_count)):
        chosen = random.Random(f"{seed} {split}").sample(
            range(len(dataset.samples)), min(wanted, len(dataset))
        )
        lines = ["file,x0,y0,x1,y1,class\n"]
        for number in tracked(range(len(chosen)), f"photos of {split}", progress):
            photo = read_image(dataset.samples[chosen[number]].source).resize((SIDE, SIDE))
            save(photo, out / split / "plain" / f"{number:05d}.jpg")
            box = write_on(photo, random.Random(f"{seed} {split} {number}"))
            save(photo, out / split / "text" / f"{number:05d}.jpg")
            lines.append(f"text/{number:05d}.jpg,{','.join(map(str, box))},text\n")
        table = "".join(lines).encode()
        write_atomically(out / split / "boxes.csv", lambda file, table=table: file.write(table))  # type: ignore[misc]


def write_on(photo: PIL.Image.Image, rng: random.Random) -> Corners:
    """Draw one or two words anywhere on the photo; returns the box around them.

    >>> photo = PIL.Image.new("RGB", (128, 128))
    >>> box, ink = write_on(photo, random.Random(1)), photo.getbbox()
    >>> box[0] <= ink[0] and box[1] <= ink[1] and ink[2] <= box[2] and ink[3] <= box[3]
    True
    """
    face = ImageFont.load_default(size=rng.randint(12, 24))
    text = "\n".join(_word(rng) for _ in range(rng.randint(1, 2)))
    ink = rng.choice(INKS)
    edge = (0, 0, 0) if sum(ink) > 380 else (255, 255, 255)
    pen = ImageDraw.Draw(photo)
    x0, y0, x1, y1 = pen.multiline_textbbox((0, 0), text, face, stroke_width=1)
    x = rng.randint(0, max(photo.width - int(x1 - x0) - 1, 0))
    y = rng.randint(0, max(photo.height - int(y1 - y0) - 1, 0))
    pen.multiline_text((x - x0, y - y0), text, ink, face, stroke_width=1, stroke_fill=edge)
    return (x, y, min(x + round(x1 - x0), photo.width), min(y + round(y1 - y0), photo.height))


def _word(rng: random.Random) -> str:
    letters = rng.choice((string.ascii_uppercase, string.ascii_lowercase, string.digits))
    return "".join(rng.choices(letters, k=rng.randint(3, 6)))
