"""The review sheet: photos with their boxes, in the order given, for a person to look through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import PIL.Image
from PIL import ImageDraw

from sightline.data.images import read_image
from sightline.pictures.contact_sheet import GAP, MARGIN, PREDICTED, TILE, frames
from sightline.pictures.overlay import GREY, INK, PAPER, Image, resized, shorten, typeface

if TYPE_CHECKING:
    from sightline.types import ImageSource

COLUMNS = 6
_LINE = 18


@dataclass(frozen=True)
class Entry:
    """One photo of the sheet; boxes in photo pixels; ``title`` bold, ``note`` grey."""

    source: ImageSource
    boxes: list[list[float]]
    title: str
    note: str = ""


def review_sheet(entries: Sequence[Entry], title: str = "", columns: int = COLUMNS) -> Image:
    """Tiles of 230×230 pixels in rows, each with its box, a title and a note below.

    >>> review_sheet([Entry(PIL.Image.new("RGB", (64, 48)), [[4, 4, 40, 40]], "tabby", "doubt 0.90")]).size
    (278, 343)
    """
    across = max(min(columns, len(entries)), 1)
    rows = -(-len(entries) // columns)
    step = TILE + 2 * _LINE + GAP
    size = (2 * MARGIN + across * (TILE + GAP) - GAP, MARGIN + _LINE + 10 + rows * step + MARGIN - GAP + 1)
    sheet = PIL.Image.new("RGB", size, PAPER)
    bold, small = typeface(13.0, bold=True), typeface(12.0)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 8), shorten(title, bold, sheet.width - 2 * MARGIN), INK, bold)
    for number, entry in enumerate(entries):
        x = MARGIN + number % columns * (TILE + GAP)
        y = MARGIN + _LINE + 10 + number // columns * step
        photo = read_image(entry.source)
        scale = TILE / max(photo.size)
        small_size = (max(round(photo.width * scale), 1), max(round(photo.height * scale), 1))
        picture = resized(photo, small_size)
        by = (small_size[0] / photo.width, small_size[1] / photo.height)
        frames(picture, entry.boxes, by, PREDICTED)
        sheet.paste(picture, (x, y))
        draw.text((x, y + TILE + 3), shorten(entry.title, bold, TILE), INK, bold)
        draw.text((x, y + TILE + 3 + _LINE), shorten(entry.note, small, TILE), GREY, small)
    return sheet
