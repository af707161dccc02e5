"""The boxes that never look: by hand, and against a loop over all candidates."""

from __future__ import annotations

import itertools

import pytest
import torch

from sightline.boxes import centre_box, iou
from sightline.errors import InputError
from sightline.metrics import baselines
from sightline.metrics.baselines import best_constant_box, constant_box_hits, relative_boxes


def some_boxes(images=20):
    generator = torch.Generator().manual_seed(0)
    sizes = [(60 + 7 * i, 90 - 3 * i) for i in range(images)]
    boxes = []
    for height, width in sizes:
        corner = torch.rand(1 + len(boxes) % 2, 2, generator=generator) * 0.5
        far = corner + 0.2 + torch.rand(corner.shape, generator=generator) * 0.3
        boxes.append(torch.cat([corner, far], 1) * torch.tensor([width, height, width, height]))
    return boxes, sizes


def test_the_centre_box_in_photo_pixels_and_in_shares():
    boxes, sizes = [torch.tensor([[8.0, 8, 56, 56]]), torch.tensor([[0.0, 0, 20, 20]])], [(64, 64), (64, 64)]
    box = centre_box((64, 64), 8)[0] / 64
    assert constant_box_hits(box, boxes, sizes).tolist() == [True, False]


def test_hits_are_those_in_photo_pixels():
    boxes, sizes = some_boxes()
    box = torch.tensor([0.2, 0.1, 0.7, 0.8], dtype=torch.float64)
    expected = [
        bool((iou(box[None] * torch.tensor([w, h, w, h]), b.double()) >= 0.5).any())
        for b, (h, w) in zip(boxes, sizes, strict=True)
    ]
    assert 0 < sum(expected) < len(expected)
    assert constant_box_hits(box, boxes, sizes).tolist() == expected


def test_the_best_box_against_a_loop(monkeypatch):
    monkeypatch.setattr(baselines, "STEPS", 4)
    monkeypatch.setattr(baselines, "CHUNK", 3)
    boxes, sizes = some_boxes()
    spans = list(itertools.combinations([0, 0.25, 0.5, 0.75, 1], 2))
    best = max(
        int(constant_box_hits(torch.tensor([x0, y0, x1, y1]), boxes, sizes).sum())
        for (x0, x1), (y0, y1) in itertools.product(spans, spans)
    )
    assert int(constant_box_hits(best_constant_box(boxes, sizes), boxes, sizes).sum()) == best > 0


def test_relative_boxes_by_hand():
    assert relative_boxes([torch.tensor([[1.0, 2, 3, 4]])], [(4, 8)])[0].tolist() == [[0.125, 0.5, 0.375, 1]]
    with pytest.raises(InputError, match="1 images and 0 sizes"):
        relative_boxes([torch.zeros(1, 4)], [])
    with pytest.raises(InputError, match="no images"):
        best_constant_box([], [])
