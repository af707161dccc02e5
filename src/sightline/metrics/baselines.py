"""Baselines every localiser must beat: boxes that ignore the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sightline.boxes import iou
from sightline.errors import InputError

STEPS = 16  # constant boxes have corners on a grid of this many steps per side
CHUNK = 512  # images scored at once


def relative_boxes(boxes: Sequence[Tensor], photo_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Each image's boxes (B, 4) as shares of its width and height, which leaves the IoU unchanged.

    >>> relative_boxes([torch.tensor([[0.0, 10.0, 50.0, 20.0]])], [(20, 100)])
    [tensor([[0.0000, 0.5000, 0.5000, 1.0000]], dtype=torch.float64)]
    """
    if len(boxes) != len(photo_sizes):
        raise InputError(f"boxes for {len(boxes)} images and {len(photo_sizes)} sizes; expected one each")
    sizes = [torch.tensor([w, h, w, h], dtype=torch.float64) for h, w in photo_sizes]
    return [box.cpu().double() / size for box, size in zip(boxes, sizes, strict=True)]


def constant_box_hits(
    box: Tensor, boxes: Sequence[Tensor], photo_sizes: Sequence[tuple[int, int]], delta: float = 0.5
) -> Tensor:
    """Whether one relative box (4,) matches (IoU ≥ δ) a true box of each image -> (N,) bool.

    >>> constant_box_hits(torch.tensor([0.0, 0, 1, 1]), [torch.tensor([[0.0, 0, 60, 10]])], [(10, 100)])
    tensor([True])
    """
    return _hits(box.view(1, 4).double(), relative_boxes(boxes, photo_sizes), delta)[0]


def best_constant_box(
    boxes: Sequence[Tensor], photo_sizes: Sequence[tuple[int, int]], delta: float = 0.5
) -> Tensor:
    """The relative box (4,) that matches most images, among all with corners on a grid of 16 steps per side.

    Choose it on one split and score it on another with `constant_box_hits`. Raises `InputError` for no images.

    >>> best_constant_box([torch.tensor([[0.0, 0.0, 50.0, 100.0]])], [(100, 100)], delta=1.0)
    tensor([0.0000, 0.0000, 0.5000, 1.0000], dtype=torch.float64)
    """
    if len(boxes) == 0:
        raise InputError("no images; expected at least one with true boxes")
    spans = torch.combinations(torch.arange(STEPS + 1, dtype=torch.float64) / STEPS)
    across, down = torch.meshgrid(torch.arange(len(spans)), torch.arange(len(spans)), indexing="ij")
    x, y = spans[across.flatten()], spans[down.flatten()]
    candidates = torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)
    relative = relative_boxes(boxes, photo_sizes)
    counts = torch.zeros(len(candidates), dtype=torch.int64)
    for start in range(0, len(relative), CHUNK):
        counts += _hits(candidates, relative[start : start + CHUNK], delta).sum(1)
    return candidates[counts.argmax()]


def _hits(candidates: Tensor, relative: Sequence[Tensor], delta: float) -> Tensor:
    """(K, N) bool: whether candidate k matches a box of image n."""
    owner = torch.repeat_interleave(torch.arange(len(relative)), torch.tensor([len(b) for b in relative]))
    fits = (iou(candidates, torch.cat(list(relative))) >= delta).to(torch.int32)
    return torch.zeros(len(candidates), len(relative), dtype=torch.int32).index_add_(1, owner, fits) > 0
