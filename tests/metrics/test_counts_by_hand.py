"""Counts of boxes and pixels worked out by hand: every threshold and overlap from both sides, and sums over images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from sightline.errors import InputError
from sightline.metrics import components as c
from sightline.metrics.accumulators import BoxTally, PixelTally, differences, intervals, per_image_scores
from sightline.metrics.bootstrap import bootstrap_interval, paired_difference
from sightline.metrics.ilsvrc import ILSVRC
from sightline.metrics.localisation import BoxAccuracy, MaxBoxAcc, grid_index
from sightline.metrics.pixels import PxAP, truth_mask
from sightline.metrics.protocols import (
    as_map,
    contour_ious,
    sweep_boxes,
    sweep_ious,
    wsol_scoremap,
    wsol_true_boxes,
)
from sightline.metrics.sweep import count_in_bins, levels_at_least
from sightline.metrics.torch_metrics import GTKnownLocalisation, HeatInBox, HeatOnBorder, MaxBoxAccuracy
from sightline.types import BoxRule, Geometry

# Boxes at every threshold


def test_a_map_as_it_is_scored() -> None:
    for wrong in (torch.zeros(4), torch.zeros(1, 4, 4), torch.zeros(0, 4)):
        with pytest.raises(InputError, match=r"expected \(h, w\)"):
            as_map(wrong)
    assert as_map(torch.ones(2, 3, dtype=torch.float64)).dtype == np.float64
    assert as_map(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == np.float32
    with pytest.raises(InputError, match=r"the map is 2×3 .*; the stated size is 3×2"):
        as_map(torch.ones(2, 3), (3, 2))
    assert as_map(torch.ones(2, 3), (2, 3)).shape == (2, 3)
    with pytest.raises(InputError, match="a map holds Inf"):
        as_map(torch.tensor([[1.0, -math.inf]]))
    assert wsol_scoremap(np.array([[2.0, 4.0, 6.0]]), side=3)[0].tolist() == pytest.approx([0, 0.5, 1])
    assert wsol_scoremap(np.ones((2, 3))).shape == (224, 224)
    assert not wsol_scoremap(np.array([[1.0, math.nan]])).any()
    whole = BoxRule(normalise="max")
    assert wsol_scoremap(np.array([[-1.0, 2.0, 4.0]]), whole, 3)[0].tolist() == pytest.approx([0, 0.5, 1])


def test_true_boxes_in_the_middle_of_a_photo() -> None:
    # A photo 100 wide and 200 high; shown: x from 10 to 90, y from 40 to 140, at 40: halves and 0.4.
    middle = Geometry((200, 100), (40, 40), (10.0, 40.0, 90.0, 140.0))
    boxes = np.array([[20.0, 50.0, 51.0, 91.0], [0.0, 0.0, 100.0, 200.0], [20.0, 50.0, 20.5, 50.5]])
    found = wsol_true_boxes(boxes, middle, side=40)
    assert found.tolist() == [[5, 4, 20, 20], [0, 0, 39, 39], [5, 4, 5, 4]]


def test_nothing_in_a_map_has_no_box_at_any_threshold() -> None:
    blank, truth = torch.zeros(1, 6, 8), [torch.tensor([[0.0, 0, 8, 6]])]
    found = sweep_ious(blank, truth, [(6, 8)], ("exact", "exact-all", "rethinking", "wsol-v1"))
    assert not found["exact"].any()
    assert not found["exact-all"].any()
    assert found["rethinking"][0].tolist() == pytest.approx(
        [197 * 187 / 225**2] * 1000
    )  # the whole, inclusive
    assert found["wsol-v1"][0].tolist() == pytest.approx([1 / (197 * 187)] * 1000)  # one pixel, inclusive
    assert np.isnan(sweep_boxes(blank[0], (6, 8))).all()
    one = np.zeros((4, 4), np.uint8)
    v1, v2 = contour_ious(one, np.array([[0.0, 0, 1, 1]]))
    assert (v1 == 0.25).all()
    assert (v2 == 0.25).all()


def test_levels_of_uneven_cuts_and_bins_of_uneven_edges() -> None:
    cuts = np.array([0.9, 0.95, 1.0])
    assert levels_at_least(np.array([[-1.0, 0, 0.6, 0.9, 0.94, 0.95, 1, 7]]), cuts).tolist() == [
        [0, 0, 0, 1, 1, 2, 3, 3]
    ]
    early = np.array([0.01, 0.02, 1.0])
    assert levels_at_least(np.array([[0.01, 0.3, 0.02, 0.005]]), early).tolist() == [[1, 2, 2, 0]]
    edges = np.array([0, 0.9, 1.0, 2.0, 3.0])
    assert count_in_bins(np.array([[0.6, 0.9, 1.0]]), np.zeros((1, 3), np.uint8), edges).tolist()[0] == [
        1,
        1,
        1,
        0,
    ]
    edges = np.array([0, 0.01, 0.02, 0.03, 1.0])
    assert count_in_bins(np.array([[0.6, 0.02]]), np.ones((1, 2), np.uint8), edges).tolist()[1] == [
        0,
        0,
        1,
        1,
    ]


def test_a_component_s_first_pixel_is_its_first_in_reading_order() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((5, 9), (9, 4), (7, 7)) * 4:
        level = rng.integers(0, 6, (height, width)).astype(np.int32)
        table = c.component_lives(level, 5, np.full(level.shape, c.EVERYWHERE, np.uint8), False)
        order = np.arange((height + 2) * (width + 2)).reshape(height + 2, width + 2)[1:-1, 1:-1]
        for mask in range(5):
            labels, count = ndimage.label(level > mask, np.ones((3, 3)))
            expected = sorted(int(order[labels == i].min()) for i in range(1, count + 1))
            alive = table[(table[:, c.LOW] <= mask) & (mask <= table[:, c.HIGH])]
            assert sorted(alive[:, c.FIRST].tolist()) == expected


def test_where_islands_can_be() -> None:
    # The hole's box is rows 1 to 4 and columns 2 to 6; a hole without islands (Euler's number 1) is left out.
    holes = np.zeros((2, c.COLUMNS), np.int32)
    holes[0, c.X0 : c.Y1 + 1], holes[1, c.X0 : c.Y1 + 1] = (2, 1, 7, 5), (0, 0, 3, 3)
    holes[1, c.EULER] = 1
    expected = np.zeros((6, 9), np.uint8)
    expected[1:5, 2:7] = c.AT_RIM
    expected[2:4, 3:6] = c.EVERYWHERE
    assert c.inside_holes(holes, 6, 9).tolist() == expected.tolist()
    both = np.concatenate([holes[:1], holes[:1]])
    both[1, c.X0 : c.Y1 + 1] = (
        4,
        2,
        9,
        6,
    )  # a second hole: where one's inside is the other's rim, islands can be
    expected = np.zeros((6, 9), np.uint8)
    for x0, y0, x1, y1 in ((2, 1, 7, 5), (4, 2, 9, 6)):
        expected[y0:y1, x0:x1][expected[y0:y1, x0:x1] == 0] = c.AT_RIM
    for x0, y0, x1, y1 in ((3, 2, 6, 4), (5, 3, 8, 5)):
        expected[y0:y1, x0:x1] = c.EVERYWHERE
    assert c.inside_holes(both, 6, 9).tolist() == expected.tolist()


def test_what_is_at_the_rim_of_a_hole_is_no_island() -> None:
    level = np.zeros((3, 7), np.int32)
    level[1, 1:3] = level[1, 5] = 4
    where = np.full((3, 7), c.EVERYWHERE, np.uint8)
    where[1, 1], where[:, 4] = c.AT_RIM, 0
    table = c.component_lives(level, 4, where, False)
    assert table[:, c.X0 : c.Y1 + 1].tolist() == [[5, 1, 6, 2]]


@pytest.mark.parametrize(("tau", "index"), [(0.0, 0), (0.001, 1), (0.999, 999), (0.5, 500)])
def test_thresholds_of_the_grid(tau: float, index: int) -> None:
    assert grid_index(tau) == index
    for wrong in (tau + 2e-9, tau - 2e-9, tau + 1, -0.001 - tau):
        with pytest.raises(InputError, match="is not on the grid"):
            grid_index(wrong)


# Sums over images


def half(index: int) -> np.ndarray:
    """IoUs (1, 1000): at and below a threshold exactly 0.5, above it less."""
    return np.where(np.arange(1000) <= index, 0.5, 0.499)[None]


def test_box_accuracy_of_a_few_images() -> None:
    score = MaxBoxAcc()
    assert (score.keep, score.images, score.deltas) == (False, 0, (0.5,))
    for index in (100, 300, 300):
        score.add_ious(half(index))
    assert [score.at(tau) for tau in (0.1, 0.101, 0.3, 0.301)] == pytest.approx([1, 2 / 3, 2 / 3, 0])
    with pytest.raises(InputError, match="create the accumulator with keep=True"):
        _ = score.per_image
    both = score + score
    assert (both.images, both.compute(), both.hits.sum()) == (6, 1.0, 2 * score.hits.sum())
    with pytest.raises(InputError, match="cannot add the scores"):
        _ = score + BoxAccuracy("exact", (0.5,))
    with pytest.raises(InputError, match="no image has been scored yet"):
        MaxBoxAcc().compute()
    for wrong in ((1000,), (1, 999)):
        with pytest.raises(InputError, match=r"expected \(N, 1000\)"):
            score.add_ious(np.zeros(wrong))


def test_a_row_of_the_table_of_boxes() -> None:
    tally = BoxTally("wsol-v2", BoxRule(0.3))
    assert tally.accuracy.deltas == (0.3, 0.5, 0.7)
    assert BoxTally("exact", BoxRule()).accuracy.deltas == (0.5,)
    for index in (100, 300):
        tally.add_ious(half(index))
    assert tally.ious.tolist() == pytest.approx([0.499, 0.5])
    assert tally.hits(0.1).tolist() == [True, True]
    assert tally.hits(0.3).tolist() == [False, True]
    assert tally.swept().sum(1).tolist() == [101, 301]
    assert (tally.best, tally.curve[100], tally.curve[101]) == (0.0, 1, 0.5)
    other = BoxTally("wsol-v2", BoxRule(0.3))
    other.add_ious(half(900))
    assert (tally + other).ious.tolist() == pytest.approx([0.499, 0.5, 0.5])
    assert (tally + other).hits(0.9).tolist() == [False, False, True]
    with pytest.raises(InputError, match=r"kept at τ = 0\.2 to those at 0\.3"):
        _ = tally + BoxTally("wsol-v2", BoxRule(0.2))
    right = np.array([True, False])
    found = per_image_scores(tally, {"fixed": 0.3, "chosen": 0.1}, right, ~right, {"top5": right})
    shown = {name: values.tolist() for name, values in found.items() if values.ndim == 1}
    assert shown == {
        "top1_cls_error": [False, True],
        "top5_cls_error": [True, False],
        "gt_known_fixed": [False, True],
        "top1_loc_error_fixed": [True, True],
        "top5_loc_error_fixed": [True, False],
        "gt_known_chosen": [True, True],
        "top1_loc_error_chosen": [False, True],
        "top5_loc_error_chosen": [True, False],
        "top5_error_heuristics": [False, True],
    }
    assert found["gt_known_swept"].shape == (2, 1000)
    assert found["max_box_acc_v2"].shape == (2, 3, 1000)
    assert set(per_image_scores(other, {})) == {"gt_known_swept", "max_box_acc_v2"}
    one = BoxTally("exact", BoxRule())
    one.add_ious(half(1))
    assert set(per_image_scores(one, {}, top1=right[:1])) == {"top1_cls_error", "gt_known_swept"}


def test_intervals_of_scores_and_of_their_differences() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(40) < 0.5, rng.random(40) < 0.5
    values = np.stack([a, b], 1)
    found = intervals({"one": a, "swept": values}, 50)
    assert found["one"] == bootstrap_interval(a.astype(np.float64), 50)
    assert found["swept"] == bootstrap_interval(values, 50)
    assert found["one"].value == a.mean()
    assert found["swept"].value == pytest.approx(max(a.mean(), b.mean()))
    apart = differences({"one": a, "two": a}, {"one": b}, 50)
    assert set(apart) == {"one"}
    assert apart["one"] == paired_difference(a.astype(np.float64), b.astype(np.float64), 50)


def test_resampled_means_by_hand() -> None:
    values = np.array([[[1.0, 0], [3, 5]], [[0, 1], [4, 4]], [[0, 1], [2, 0]]])  # three images, two δ, two τ
    drawn = np.random.default_rng(4).integers(0, 3, (200, 3))
    scores = [values[rows].mean(0).max(-1).mean() for rows in drawn]
    found = bootstrap_interval(values, 200, confidence=0.8, seed=4)
    assert found.value == pytest.approx((2 / 3 + 3) / 2)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(scores, [0.1, 0.9])))
    usual = bootstrap_interval(values)
    drawn = np.random.default_rng(0).integers(0, 3, (2000, 3))
    scores = [values[rows].mean(0).max(-1).mean() for rows in drawn]
    assert (usual.low, usual.high) == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])))
    for wrong in (np.zeros(0), np.zeros((2, 2, 2, 2)), np.float64(1)):
        with pytest.raises(InputError, match=r"expected \(N,\), \(N, T\) or \(N, D, T\), N > 0"):
            bootstrap_interval(wrong)


def test_pixels_of_two_maps_and_of_their_resamples() -> None:
    truth = np.zeros((224, 224), np.uint8)
    truth[:112], truth[0] = 1, 255
    good = np.linspace(1, 0, 224, dtype=np.float32)[:, None].repeat(224, 1)
    whole = PixelTally(BoxRule(), resamples=4)
    whole.update([good, good[::-1].copy()], [truth, truth], [3, 8])
    assert whole.score.images == 2
    assert whole.score.counts.sum() == 2 * 223 * 224
    times = [np.random.default_rng(i).poisson(1, 4) for i in (3, 8)]
    assert whole.resampled.sum((1, 2)).tolist() == [(a + b) * 223 * 224 for a, b in zip(*times, strict=True)]
    draws = []
    for a, b in zip(*times, strict=True):
        one = PxAP()
        one.update([good] * a + [good[::-1].copy()] * b, [truth] * (a + b))
        draws.append(one.compute() if a + b else 0.0)
    found = whole.interval()
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    assert len(PixelTally(BoxRule()).resampled) == 500


def test_masks_of_the_truth() -> None:
    found = truth_mask([np.array([[0.5, 0.6]]), np.array([[0, 0]])], np.array([[1, 1]]), size_hw=None)
    assert found.tolist() == [[255, 1]]
    assert truth_mask([np.ones((1, 1))]).shape == (224, 224)
    assert truth_mask([np.eye(2)], size_hw=(2, 4)).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


def test_ilsvrc_of_one_and_five_guesses() -> None:
    boxes = torch.tensor([[[0.0, 0, 1, 1]] * 4 + [[0, 0, 4, 4]] * 2])
    score = ILSVRC()
    assert repr(score) == "ILSVRC(keep=False, images=0, right={})"
    classes = torch.tensor([[9, 9, 9, 9, 7, 7]])
    truth = [torch.tensor([[0.0, 0, 4, 4]])]
    score.update(classes, boxes, torch.tensor([7]), truth, known_boxes=torch.tensor([[0.0, 0, 2, 4]]))
    sixth = torch.tensor([[9, 9, 9, 9, 9, 7]])
    score.update(
        sixth, boxes, torch.tensor([7]), truth, torch.tensor([[7, 1]]), torch.tensor([[0.0, 0, 1, 4]])
    )
    assert score.compute() == {
        "top1_loc_error": 1.0,
        "top5_loc_error": 0.5,
        "top1_cls_error": 0.5,
        "top5_cls_error": 0.0,
        "gt_known_loc": 0.5,
    }
    with pytest.raises(InputError, match="for every batch or for none"):
        score.update(classes, boxes, torch.tensor([7]), truth)
    with pytest.raises(InputError, match="no per-image 'top1_loc' was kept"):
        score.per_image("top1_loc")
    assert (score + score).compute() == score.compute()
    assert (score + ILSVRC()).images == (ILSVRC() + score).images == 2
    for classes_shape, label_shape in (((1, 5), (1,)), ((1, 6), (2,))):
        with pytest.raises(InputError, match="are inconsistent"):
            ILSVRC().update(torch.zeros(classes_shape), boxes, torch.zeros(label_shape), truth * len(boxes))
    with pytest.raises(InputError, match="counted differently"):
        _ = score + ILSVRC(keep=True)


# In a training loop

WHOLE = torch.tensor([[0.0, 0, 8, 4]])


def map_of(*columns: float) -> Tensor:
    return torch.tensor([columns]).repeat(2, 1)  # (2, 4), shown at (4, 8)


@pytest.mark.parametrize(
    ("truth", "delta", "share"),
    [
        ([0, 0, 8, 2], 0.5, 1.0),  # IoU 1/2 exactly
        ([0, 0, 7, 2], 0.5, 0.0),
        ([0, 0, 8, 2], 0.6, 0.0),
        ([0, 0, 8, 3], 0.75, 1.0),
    ],
)
def test_gt_known_counts_an_overlap_of_delta(truth: list[float], delta: float, share: float) -> None:
    score = GTKnownLocalisation((4, 8), BoxRule(0.1, normalise="max"), delta)
    rows = torch.tensor([[7.0, 3, 8, 4], [*map(float, truth)]])  # the better of the two counts
    score.update(torch.stack([map_of(4, 3, 3, 2), map_of(0, 0, 0, 0)]), [rows, WHOLE])
    score.update(map_of(4, 3, 3, 2)[None], [torch.zeros(0, 4)])
    assert float(score.compute()) == pytest.approx(share / 3)  # one map is blank, one image has no true box
    assert GTKnownLocalisation((4, 8)).delta == 0.5


def test_heat_in_boxes_whose_edges_are_rounded() -> None:
    score = HeatInBox((2, 4))
    heat = torch.tensor([[[1.0, 2, 3, -9], [4, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    score.update(heat, [torch.tensor([[0.6, -3.0, 2.4, 1.4], [1.0, 0, 2, 1]]), WHOLE])
    assert float(score.compute()) == pytest.approx(2 / 10 / 2)
    score.update(heat[:1], [torch.tensor([[0.0, 0, 1, 2]])])
    assert float(score.compute()) == pytest.approx((2 / 10 + 5 / 10) / 3)


def test_heat_on_the_border_is_of_maps_with_heat() -> None:
    score = HeatOnBorder((20, 40))
    heat = torch.zeros(3, 20, 40)
    heat[0, 0, 5], heat[0, 10, 20], heat[1, 10, 20] = 1, 3, 1
    score.update(heat)
    assert (float(score.compute()), int(score.images)) == (pytest.approx((0.25 + 0) / 2), 2)
    assert not HeatOnBorder.higher_is_better
    assert HeatInBox.higher_is_better
    assert GTKnownLocalisation.higher_is_better
    assert MaxBoxAccuracy.higher_is_better


@pytest.mark.parametrize("make", [GTKnownLocalisation, MaxBoxAccuracy, HeatInBox])
def test_a_metric_s_maps_are_n_by_h_by_w(make: Callable[..., torch.nn.Module]) -> None:
    score = make((4, 8))
    with pytest.raises(InputError, match=r"expected \(N, h, w\) and one tensor \(B, 4\) per image"):
        score.update(torch.ones(1, 1, 4, 8), [WHOLE])
    assert not score.full_state_update


@pytest.mark.skipif(not hasattr(HeatInBox, "merge_state"), reason="an older torchmetrics")
def test_scores_of_two_devices_are_summed() -> None:
    def halves(make: Callable[[], torch.nn.Module], *given: Any) -> tuple[float, float]:
        one, other, both = make(), make(), make()
        for score, times in ((one, 1), (other, 2), (both, 3)):
            for _ in range(times):
                score.update(*given)
        one.merge_state(other)
        assert int(one.images) == int(both.images) == 3
        return float(one.compute()), float(both.compute())

    heat = torch.tensor([[[1.0, 2, 3, 0], [4, 0, 0, 0]]])
    boxes = [torch.tensor([[0.0, 0, 2, 2]])]
    for make in (GTKnownLocalisation, MaxBoxAccuracy, HeatInBox):
        merged, whole = halves(lambda make=make: make((2, 4)), heat, boxes)
        assert merged == pytest.approx(whole)
        assert merged > 0
    merged, whole = halves(lambda: HeatOnBorder((20, 20)), torch.eye(20)[None])
    assert merged == pytest.approx(whole) == pytest.approx(0.1)


def test_the_best_threshold_in_a_training_loop_is_that_of_the_accumulator() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(4, 5, 6, generator=generator)
    boxes = [torch.tensor([[1.0, 1, 6 + i, 4]]) for i in range(4)]
    for options in ({}, {"deltas": (0.3, 0.7), "protocol": "exact-all", "rule": BoxRule(normalise="max")}):
        score = MaxBoxAccuracy((8, 10), **options)
        score.update(maps[:3], boxes[:3])
        score.update(maps[3:], boxes[3:])
        slow = BoxAccuracy(
            options.get("protocol", "exact"), options.get("deltas", (0.5,)), options.get("rule", BoxRule())
        )
        slow.update(maps, boxes, [Geometry.identity((8, 10))] * 4)
        assert float(score.compute()) == pytest.approx(slow.compute())
        assert float(score.compute()) > 0
