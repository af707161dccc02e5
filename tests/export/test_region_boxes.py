"""The largest region in tensor operations: equal to OpenCV's on every mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from sightline.export.onnx import boxes_array
from sightline.export.region_boxes import largest_boxes, region_labels


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["....", "....", "...."], [0, 0, 0, 0]),
        (["####", "####", "####"], [0, 0, 4, 3]),
        (["....", "..#.", "...."], [2, 1, 3, 2]),
        (["#...", ".#..", "..##"], [0, 0, 4, 3]),  # corners touch: one region of 8-connected pixels
        (["##..", "....", "..##"], [0, 0, 2, 1]),  # of equals the first in reading order
        (["#..#", "#..#", "...#"], [3, 0, 4, 3]),
        (["...#", "#..#", "#..."], [3, 0, 4, 2]),
    ],
)
def test_masks_worked_by_hand(rows: list[str], expected: list[int]) -> None:
    mask = torch.tensor([[pixel == "#" for pixel in row] for row in rows])
    assert largest_boxes(mask[None]).tolist() == [expected]


def masks(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    if (
        kind == "spiral"
    ):  # one region as long as can be: passing numbers on pixel by pixel would take 500 rounds
        spiral = np.zeros((1, 33, 33), bool)
        y, x, step, length = 0, 0, (0, 1), 32
        spiral[0, 0, 0] = True
        for turn in range(31):
            for _ in range(length):
                y, x = y + step[0], x + step[1]
                spiral[0, y, x] = True
            step, length = (step[1], -step[0]), length - 2 * (turn % 2 == 1 and turn > 1)
            if length <= 0:
                break
        return spiral
    if kind == "noise":
        return rng.random((8, 31, 44)) > 0.6  # near the percolation threshold: long, branching regions
    smooth = gaussian_filter(rng.standard_normal((8, 60, 41)), (0, 3, 3))
    return smooth > 0


@pytest.mark.parametrize("kind", ["spiral", "noise", "smooth"])
def test_equal_to_opencv(kind: str) -> None:
    kept = torch.from_numpy(masks(kind))
    expected = boxes_array(kept[:, None].float())[:, 0]
    assert torch.equal(largest_boxes(kept), expected)


def test_every_region_has_the_number_of_its_first_pixel() -> None:
    from scipy.ndimage import label

    mask = masks("noise")[0]
    regions, count = label(mask, np.ones((3, 3)))
    labels = region_labels(torch.from_numpy(mask)[None])[0, :-1].reshape(mask.shape).numpy()
    for region in range(1, count + 1):
        first = np.flatnonzero(regions == region)[0]
        assert (labels[regions == region] == first).all()
    assert (labels[~mask] == mask.size).all()
