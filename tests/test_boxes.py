"""Boxes: literal rows in, literal boxes out, and a slow flood fill on random maps."""

from __future__ import annotations

import pytest
import torch

from sightline.boxes import (
    best_ious,
    centre_box,
    cutoffs,
    five_guesses,
    iou,
    make_boxes,
    make_masks,
    xywh_to_xyxy,
)
from sightline.errors import InputError
from sightline.types import BoxRule


def rows(*lines: str) -> torch.Tensor:
    """Digits are tenths, a dot is 0, # is 1: one heatmap (H, W)."""
    value = {".": 0.0, "#": 1.0, **{str(d): d / 10 for d in range(10)}}
    return torch.tensor([[value[c] for c in line] for line in lines])


CASES = {
    "one pixel": (rows("....", ".#..", "...."), [[1, 1, 2, 2]]),
    "full map": (rows("##", "##", "##"), [[0, 0, 2, 3]]),
    "nothing": (rows("..", ".."), []),
    "exactly the threshold is kept": (rows("#2..", "...."), [[0, 0, 2, 1]]),
    "below the threshold is not": (rows("#1..", "...."), [[0, 0, 1, 1]]),
    "two blobs, the larger area wins": (
        rows("##...", "##.##", "...##", "...##"),
        [[3, 1, 5, 4], [0, 0, 2, 2]],
    ),
    "area counts, not the peak": (rows("#..", "...", "333"), [[0, 2, 3, 3], [0, 0, 1, 1]]),
    "equal areas: the first in reading order": (rows("...##", "##..."), [[3, 0, 5, 1], [0, 1, 2, 2]]),
    "equal areas in one row": (rows("#.#.#"), [[0, 0, 1, 1], [2, 0, 3, 1], [4, 0, 5, 1]]),
    "a diagonal connects": (rows("#...", ".#..", "..#.", "...."), [[0, 0, 3, 3]]),
    "a hole belongs to the box": (rows(".....", ".###.", ".#.#.", ".###."), [[1, 1, 4, 4]]),
    "a ring around a blob": (
        rows("#####", "#...#", "#.#.#", "#...#", "#####"),
        [[0, 0, 5, 5], [2, 2, 3, 3]],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_boxes_of_literal_rows(name):
    heatmap, expected = CASES[name]
    found = make_boxes(heatmap[None, None], BoxRule(select="all"))[0][0]
    assert found.shape == (len(expected), 4)
    assert found.tolist() == expected
    assert make_boxes(heatmap[None, None])[0][0].tolist() == expected[:1]


@pytest.mark.parametrize("shape", [(0, 2, 3, 3), (1, 0, 3, 3), (1, 1, 0, 0)])
def test_no_maps_have_no_masks(shape):
    for select in ("largest", "all"):
        assert make_masks(torch.zeros(shape), BoxRule(select=select)).shape == shape


def test_negative_maps_give_no_box():
    negative = -torch.ones(1, 1, 3, 3)
    assert make_boxes(negative)[0][0].shape == (0, 4)
    assert not make_masks(negative).any()


def test_threshold_zero_still_asks_for_a_positive_value():
    assert make_boxes(rows("..1", "...")[None, None], BoxRule(0.0))[0][0].tolist() == [[2, 0, 3, 1]]


def test_boxes_keep_the_order_of_images_and_classes():
    maps = torch.zeros(2, 3, 4, 5)
    for i in range(2):
        for k in range(3):
            maps[i, k, 1 + i, 1 + k] = 1
    found = make_boxes(maps)
    assert [[b.tolist() for b in image] for image in found] == [
        [[[1 + k, 1 + i, 2 + k, 2 + i]] for k in range(3)] for i in range(2)
    ]
    assert found[0][0].dtype == torch.float32
    assert make_boxes(torch.zeros(0, 3, 4, 5)) == []
    assert make_masks(torch.zeros(0, 3, 4, 5)).shape == (0, 3, 4, 5)


def test_the_percentile_standard():
    # values 1 … 10 tenths: the 50th percentile is 0.55; half of it keeps 0.3 and more
    ramp = torch.arange(1, 11, dtype=torch.float64).view(1, 1, 1, 10) / 10
    at = cutoffs(ramp, BoxRule(0.5, "percentile", percentile=50))
    torch.testing.assert_close(at, torch.tensor([[0.275]], dtype=torch.float64))
    assert make_boxes(ramp, BoxRule(0.5, "percentile", percentile=50))[0][0].tolist() == [[2, 0, 10, 1]]
    assert torch.equal(cutoffs(ramp, BoxRule(0.2, "percentile", percentile=100)), cutoffs(ramp, BoxRule(0.2)))


def test_a_percentile_of_zero_keeps_positive_values_only():
    peak = rows("....", ".#..", "....")[None, None]
    assert make_boxes(peak, BoxRule(0.35, "percentile", percentile=90))[0][0].tolist() == [[1, 1, 2, 2]]


def _flood(mask: torch.Tensor) -> list[set[tuple[int, int]]]:
    """Slow: 8-connected components by flood fill, in reading order."""
    todo = {(int(y), int(x)) for y, x in mask.nonzero()}
    found = []
    for start in sorted(todo):
        if start not in todo:
            continue
        component, edge = set(), [start]
        todo.discard(start)
        while edge:
            y, x = edge.pop()
            component.add((y, x))
            for near in [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
                if near in todo:
                    todo.discard(near)
                    edge.append(near)
        found.append(component)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_against_a_flood_fill(seed):
    generator = torch.Generator().manual_seed(seed)
    size = [int(v) for v in torch.randint(1, 24, (2,), generator=generator)]
    heatmap = torch.rand(size, generator=generator, dtype=torch.float64)
    kept = heatmap >= 0.7 * heatmap.max()
    components = sorted(_flood(kept), key=lambda c: -len(c))  # sorted is stable
    expected = [
        [min(x for _, x in c), min(y for y, _ in c), max(x for _, x in c) + 1, max(y for y, _ in c) + 1]
        for c in components
    ]
    assert make_boxes(heatmap[None, None], BoxRule(0.7, select="all"))[0][0].tolist() == expected
    largest = make_masks(heatmap[None, None], BoxRule(0.7))[0, 0]
    assert {(int(y), int(x)) for y, x in largest.nonzero()} == components[0]
    assert torch.equal(make_masks(heatmap[None, None], BoxRule(0.7, select="all"))[0, 0], kept)


def test_five_guesses_plain():
    maps = torch.zeros(5, 3, 6)
    for k in range(4):
        maps[k, 1, k : k + 2] = 1
    boxes, ranks = five_guesses(maps)
    assert boxes.tolist() == [[0, 1, 2, 2], [1, 1, 3, 2], [2, 1, 4, 2], [3, 1, 5, 2], [0, 0, 0, 0]]
    assert ranks.tolist() == [0, 1, 2, 3, 4]


def test_five_guesses_heuristics():
    # 1 is 25 of 255 (above 20), 5 is 127 (above 110), # is 255.
    first = rows("111111", "1####1", "1####1", "111111")  # loose all; the inside is 8 of 24: tight
    second = rows("......", ".####.", "......", "......")  # one box only: repeated
    third = rows(".55...", ".55...", "......", "....55")  # two blobs: loose is the larger
    boxes, ranks = five_guesses(torch.stack([first, second, third, first, first]), "heuristics")
    assert boxes.tolist() == [[0, 0, 6, 4], [1, 1, 5, 3], [1, 1, 5, 2], [1, 1, 5, 2], [1, 0, 3, 2]]
    assert ranks.tolist() == [0, 0, 1, 1, 2]


def test_heuristics_drop_what_overlaps_a_larger_box_by_more_than_half_of_it():
    # loose 6×4 = 24; the inside 4×4 = 16 is more than half of it, so the next one, 1×1, is tight
    first = rows("155551", "155551", "155551", "155551")
    assert five_guesses(first.expand(5, -1, -1), "heuristics").boxes_xyxy[:2].tolist() == [[0, 0, 6, 4]] * 2
    # exactly half (12 of 24) is kept
    half = rows("155511", "155511", "155511", "155511")
    assert five_guesses(half.expand(5, -1, -1), "heuristics").boxes_xyxy[1].tolist() == [1, 0, 4, 4]


def test_heuristics_cut_strictly_above_20_of_255():
    at_cut = torch.full((5, 1, 3), 20 / 255, dtype=torch.float64)
    at_cut[:, 0, 1] = 21 / 255
    assert five_guesses(at_cut, "heuristics").boxes_xyxy[0].tolist() == [1, 0, 2, 1]
    assert five_guesses(torch.zeros(5, 2, 2), "heuristics").boxes_xyxy.tolist() == [[0, 0, 0, 0]] * 5


def test_heuristics_cut_strictly_above_100_and_110_of_255():
    # A loose box of eight pixels; three of them, less than half, are a box of their own once they pass the next cut.
    loose, tight = [0, 0, 8, 1], [0, 0, 3, 1]
    for level, expected in ((100, loose), (101, tight)):
        heatmap = (torch.tensor([[level] * 3 + [50] * 5]) + 0.5) / 255
        assert five_guesses(heatmap.expand(5, -1, -1), "heuristics").boxes_xyxy[1].tolist() == expected
    # Above 100 five pixels remain, more than half, which are dropped; the three are a box only above 110.
    for level, expected in ((110, loose), (111, tight)):
        heatmap = (torch.tensor([[level] * 3 + [105] * 2 + [50] * 3]) + 0.5) / 255
        assert five_guesses(heatmap.expand(5, -1, -1), "heuristics").boxes_xyxy[1].tolist() == expected


def test_iou_of_literal_boxes():
    a = torch.tensor([[0, 0, 2, 2], [0, 0, 4, 4], [1, 1, 1, 3], [3, 3, 2, 2]])
    b = torch.tensor([[0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0]])
    expected = [[1.0, 0.0], [0.25, 0.25], [0.0, 0.0], [0.0, 0.0]]  # touching, degenerate, inside out: 0
    assert iou(a, b).tolist() == expected
    assert iou(a, a[:0]).shape == (4, 0)
    assert iou(torch.zeros(1, 4), torch.zeros(1, 4)).tolist() == [[0.0]]
    assert iou(a, b).T.equal(iou(b, a))


def test_ious_are_those_of_the_pairs_and_the_best_true_box_counts():
    boxes = torch.rand(30, 2, 2).double().sort(1).values.flatten(1)
    truth = [torch.rand(n, 2, 2).double().sort(1).values.flatten(1) for n in (1, 2, 3) * 10]
    expected = torch.stack([iou(box[None], true).max() for box, true in zip(boxes, truth, strict=True)])
    torch.testing.assert_close(best_ious(boxes, truth), expected)
    boxes[3] = float("nan")
    assert best_ious(boxes, truth)[3] == 0


def test_conversions():
    assert xywh_to_xyxy(torch.tensor([[1.5, 2, 0.5, 3]])).tolist() == [[1.5, 2, 2, 5]]
    assert centre_box((10, 20), 2).tolist() == [[2, 2, 18, 8]]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: make_boxes(m[0]), "expected (N, K, H, W)"),
        (lambda m: make_boxes(m, BoxRule(select="bigest")), "did you mean 'largest'"),
        (lambda m: make_masks(m, BoxRule(relative_to="maximum")), "unknown relative_to"),
        (lambda m: make_boxes(m, BoxRule(threshold=20)), "from 0 to 1"),
        (lambda m: make_boxes(m, BoxRule(relative_to="percentile", percentile=-1)), "from 0 to 100"),
        (lambda m: five_guesses(m[0]), "expected (5, H, W)"),
        (lambda m: five_guesses(torch.zeros(5, 2, 2), "heuristic"), "did you mean 'heuristics'"),
        (lambda m: iou(m[0, 0], m[0, 0]), "expected (B, 4)"),
        (lambda m: centre_box((10, 20), 5), "leaves no box"),
    ],
)
def test_errors_say_what_was_expected(call, says):
    with pytest.raises(InputError) as caught:
        call(torch.zeros(1, 1, 3, 3))
    assert says in str(caught.value)
