"""Signals and volumes as pictures: a curve, and slices side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import PIL.Image
import torch
from PIL import ImageDraw
from torch import Tensor
from torch.nn.functional import pad

from sightline.pictures.overlay import GREY, INK, PAPER, Image

MOST_SLICES = 12
WIDTH, HEIGHT = 576, 192  # pixels of a curve
MOST_CURVES = 8


def as_picture(values: Tensor, axes: int) -> Tensor:
    """Values (..., *grid) with one to three spatial axes, laid out in two: (..., H, W).

    A line is one row; at most 12 slices of a volume, evenly spaced, stand side by side from left to right and from top
    to bottom.

    >>> as_picture(torch.zeros(3, 8), 1).shape, as_picture(torch.zeros(3, 8, 4, 5), 3).shape
    (torch.Size([3, 1, 8]), torch.Size([3, 12, 15]))
    """
    if axes == 2:
        return values
    if axes == 1:
        return values.unsqueeze(-2)
    depth, height, width = values.shape[-3:]
    shown = torch.linspace(0, depth - 1, min(depth, MOST_SLICES)).round().long()
    columns = math.ceil(math.sqrt(len(shown)))
    rows = math.ceil(len(shown) / columns)
    slices = pad(values[..., shown, :, :], (0, 0, 0, 0, 0, rows * columns - len(shown)))
    grid = slices.reshape(*values.shape[:-3], rows, columns, height, width)
    return grid.transpose(-3, -2).reshape(*values.shape[:-3], rows * height, columns * width)


def size_in_words(grid: Sequence[int]) -> str:
    """What a signal (L,) or a volume (D, H, W) is, and how much of it `as_picture` shows.

    >>> size_in_words((400,)), size_in_words((16, 48, 48))
    ('400 values', '16 × 48 × 48, 12 of its slices')
    """
    if len(grid) == 1:
        return f"{grid[0]} values"
    depth, height, width = grid
    part = f", {MOST_SLICES} of its slices" if depth > MOST_SLICES else ""
    return f"{depth} × {height} × {width}{part}"


def curve(signal: Tensor) -> Image:
    """A signal (C, L) as curves over its whole range, the first channel in front; at most 8 channels.

    >>> curve(torch.rand(2, 100)).size
    (576, 192)
    """
    signal = signal[:MOST_CURVES].float().cpu()
    low, high = signal.amin(), signal.amax()
    levels = (signal - low) / (high - low).clamp(min=1e-12)
    picture = PIL.Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(picture)
    across = (torch.arange(signal.shape[1]) + 0.5) / signal.shape[1] * WIDTH
    for number, channel in reversed(list(enumerate(levels))):
        down = (HEIGHT - 1) * (0.95 - 0.9 * channel)
        points = list(zip(across.tolist(), down.tolist(), strict=True))
        draw.line(points, GREY if number else INK, 1 if number else 2)
    return picture
