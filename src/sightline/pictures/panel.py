"""The panel: the photo, with one column per class and one row per method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import PIL.Image
from PIL import ImageDraw
from torch import Tensor

from sightline.errors import InputError
from sightline.pictures.overlay import (
    FAINT,
    GREY,
    INK,
    PAPER,
    WIDEST,
    Box,
    Image,
    colour_table,
    drawn_size,
    overlay,
    resized,
    shorten,
    typeface,
)
from sightline.scores import percent_text
from sightline.types import no_boxes

MAX_COLUMNS = 20
LEADING = 17  # from one line of the caption to the next
MAX_PIXELS = 24_000_000
CELL = 288  # pixels of a cell's longer side; fonts and margins are specified for this size


@dataclass(frozen=True)
class Cell:
    """One class by one method.

    ``heatmap`` (H, W) in [0, 1]; ``score``: a probability in [0, 1], drawn as a bar and a percentage, or with
    ``share=False`` any value, drawn as a number; ``boxes_xyxy`` (B, 4) in photo pixels; ``signed`` (3, H, W), if the
    method has one, is drawn instead of the heatmap and without boxes, since its scattered pixels form no region.
    """

    heatmap: Tensor
    category: str
    score: float | None = None
    boxes_xyxy: Tensor = field(default_factory=no_boxes)
    signed: Tensor | None = None
    share: bool = True


@dataclass(frozen=True)
class _Layout:
    """Positions in pixels of the panel; ``s`` scales fonts and margins with the cell."""

    columns: int
    rows: int
    picture: tuple[int, int]
    s: float

    def px(self, pixels: float) -> int:
        return max(round(pixels * self.s), 1)

    @property
    def column(self) -> int:
        """The width of a column; at least enough for a class name."""
        return max(self.picture[0], self.px(150))

    @property
    def grid_left(self) -> int:
        return self.px(20) + self.column + self.px(44)

    @property
    def grid_top(self) -> int:
        return self.px(68)

    @property
    def grid_bottom(self) -> int:
        return self.y(self.rows - 1) + self.picture[1]

    def x(self, column: int) -> int:
        return self.grid_left + column * (self.column + self.px(14))

    def y(self, row: int) -> int:
        return self.grid_top + row * (self.picture[1] + self.px(14))

    @property
    def bar_left(self) -> int:
        return self.x(self.columns - 1) + self.column + self.px(18)

    @property
    def size(self) -> tuple[int, int]:
        return self.bar_left + self.px(78), self.grid_bottom + self.px(44)


def _layout(photo_size: tuple[int, int], columns: int, rows: int, cell: int) -> _Layout:
    def at(side: int) -> _Layout:
        return _Layout(columns, rows, drawn_size(photo_size, side, side), side / CELL)

    width, height = at(cell).size
    return at(min(cell, int(cell * math.sqrt(MAX_PIXELS / (width * height)))))


def panel(
    photo: Image,
    rows: Sequence[tuple[str, Sequence[Cell]]],
    *,
    title: str = "",
    facts: str = "",
    caption: str = "",
    shown_xyxy: Box | None = None,
    colormap: str = "turbo",
    alpha: float = 0.5,
    threshold: float | None = None,
    cell: int = CELL,
) -> Image:
    """The photo and a grid: one column per class with its name and score, one row per method, and a colour bar.

    ``rows`` are (method, cells), with the same classes in the same order in each row; at most 20 are drawn.
    ``shown_xyxy`` is the part of the photo the network saw (see `overlay`); ``threshold`` in [0, 1] is marked on the
    colour bar; ``title`` and ``facts`` (by default the photo's size) go above the photo, ``caption`` below everything.
    Raises `InputError` for no rows and
    for rows of different classes.

    >>> import torch
    >>> photo = PIL.Image.new("RGB", (64, 64), "teal")
    >>> panel(photo, [("cam", [Cell(torch.rand(7, 7), "tabby", 0.62)])]).mode
    'RGB'
    """
    names = [[cell.category for cell in cells] for _, cells in rows]
    if not names or not names[0]:
        raise InputError("a panel needs at least one method and one class")
    if any(other != names[0] for other in names):
        raise InputError(f"the panel's rows have different classes: {names}; expected the same in each row")
    layout = _layout(photo.size, min(len(names[0]), MAX_COLUMNS), len(rows), cell)
    more = len(names[0]) - layout.columns
    signed = any(entry.signed is not None for _, cells in rows for entry in cells)
    notes = [caption, "mid-grey: zero" * signed, f"{more} more classes are not drawn" * (more > 0)]
    lines = _caption_lines(layout, " · ".join(filter(None, notes)))
    width, height = layout.size
    canvas = PIL.Image.new("RGB", (width, height + (len(lines) - 1) * layout.px(LEADING)), PAPER)
    _draw_photo(canvas, layout, photo, title, facts)
    for column, entry in enumerate(rows[0][1][:MAX_COLUMNS]):
        _draw_heading(canvas, layout, column, entry)
    for row, (method, cells) in enumerate(rows):
        _draw_method(canvas, layout, row, method)
        for column, entry in enumerate(cells[:MAX_COLUMNS]):
            picture = overlay(
                photo,
                entry.heatmap,
                alpha,
                colormap,
                None if entry.signed is not None else entry.boxes_xyxy,
                signed=entry.signed,
                shown_xyxy=shown_xyxy,
                size=layout.picture,
            )
            canvas.paste(picture, (layout.x(column), layout.y(row)))
    _draw_colour_bar(canvas, layout, colormap, alpha, threshold)
    _draw_caption(canvas, layout, lines)
    return canvas


def unsure_note(classes: int) -> str:
    """The note for a photo whose best score is too low to trust (`Explanation.sure`).

    >>> unsure_note(1000)
    'not sure: none of the 1,000 classes fits well'
    """
    return f"not sure: none of the {classes:,} classes fits well"


def _draw_photo(canvas: Image, layout: _Layout, photo: Image, title: str, facts: str) -> None:
    draw, left = ImageDraw.Draw(canvas), layout.px(20)
    canvas.paste(resized(photo, layout.picture), (left, layout.grid_top))
    name, small = typeface(layout.px(16), bold=True), typeface(layout.px(13))
    draw.text((left, layout.px(30)), shorten(title or "photo", name, layout.column), INK, name, "ls")
    narrow = max(photo.size) > WIDEST * min(photo.size)
    facts = facts or f"{photo.width} × {photo.height} pixels" + ", stretched" * narrow
    draw.text((left, layout.px(52)), shorten(facts, small, layout.column), GREY, small, "ls")


def _draw_heading(canvas: Image, layout: _Layout, column: int, entry: Cell) -> None:
    """Class name, and under it the score as a bar and a number."""
    draw, left = ImageDraw.Draw(canvas), layout.x(column)
    name, small = typeface(layout.px(16), bold=True), typeface(layout.px(13))
    draw.text((left, layout.px(30)), shorten(entry.category, name, layout.column), INK, name, "ls")
    if entry.score is None:
        return
    if not entry.share:
        draw.text((left, layout.px(52)), f"{entry.score:.4g}", INK, small, "ls")
        return
    text = percent_text(entry.score)
    room, middle, half = layout.px(64), layout.px(47), layout.px(3)
    right = left + layout.column - room
    draw.rectangle((left, middle - half, right, middle + half), FAINT)
    end = left + round((right - left) * entry.score)
    if end > left:
        draw.rectangle((left, middle - half, end, middle + half), INK)
    draw.text((left + layout.column, layout.px(52)), text, INK, small, "rs")


def _draw_method(canvas: Image, layout: _Layout, row: int, method: str) -> None:
    """The method's name, rotated along its row."""
    face = typeface(layout.px(15), bold=True)
    width, height = layout.picture[1], layout.px(24)
    strip = PIL.Image.new("RGB", (width, height), PAPER)
    text = shorten(method, face, width)
    ImageDraw.Draw(strip).text((width / 2, height / 2), text, INK, face, "mm")
    canvas.paste(strip.rotate(90, expand=True), (layout.grid_left - layout.px(30), layout.y(row)))


def _draw_colour_bar(
    canvas: Image, layout: _Layout, colormap: str, alpha: float, threshold: float | None
) -> None:
    """The colour scale of all heatmaps, 0 to 1, over mid-grey, with the box threshold marked."""
    draw, left, width = ImageDraw.Draw(canvas), layout.bar_left, layout.px(14)
    top = layout.grid_top
    height = min(layout.grid_bottom - top, round(1.5 * CELL * layout.s))
    table = colour_table(colormap)[np.linspace(255, 0, height).round().astype(int)]
    bar = PIL.Image.fromarray(np.repeat(table[:, None], width, axis=1))
    canvas.paste(PIL.Image.blend(PIL.Image.new("RGB", bar.size, (128, 128, 128)), bar, alpha), (left, top))
    face = typeface(layout.px(12))
    ticks = [(1.0, "1"), (0.5, "0.5"), (0.0, "0")]
    if threshold is not None and 0 < threshold < 1:
        ticks = [(at, text) for at, text in ticks if abs(at - threshold) > 0.06]
        ticks.append((threshold, f"{threshold:.2g} box"))
    for at, text in ticks:
        y = top + round((1 - at) * (height - 1))
        draw.line((left + width, y, left + width + layout.px(4), y), INK, layout.px(1))
        draw.text((left + width + layout.px(8), y), text, INK, face, "lm")


def _caption_lines(layout: _Layout, text: str) -> list[str]:
    """The caption in lines as wide as the panel, broken between its parts; a part that is wider is shortened."""
    face, width = typeface(layout.px(12)), layout.size[0] - 2 * layout.px(20)
    lines: list[str] = []
    for part in text.split(" · "):
        longer = f"{lines[-1]} · {part}" if lines else part
        if lines and face.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(shorten(part, face, width))
    return lines


def _draw_caption(canvas: Image, layout: _Layout, lines: Sequence[str]) -> None:
    draw, face = ImageDraw.Draw(canvas), typeface(layout.px(12))
    for number, text in enumerate(lines):
        below = layout.size[1] - layout.px(16) + number * layout.px(LEADING)
        draw.text((layout.px(20), below), text, GREY, face, "ls")
