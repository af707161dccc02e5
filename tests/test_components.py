"""The components of masks, by hand and beside OpenCV's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sightline.components import find_components, keep_largest


def by_opencv(mask):
    """x0, y0, x1, y1, area of each component by falling area; SAUF numbers them by their first pixel."""
    _, _, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(mask, 8, cv2.CV_32S, cv2.CCL_SAUF)
    x, y, width, height, area = stats[1:].T
    order = np.argsort(-area, kind="stable")
    return np.stack([x, y, x + width, y + height, area], 1)[order]


def by_opencv_largest(mask):
    _, labels, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(mask, 8, cv2.CV_32S, cv2.CCL_SAUF)
    return labels == 1 + stats[1:, 4].argmax() if len(stats) > 1 else np.zeros(mask.shape, bool)


def check(masks):
    found, largest = find_components(masks), keep_largest(masks)
    table = np.column_stack([found.boxes_xyxy, found.areas])
    for i, mask in enumerate(masks):
        np.testing.assert_array_equal(table[found.mask_index == i], by_opencv(mask))
        np.testing.assert_array_equal(largest[i], by_opencv_largest(mask))
    assert (np.diff(found.mask_index) >= 0).all()


def comb(side):
    """Teeth that join in the last row only."""
    mask = np.zeros((side, side), np.uint8)
    mask[:, ::2] = 1
    mask[-1] = 1
    return mask


def snake(side):
    """One path through the whole mask, from the first corner to the last."""
    mask = np.zeros((side, side), np.uint8)
    mask[::2] = 1
    mask[1::4, -1] = 1
    mask[3::4, 0] = 1
    return mask


def test_corners_touch_and_edges_of_the_mask_do_not():
    masks = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 0]], [[0, 0, 1], [1, 0, 0], [1, 0, 1]]], np.uint8)
    found = find_components(masks)
    assert found.mask_index.tolist() == [0, 1, 1, 1]
    assert found.boxes_xyxy.tolist() == [[0, 0, 2, 2], [0, 1, 1, 3], [2, 0, 3, 1], [2, 2, 3, 3]]
    assert found.areas.tolist() == [2, 2, 1, 1]


def test_of_equal_areas_the_first_in_reading_order():
    mask = np.array([[[0, 0, 1], [1, 0, 0], [0, 0, 1]]])
    assert find_components(mask).boxes_xyxy.tolist() == [[2, 0, 3, 1], [0, 1, 1, 2], [2, 2, 3, 3]]
    assert keep_largest(mask).astype(int).tolist() == [[[0, 0, 1], [0, 0, 0], [0, 0, 0]]]


@pytest.mark.parametrize("shape", [(2, 3, 4), (0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_nothing_kept(shape):
    found = find_components(np.zeros(shape, np.uint8))
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.mask_index.shape == found.areas.shape == (0,)
    assert keep_largest(np.zeros(shape, bool)).shape == shape


def test_everything_kept():
    check(np.ones((3, 5, 4), np.uint8))


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (9, 1), (7, 7), (23, 31)])
def test_noise(share, size_hw):
    check((np.random.default_rng(0).random((40, *size_hw)) < share).astype(np.uint8))


@pytest.mark.parametrize("make", [comb, snake])
@pytest.mark.parametrize("turns", range(4))
def test_long_ways_round(make, turns):
    check(np.rot90(make(41), turns)[None].copy())


def test_smooth_maps():
    small = np.random.default_rng(1).random((20, 9, 7)).astype(np.float32)
    maps = np.stack([cv2.resize(m, (70, 90)) for m in small])
    check((maps > 0.5).astype(np.uint8))
