"""The lives of components and holes: worked by hand, and against OpenCV at every level."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import ndimage

from references import scoremaps
from sightline.metrics import components as c
from sightline.metrics.sweep import best_overlaps, count_in_bins, highest, levels_at_least


def lives(table):
    """(first mask, last mask, box, size) of each row, sorted."""
    return sorted(
        (int(r[c.LOW]), int(r[c.HIGH]), tuple(map(int, r[c.X0 : c.Y1 + 1])), int(r[c.SIZE])) for r in table
    )


def components_of(level, top, by_polygon=False):
    return c.component_lives(level, top, np.full(level.shape, c.EVERYWHERE, np.uint8), by_polygon)


def test_lives_by_hand():
    level = np.array([[0, 3, 0, 0, 0], [0, 1, 1, 2, 2]], np.int32)
    assert lives(components_of(level, 3)) == [
        (0, 0, (1, 0, 5, 2), 5),  # {> 0}: all in one
        (1, 1, (3, 1, 5, 2), 2),  # {> 1}: the two at the right …
        (1, 2, (1, 0, 2, 1), 1),  # … and the peak, alone until 2
    ]


def test_diagonals_connect_components_but_not_holes():
    level = np.array([[2, 0, 0], [0, 2, 0], [0, 0, 2]], np.int32)
    assert lives(components_of(level, 2)) == [(0, 1, (0, 0, 3, 3), 3)]
    diamond = np.array([[0, 5, 0, 5, 0], [5, 1, 5, 2, 5], [0, 5, 0, 5, 0]], np.int32)
    holes, filled = c.hole_lives(diamond, 5)
    assert filled.tolist() == [[0, 5, 0, 5, 0], [5, 5, 5, 5, 5], [0, 5, 0, 5, 0]]
    assert lives(holes) == [(1, 4, (1, 1, 2, 2), 1), (2, 4, (3, 1, 4, 2), 1)]


def test_a_hole_grows_and_two_holes_merge():
    level = np.array([[9, 9, 9, 9, 9], [9, 1, 4, 2, 9], [9, 9, 9, 9, 9]], np.int32)
    assert lives(c.hole_lives(level, 9)[0]) == [
        (1, 3, (1, 1, 2, 2), 1),
        (2, 3, (3, 1, 4, 2), 1),
        (4, 8, (1, 1, 4, 2), 3),
    ]


@pytest.mark.parametrize(
    ("shape", "twice_area"),
    [
        (["#"], 0),
        (["###"], 0),
        (["##", "##"], 2),
        (["##", "#."], 1),
        ([".#.", "###", ".#."], 4),
        (["###", "###", "###"], 8),
        (["#..", ".#.", "..#"], 0),
        (["##.", "##.", "..#"], 2),
    ],
)
def test_polygon_area_by_hand(shape, twice_area):
    level = np.array([[ch == "#" for ch in row] for row in shape], np.int32)
    assert lives(components_of(level, 1, True))[0][3] == twice_area


@pytest.mark.parametrize("kind", scoremaps.KINDS)
def test_components_and_polygons_at_every_level(kind):
    rng = np.random.default_rng(1)
    for _ in range(6):
        height, width = rng.integers(1, 30, 2)
        level = scoremaps.eight_bit(scoremaps.make(kind, rng, height, width), int(rng.choice([255, 20, 3])))
        level = level.astype(np.int32)
        top = int(level.max())
        _, filled = c.hole_lives(level, top)
        by_pixels = components_of(level, top)
        by_polygon = components_of(filled, top, True)
        for m in range(top):
            labels, _ = ndimage.label(level > m, np.ones((3, 3)))
            expected = sorted(
                (x.start, y.start, x.stop, y.stop, int((labels == i + 1).sum()))
                for i, (y, x) in enumerate(ndimage.find_objects(labels))
            )
            assert alive(by_pixels, m) == expected
            assert np.array_equal(filled > m, ndimage.binary_fill_holes(level > m))
            contours, _ = cv2.findContours(
                (filled > m).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
            )
            areas = sorted((*_xyxy(contour), round(2 * cv2.contourArea(contour))) for contour in contours)
            assert alive(by_polygon, m) == areas


def alive(table, m):
    rows = table[(table[:, c.LOW] <= m) & (m <= table[:, c.HIGH])]
    return sorted(tuple(map(int, row[[c.X0, c.Y0, c.X1, c.Y1, c.SIZE]])) for row in rows)


def _xyxy(contour):
    x, y, w, h = cv2.boundingRect(contour)
    return x, y, x + w, y + h


@pytest.mark.parametrize("kind", scoremaps.KINDS)
def test_holes_at_every_level(kind):
    rng = np.random.default_rng(2)
    for _ in range(6):
        height, width = rng.integers(1, 30, 2)
        level = scoremaps.eight_bit(scoremaps.make(kind, rng, height, width), 40).astype(np.int32)
        top = int(level.max())
        table, _ = c.hole_lives(level, top)
        for m in range(top):
            outside = np.pad(level <= m, 1, constant_values=True)
            labels, _ = ndimage.label(outside)  # 4-connected
            expected = sorted(
                (x.start - 1, y.start - 1, x.stop - 1, y.stop - 1, int((labels == i + 1).sum()))
                for i, (y, x) in enumerate(ndimage.find_objects(labels))
                if i + 1 != labels[0, 0]
            )
            assert alive(table, m) == expected


def test_eulers_number_tells_how_many_islands_a_hole_holds():
    rng, seen = np.random.default_rng(6), set()
    for _ in range(30):
        level = rng.choice(np.arange(8), (12, 14), p=[0.3, *[0.1] * 7]).astype(np.int32)
        level[[0, -1]] = level[:, [0, -1]] = 7
        table, _ = c.hole_lives(level, 7)
        for m in range(7):
            labels, count = ndimage.label(level <= m)
            expected = []
            for i in range(1, count + 1):
                _, others = ndimage.label(labels != i, np.ones((3, 3)))
                expected.append(
                    (int((labels == i).sum()), 2 - others)
                )  # the others: what is around, and the islands
            living = table[(table[:, c.LOW] <= m) & (m <= table[:, c.HIGH])]
            assert sorted((int(row[c.SIZE]), int(row[c.EULER])) for row in living) == sorted(expected)
            seen |= {euler for _, euler in expected}
    assert len(seen) > 3


def test_islands_are_sought_only_where_a_hole_is_a_ring():
    level = np.full((7, 7), 200, np.int32)
    level[2:5, 2:5] = 0
    assert len(c.island_lives(level, 200, c.hole_lives(level, 200)[0])) == 0
    level[3, 3] = 100
    assert lives(c.island_lives(level, 200, c.hole_lives(level, 200)[0])) == [(0, 99, (3, 3, 4, 4), 1)]


def test_highest_by_brute_force():
    rng = np.random.default_rng(3)
    for top in (1, 2, 7, 64, 1000):
        table = np.zeros((200, c.COLUMNS), np.int32)
        ends = np.sort(rng.integers(0, top, (200, 2)), 1)
        table[:, c.LOW], table[:, c.HIGH] = ends.T
        score = rng.permutation(200).astype(float)
        for m, row in enumerate(highest(table, score, top)):
            living = np.flatnonzero((ends[:, 0] <= m) & (m <= ends[:, 1]))
            assert row == (living[score[living].argmax()] if len(living) else -1)


def test_best_overlaps_of_literal_boxes():
    boxes = np.array([[0.0, 0, 1, 1], [0, 0, 3, 1], [5, 5, 6, 6]])
    true = np.array([[0.0, 0, 1, 1], [2, 0, 3, 1]])
    assert best_overlaps(boxes, true, 1.0).tolist() == [1.0, 0.5, 0.0]  # inclusive: 4 of 8 pixels
    assert best_overlaps(boxes, true, 0.0).tolist() == [1.0, 1 / 3, 0.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_levels_against_searchsorted(dtype):
    rng = np.random.default_rng(4)
    cuts = (np.arange(0, 1, 0.001) * 0.7).astype(dtype)
    values = np.concatenate([rng.uniform(-0.2, 0.9, 3000), cuts, np.nextafter(cuts, dtype(-1)), [0.7, 50.0]])
    values = values.astype(dtype).reshape(1, -1)
    expected = np.where(values > 0, np.searchsorted(cuts, values, side="right"), 0)
    assert np.array_equal(levels_at_least(values, cuts), expected)


def test_bins_against_numpy():
    rng = np.random.default_rng(5)
    taus = np.arange(0, 1, 0.001)
    edges = np.append(taus, [1.0, 2.0, 3.0])
    scores = np.concatenate([taus, np.nextafter(taus[1:], 0), rng.random(5000), [1.0]]).reshape(1, -1)
    truth = rng.choice(np.array([0, 1, 255], np.uint8), scores.shape)
    counts = count_in_bins(scores, truth, edges)
    for value in (0, 1):
        assert np.array_equal(counts[value], np.histogram(scores[truth == value], edges)[0])
