"""The contact sheet: best, median and worst cases of an evaluation, with true and predicted boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import PIL.Image
from PIL import ImageDraw

from sightline.data.images import read_image
from sightline.pictures.overlay import GREY, INK, PAPER, Colour, Image, resized, shorten, typeface

if TYPE_CHECKING:
    from sightline.types import ImageSource

Boxes = list[list[float]]

TRUE, PREDICTED = (34, 177, 76), (225, 29, 42)
TILE, GAP, MARGIN = 230, 14, 24
_TEXT, _LINE = 13.0, 19
KINDS = ("best", "median", "worst")


@dataclass(frozen=True)
class Case:
    """One image of the contact sheet; boxes in photo pixels, ``iou`` at the row's threshold."""

    kind: str  # best | median | worst
    id: str
    source: ImageSource
    true_boxes: Boxes
    predicted_boxes: Boxes
    iou: float
    category: str
    predicted: str | None = None


def contact_sheet(cases: Sequence[Case], title: str = "") -> Image:
    """One row each for the best, median and worst cases; true boxes green, predicted ones red.

    Under each photo: the IoU, the true class and the predicted class. Photos keep their aspect ratio in tiles of
    230×230 pixels. Cases of a kind keep the order given.

    >>> case = Case("best", "a", PIL.Image.new("RGB", (64, 48)), [[4, 4, 40, 40]], [[6, 6, 40, 44]], 0.8, "tabby")
    >>> contact_sheet([case], "cam").size
    (552, 422)
    """
    lines = [[case for case in cases if case.kind == kind] for kind in KINDS]
    lines = [line for line in lines if line]
    widest = max((len(line) for line in lines), default=1)
    width = max(2 * MARGIN + widest * (TILE + GAP) - GAP, 552)
    line_height = _LINE + 6 + TILE + 3 * _LINE + GAP
    sheet = PIL.Image.new("RGB", (width, MARGIN + 2 * _LINE + 10 + len(lines) * line_height + MARGIN), PAPER)
    _head(sheet, title)
    for number, line in enumerate(lines):
        top = MARGIN + 2 * _LINE + 10 + number * line_height
        ImageDraw.Draw(sheet).text((MARGIN, top), line[0].kind, INK, typeface(_TEXT + 2, bold=True))
        for place, case in enumerate(line):
            _tile(sheet, case, (MARGIN + place * (TILE + GAP), top + _LINE + 6))
    return sheet


def _head(sheet: Image, title: str) -> None:
    draw, face = ImageDraw.Draw(sheet), typeface(_TEXT)
    bold = typeface(_TEXT + 2, bold=True)
    draw.text((MARGIN, MARGIN - 8), shorten(title, bold, sheet.width - 2 * MARGIN), INK, bold)
    x = float(MARGIN)
    for colour, text in ((TRUE, "true box (dashed)"), (PREDICTED, "predicted box")):
        top = MARGIN + _LINE
        draw.rectangle((x, top, x + 14, top + 12), outline=colour, width=3)
        draw.text((x + 20, top - 2), text, INK, face)
        x += 20 + face.getlength(text) + 24


def _tile(sheet: Image, case: Case, corner: tuple[int, int]) -> None:
    photo = read_image(case.source)
    scale = TILE / max(photo.size)
    size = (max(round(photo.width * scale), 1), max(round(photo.height * scale), 1))
    picture, by = resized(photo, size), (size[0] / photo.width, size[1] / photo.height)
    frames(picture, case.predicted_boxes, by, PREDICTED)
    frames(picture, case.true_boxes, by, TRUE, dash=8)
    sheet.paste(picture, corner)
    draw, face, bold = ImageDraw.Draw(sheet), typeface(_TEXT), typeface(_TEXT, bold=True)
    x, y = corner[0], corner[1] + TILE + 3
    iou = f"IoU {case.iou:.2f}" if case.predicted_boxes else "no box"
    draw.text((x, y), iou, INK, bold)
    name = shorten(case.id, typeface(_TEXT - 2), TILE - bold.getlength(iou) - 10)
    draw.text((x + bold.getlength(iou) + 8, y + 2), name, GREY, typeface(_TEXT - 2))
    draw.text((x, y + _LINE), shorten(f"true: {case.category}", face, TILE), TRUE, face)
    if case.predicted is not None:
        right = case.predicted == case.category
        text = f"{'✓' if right else '✗'} predicted: {case.predicted}"
        draw.text((x, y + 2 * _LINE), shorten(text, face, TILE), TRUE if right else PREDICTED, face)


def frames(picture: Image, boxes: Boxes, by: tuple[float, float], colour: Colour, dash: int = 0) -> None:
    """Frames visible on every photo; with ``dash``, what lies below shows through the gaps."""
    for x0, y0, x1, y1 in boxes:
        left, top = round(x0 * by[0]), round(y0 * by[1])
        size = max(round(x1 * by[0]) - left, 1), max(round(y1 * by[1]) - top, 1)
        frame, line = PIL.Image.new("L", size), PIL.Image.new("RGB", size, INK)
        for inset, shade, thick in ((0, INK, 1), (1, colour, 3), (4, INK, 1)):
            if min(size) > 2 * inset:
                corners = (inset, inset, size[0] - 1 - inset, size[1] - 1 - inset)
                ImageDraw.Draw(frame).rectangle(corners, outline=255, width=thick)
                ImageDraw.Draw(line).rectangle(corners, outline=shade, width=thick)
        if dash:
            _cut_gaps(frame, dash)
        picture.paste(line, (left, top), frame)


def _cut_gaps(frame: Image, dash: int) -> None:
    """Cut a frame into dashes and gaps of length ``dash``; the corners stay."""
    draw, (width, height) = ImageDraw.Draw(frame), frame.size
    for x in range(2 * dash, width - 2 * dash, 2 * dash):
        draw.rectangle((x, 0, x + dash - 1, height), fill=0)
    for y in range(2 * dash, height - 2 * dash, 2 * dash):
        draw.rectangle((0, y, width, y + dash - 1), fill=0)
