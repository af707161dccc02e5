"""Galleries: rows of small pictures with a line or two of text under each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import PIL.Image
from PIL import ImageDraw
from torch import Tensor

from sightline.pictures.contact_sheet import PREDICTED, TRUE, frames
from sightline.pictures.overlay import GREY, INK, PAPER, Colour, Image, overlay, resized, shorten, typeface

RIGHT, WRONG = TRUE, PREDICTED
_GAP, _MARGIN, _TEXT, _LINE = 8, 20, 13.0, 18


@dataclass(frozen=True)
class Tile:
    """A picture and the lines of text under it, the first in ``colour``; None leaves the tile empty."""

    picture: Image | None
    lines: tuple[str, ...] = ()
    colour: Colour = INK


def gallery(
    rows: Sequence[tuple[str, Sequence[Tile]]],
    title: str = "",
    *,
    headings: Sequence[str] = (),
    tile: int = 132,
    label: int = 150,
) -> Image:
    """Rows of (label, tiles) in squares of ``tile`` pixels; ``headings`` go above the columns.

    Pictures keep their aspect ratio. Labels, possibly of several lines, are on the left, ``label`` pixels wide.

    >>> gallery([("unit 7", [Tile(PIL.Image.new("RGB", (30, 20), "teal"), ("tabby",))])]).size
    (330, 198)
    """
    columns = max((len(tiles) for _, tiles in rows), default=1)
    under = max((len(one.lines) for _, tiles in rows for one in tiles), default=0)
    width = 2 * _MARGIN + label + columns * (tile + _GAP)
    top = _MARGIN + (round(1.5 * _LINE) if title else 0) + (_LINE if headings else 0)
    height = tile + under * _LINE + _GAP
    sheet = PIL.Image.new("RGB", (width, top + len(rows) * height + _MARGIN), PAPER)
    draw, face, bold = ImageDraw.Draw(sheet), typeface(_TEXT), typeface(_TEXT, bold=True)
    draw.text(
        (_MARGIN, _MARGIN - 8), shorten(title, typeface(_TEXT + 2, bold=True), width - 2 * _MARGIN), INK,
        typeface(_TEXT + 2, bold=True),
    )  # fmt: skip
    for column, heading in enumerate(headings):
        x = _MARGIN + label + column * (tile + _GAP)
        draw.text((x, top - _LINE), shorten(heading, bold, tile), INK, bold)
    for number, (name, tiles) in enumerate(rows):
        y = top + number * height
        for line, text in enumerate(name.splitlines()):
            kind = bold if line == 0 else face
            draw.text((_MARGIN, y + 4 + line * _LINE), shorten(text, kind, label - 8), INK, kind)
        for column, one in enumerate(tiles):
            _place(sheet, one, (_MARGIN + label + column * (tile + _GAP), y), tile)
    return sheet


def _place(sheet: Image, one: Tile, corner: tuple[int, int], side: int) -> None:
    face, (x, y) = typeface(_TEXT - 1), corner
    if one.picture is not None:
        scale = side / max(one.picture.size)
        size = (max(round(one.picture.width * scale), 1), max(round(one.picture.height * scale), 1))
        fitted = one.picture if size == one.picture.size else resized(one.picture, size)
        sheet.paste(fitted, (x + (side - size[0]) // 2, y + (side - size[1]) // 2))
    for number, text in enumerate(one.lines):
        colour = one.colour if number == 0 else GREY
        place = (x, y + side + 2 + number * _LINE)
        ImageDraw.Draw(sheet).text(place, shorten(text, face, side), colour, face)


def framed(
    photo: Image, true: Tensor | None = None, predicted: Tensor | None = None, side: int = 264
) -> Image:
    """The photo with its true boxes (B, 4) in dashed green and predicted ones in red.

    >>> framed(PIL.Image.new("RGB", (64, 32)), Tensor([[2, 2, 30, 30]])).size
    (264, 132)
    """
    scale = side / max(photo.size)
    picture = resized(photo, (max(round(photo.width * scale), 1), max(round(photo.height * scale), 1)))
    by = (picture.width / photo.width, picture.height / photo.height)
    if predicted is not None:
        frames(picture, predicted.tolist(), by, PREDICTED)
    if true is not None:
        frames(picture, true.tolist(), by, TRUE, dash=8)
    return picture


def mapped(
    photo: Image, heatmap: Tensor, true: Tensor | None = None, predicted: Tensor | None = None
) -> Image:
    """The photo under a heatmap (H, W) in [0, 1]; predicted boxes white, true ones dashed green.

    >>> mapped(PIL.Image.new("RGB", (64, 32)), Tensor([[0.0, 1.0]])).size
    (192, 96)
    """
    picture = overlay(photo, heatmap, boxes_xyxy=predicted)
    if true is not None:
        frames(
            picture, true.tolist(), (picture.width / photo.width, picture.height / photo.height), TRUE, dash=8
        )
    return picture
