"""The largest region's box in pure tensor operations, for use in an exported graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def largest_boxes(masks: Tensor) -> Tensor:
    """The box of the largest 8-connected region of each mask: bool (M, H, W) -> float (M, 4), xyxy, half-open.

    The same box as `sightline.boxes.make_boxes`: of the largest region by area, the first of ties in reading order.
    An empty mask gives [0, 0, 0, 0]. H · W may be at most 2²⁴ (pixel numbers pass through float32).

    >>> mask = torch.tensor([[[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1]]]).bool()
    >>> largest_boxes(mask), largest_boxes(~mask.any() & mask)
    (tensor([[0., 0., 2., 2.]]), tensor([[0., 0., 0., 0.]]))
    """
    labels = region_labels(masks)
    m, height, width = masks.shape
    ones = torch.ones_like(labels)
    area = torch.zeros_like(labels).scatter_add(1, labels, ones)[:, :-1]  # the last entry is the background
    root = area.argmax(1, keepdim=True)  # the first of ties: regions are numbered by their first pixel
    region = (labels[:, :-1] == root).reshape(m, height, width)
    y0, y1 = _extent(region.any(2))
    x0, x1 = _extent(region.any(1))
    return torch.stack([x0, y0, x1, y1], 1).to(torch.float32)


def region_labels(masks: Tensor) -> Tensor:
    """Label each pixel with the number of its region's first pixel in reading order: (M, H, W) -> (M, H·W + 1) int64.

    The background, and the last column, which stands for it, have the number H·W. Every pixel points to a pixel
    of its region; each round attaches the root it points to under the smallest root among its eight neighbours and
    compresses the path (Shiloach & Vishkin, J. Algorithms 1982). About ten rounds suffice for a heatmap, where
    passing labels from pixel to pixel would take as many rounds as the region is long.

    >>> region_labels(torch.tensor([[[True, False], [True, False]]]))
    tensor([[0, 4, 0, 4, 4]])
    """
    m, height, width = masks.shape
    pixels = height * width
    inside = masks.reshape(m, pixels)
    none = torch.full((m, 1), pixels, dtype=torch.int64, device=masks.device)
    first = torch.where(inside, torch.arange(pixels, device=masks.device), pixels)

    def go_on(labels: Tensor, changed: Tensor) -> Tensor:
        return changed.clone()

    def round_(labels: Tensor, changed: Tensor) -> tuple[Tensor, Tensor]:
        grid = labels[:, :-1].reshape(m, 1, height, width).to(torch.float32)
        smallest = (-F.max_pool2d(-grid, 3, 1, 1)).reshape(m, pixels).to(torch.int64)
        seen = torch.cat([torch.where(inside, smallest, pixels), labels[:, -1:]], 1)
        new = torch.minimum(labels.scatter_reduce(1, labels, seen, "amin"), seen)
        new = new.gather(1, new)
        new = new.gather(1, new)
        return new, (new != labels).any()

    state = (torch.cat([first, none], 1), torch.ones((), dtype=torch.bool, device=masks.device))
    if torch.compiler.is_compiling():
        while_loop: Callable[..., tuple[Tensor, Tensor]] = torch.while_loop
        return while_loop(go_on, round_, state)[0]
    while bool(go_on(*state)):
        state = round_(*state)
    return state[0]


def _extent(lines: Tensor) -> tuple[Tensor, Tensor]:
    """The first set line and one past the last, of (M, L) bool; 0 and 0 if none is set."""
    length = lines.shape[1]
    number = torch.arange(length, device=lines.device)
    end = torch.where(lines, number + 1, 0).amax(1)
    return torch.where(lines, number, length).amin(1).minimum(end), end
