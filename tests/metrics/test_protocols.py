"""Every decision of the protocols at every threshold, against the loop over thresholds with OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from references import scoremaps
from references import wsol_reference as slow
from sightline.boxes import iou, make_boxes
from sightline.errors import InputError
from sightline.heatmap import make_heatmaps
from sightline.metrics.protocols import (
    TAUS,
    contour_ious,
    sweep_ious,
    wsol_scoremap,
    wsol_true_boxes,
)
from sightline.types import BoxRule, Geometry


def literal(*rows: str) -> np.ndarray:
    return np.array([[float(v) for v in row.split()] for row in rows])


def assert_every_mask_agrees(level, boxes):
    """All the masks that any τ can ask for: the grid is finer than the 256 levels."""
    expected = slow.contour_ious_by_mask(level, [tuple(map(int, box)) for box in boxes])
    at = (TAUS * int(level.max())).astype(int)
    for found, wanted in zip(contour_ious(level, boxes), expected, strict=True):
        np.testing.assert_array_equal(found, wanted[at])


@pytest.mark.parametrize("kind", scoremaps.KINDS)
def test_contours_of_small_maps(kind):
    rng = np.random.default_rng(10)
    for _ in range(25):
        height, width = rng.integers(1, 40, 2)
        level = scoremaps.eight_bit(
            scoremaps.make(kind, rng, height, width), int(rng.choice([255, 100, 7, 1]))
        )
        boxes = scoremaps.boxes(rng, height, width) - np.array([0, 0, 1, 1])
        assert_every_mask_agrees(level, boxes)


def raw_maps(rng, count):
    """Raw maps as networks make them, (7, 7) to (40, 60), and photos of any size with their boxes."""
    for i in range(count):
        height, width = rng.integers(5, 60, 2) if i % 3 else (14, 14)
        photo = tuple(int(v) for v in rng.integers(60, 500, 2))
        raw = scoremaps.make(scoremaps.KINDS[i % len(scoremaps.KINDS)], rng, height, width)
        yield raw, photo, scoremaps.boxes(rng, *photo)


def assert_whole_protocol_agrees(raw, photo, boxes):
    found = sweep_ious(raw[None], [torch.from_numpy(boxes)], [photo], ("wsol-v1", "wsol-v2"))
    level = (slow.scoremap(raw) * 255).astype(np.uint8)
    expected = slow.contour_ious(level, slow.true_boxes(boxes, photo))
    np.testing.assert_array_equal(found["wsol-v1"][0], expected[0])
    np.testing.assert_array_equal(found["wsol-v2"][0], expected[1])


def test_the_whole_protocol_at_every_tau():
    for raw, photo, boxes in raw_maps(np.random.default_rng(11), 9):
        assert_whole_protocol_agrees(raw, photo, boxes)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_the_whole_protocol_on_hundreds_of_maps(part):
    for raw, photo, boxes in raw_maps(np.random.default_rng(1000 + part), 100):
        assert_whole_protocol_agrees(raw, photo, boxes)


@pytest.mark.slow
@pytest.mark.parametrize("kind", scoremaps.KINDS)
def test_contours_of_thousands_of_maps(kind):
    rng = np.random.default_rng(12)
    for _ in range(500):
        height, width = rng.integers(1, 90, 2)
        level = scoremaps.eight_bit(
            scoremaps.make(kind, rng, height, width), int(rng.choice([255, 100, 7, 1]))
        )
        assert_every_mask_agrees(level, scoremaps.boxes(rng, height, width) - np.array([0, 0, 1, 1]))


def test_boxes_by_hand():
    # The cuts 0, .2, .4, .6, .8 of a map with one hill: mask u > int(τ · 255), the far corner at most 4, 3.
    hill = literal("0 0 0 0 0", "0 .4 .4 .4 .6", "0 .4 1 .8 .6", "0 .4 .4 .4 .6")
    level = (hill * 255).astype(np.uint8)
    for tau, box in (
        (0, [1, 1, 4, 3]),
        (0.2, [1, 1, 4, 3]),
        (0.4, [2, 1, 4, 3]),
        (0.6, [2, 2, 4, 3]),
        (0.8, [2, 2, 3, 3]),
    ):
        v1, v2 = contour_ious(level, np.array([box], float))
        assert v1[round(tau * 1000)] == v2[round(tau * 1000)] == 1


def test_of_equal_areas_the_contour_that_begins_last():
    level = np.zeros((20, 20), np.uint8)
    level[2:5, 2:5] = level[10:13, 12:15] = 255
    assert contour_ious(level, np.array([[12.0, 10, 15, 13]]))[0].min() == 1
    assert contour_ious(level, np.array([[2.0, 2, 5, 5]]))[0].max() == 0


def test_v1_takes_the_filled_area_and_v2_the_hole_too():
    level = np.zeros((30, 30), np.uint8)
    level[2:14, 2:14] = 255
    level[3:13, 3:13] = 0  # a thin ring, 11 × 11 between pixel centres
    level[18:27, 18:27] = 255  # a full square of more pixels, 8 × 8
    ring = np.array([[2.0, 2, 14, 14]])
    assert contour_ious(level, ring)[0].min() == 1
    deep = np.zeros((30, 30), np.uint8)
    deep[2:24, 2:24] = 255
    deep[8:12, 8:12] = 0
    rim = np.array([[7.0, 7, 13, 13]])  # the hole's contour runs over the pixels around it
    v1, v2 = contour_ious(deep, rim)
    assert v2.min() == 1
    assert v1.max() < 0.2


def test_nothing_left_is_the_box_0_0_0_0():
    nothing = np.zeros((8, 8), np.uint8)
    v1, v2 = contour_ious(nothing, np.array([[0.0, 0, 1, 0]]))
    assert (v1 == 0.5).all()
    assert (v2 == 0.5).all()


def test_a_constant_map_and_one_with_nan_score_as_zeros():
    box = [torch.tensor([[10.0, 10, 100, 100]])]
    for raw in (np.full((7, 7), 3.0), np.full((7, 7), np.nan)):
        assert not wsol_scoremap(raw).any()
        assert sweep_ious(raw[None], box, [(224, 224)])["wsol-v1"].max() == 0


def test_an_image_sized_perfect_map_scores_1():
    """Scored as it is, at 224, such a map would miss: it is brought to 224 first."""
    perfect = np.zeros((375, 500))
    perfect[100:250, 125:375] = 1
    box = [torch.tensor([[125.0, 100, 375, 250]])]
    ious = sweep_ious(perfect[None], box, [(375, 500)], ("wsol-v1", "wsol-v2", "rethinking", "exact"))
    assert all(values.max() > 0.95 for values in ious.values())


def test_true_boxes_by_hand():
    # inclusive corners 30 and 59 of 100 pixels: int(67.2), int(132.16)
    boxes = wsol_true_boxes(np.array([[30.0, 0, 60, 50]]), Geometry.identity((50, 100)))
    assert boxes.tolist() == [[67, 0, 132, 219]]
    crop = Geometry((100, 200), (224, 224), (50, 0, 150, 100))
    assert wsol_true_boxes(np.array([[0.0, 0, 200, 50]]), crop).tolist() == [[0, 0, 223, 109]]


def test_rethinking_against_a_loop():
    rng = np.random.default_rng(13)
    for i in range(4):
        raw = scoremaps.make(("smooth", "noise", "rings", "objects")[i], rng, 14, 14)
        boxes = scoremaps.boxes(rng, 224, 224)
        true = [(x0, y0, x1 - 1, y1 - 1) for x0, y0, x1, y1 in boxes]
        resized = cv2.resize(raw.astype(np.float32), (224, 224), interpolation=cv2.INTER_CUBIC)
        level = ((resized - resized.min()) / (resized.max() - resized.min()) * 255).astype(np.uint8)
        for standard, reference in (("max", 255), ("percentile", np.percentile(level, 90))):
            found = sweep_ious(
                raw[None],
                [torch.from_numpy(boxes)],
                [(224, 224)],
                ["rethinking"],
                BoxRule(relative_to=standard),
            )["rethinking"][0]
            for k in range(0, 1000, 29):
                contours = slow.contours_at(level, int(TAUS[k] * reference))
                x, y, w, h = cv2.boundingRect(max(contours, key=cv2.contourArea))
                assert found[k] == max(slow.inclusive_iou((x, y, x + w, y + h), t) for t in true)


@pytest.mark.parametrize("kind", [k for k in scoremaps.KINDS if k != "constant"])
def test_exact_at_every_tau(kind):
    rng = np.random.default_rng(14)
    raw = torch.from_numpy(np.maximum(scoremaps.make(kind, rng, 9, 11), 0))
    photo, size = (90, 70), (36, 28)
    boxes = scoremaps.boxes(rng, *photo)
    place = Geometry(photo, size, (0.0, 0.0, 70.0, 90.0))
    found = sweep_ious(raw[None], [torch.from_numpy(boxes)], [place], ("exact", "exact-all"))
    heatmap = make_heatmaps(raw, size).numpy()
    largest, best = slow.exact_ious(heatmap, boxes, (2.5, 2.5))
    np.testing.assert_array_equal(found["exact"][0], largest)
    np.testing.assert_array_equal(found["exact-all"][0], best)


@pytest.mark.parametrize("standard", ["max", "percentile"])
@pytest.mark.parametrize("normalise", ["minmax", "max", "percentile", "ivr"])
def test_exact_is_what_make_boxes_gives(normalise, standard):
    rng = np.random.default_rng(15)
    raw = torch.from_numpy(scoremaps.make("smooth", rng, 14, 14)).float()
    true = torch.tensor([[10.0, 8, 40, 44]])
    rule = BoxRule(relative_to=standard, normalise=normalise, percentile=80.0)
    found = sweep_ious(raw[None], [true], [(56, 56)], ["exact"], rule)["exact"][0]
    heatmaps = make_heatmaps(raw, (56, 56), normalise, 80.0)[None, None]
    for k in range(0, 1000, 37):
        [[box]] = make_boxes(heatmaps, BoxRule(float(TAUS[k]), standard, percentile=80.0))
        expected = float(iou(box.double(), true.double())[0, 0]) if len(box) else 0.0
        assert found[k] == expected


def test_exact_finds_no_box_where_nothing_is_positive():
    dead = -torch.ones(1, 4, 4)
    assert sweep_ious(dead, [torch.tensor([[0.0, 0, 1, 1]])], [(8, 8)], ["exact"])["exact"].max() == 0


def test_threads_and_batches_change_nothing():
    rng = np.random.default_rng(16)
    maps = torch.from_numpy(np.stack([scoremaps.make("smooth", rng, 14, 14) for _ in range(6)])).float()
    boxes = [torch.from_numpy(scoremaps.boxes(rng, 200, 300)) for _ in range(6)]
    protocols = ("wsol-v1", "wsol-v2", "rethinking", "exact", "exact-all")
    together = sweep_ious(maps, boxes, [(200, 300)] * 6, protocols, workers=2)
    for i in range(6):
        alone = sweep_ious(maps[i : i + 1], boxes[i : i + 1], [(200, 300)], protocols)
        for name in protocols:
            np.testing.assert_array_equal(together[name][i], alone[name][0])
    assert sweep_ious(maps[:0], [], [], protocols)["exact"].shape == (0, 1000)


def test_maps_of_different_sizes():
    maps = [torch.rand(7, 7), torch.rand(14, 10)]
    boxes = [torch.tensor([[0.0, 0, 50, 50]])] * 2
    assert sweep_ious(maps, boxes, [(100, 80)] * 2)["wsol-v1"].shape == (2, 1000)


BOX = torch.tensor([[0.0, 0, 4, 4]])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: sweep_ious(torch.rand(1, 7, 7), [BOX], [(8, 8)], map_hw=(224, 224)),
            "7×7 (height × width); the stated size is 224×224",
        ),
        (lambda: sweep_ious(torch.rand(2, 7, 7), [BOX], [(8, 8)]), "2 maps, boxes for 1 images"),
        (lambda: sweep_ious(torch.rand(1, 7, 7), [BOX[:0]], [(8, 8)]), "no true box"),
        (lambda: sweep_ious(torch.rand(1, 7, 7), [BOX], [(8, 8)], ["wsol"]), "did you mean"),
        (lambda: sweep_ious(torch.full((1, 7, 7), torch.inf), [BOX], [(8, 8)]), "Inf"),
        (lambda: sweep_ious(torch.full((1, 7, 7), torch.nan), [BOX], [(8, 8)], ["exact"]), "NaN"),
        (lambda: sweep_ious(torch.rand(1, 3, 7, 7), [BOX], [(8, 8)]), "expected (h, w)"),
    ],
)
def test_errors_say_what_was_expected(call, says):
    with pytest.raises(InputError) as caught:
        call()
    assert says in str(caught.value)
