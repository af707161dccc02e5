"""Heatmaps, boxes and scores by hand: each size, sum and threshold from both sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sightline import heatmap
from sightline.boxes import (
    areas,
    best_ious,
    centre_box,
    cutoffs,
    five_guesses,
    iou,
    make_boxes,
    make_masks,
    paired_iou,
    shared_areas,
)
from sightline.errors import InputError
from sightline.heatmap import (
    as_planes,
    difference,
    from_planes,
    fuse,
    make_heatmaps,
    normalise,
    place,
    propagate,
    quantile,
    resample,
    spread,
    upsample,
)
from sightline.scores import ScoreRule, end_of, lies_in_unit, percent_text, rule_for, sums_to_one
from sightline.types import BoxRule


def close(found: Tensor, expected: Any, slack: float = 1e-6) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected).to(found), rtol=0, atol=slack)


# Sizes


def test_lines_and_volumes_are_pictures_and_back() -> None:
    volume = torch.arange(24.0).view(2, 3, 4)
    assert as_planes(volume, 3).shape == (6, 4)
    assert torch.equal(from_planes(as_planes(volume, 3), (2, 3, 4)), volume)
    line = torch.arange(4.0)
    assert as_planes(line, 1).tolist() == [[0, 1, 2, 3]]
    assert torch.equal(from_planes(as_planes(line, 1), (4,)), line)
    assert as_planes(volume, 2) is volume
    assert from_planes(volume, (3, 4)) is volume


def test_lines_and_volumes_are_enlarged_along_each_axis() -> None:
    assert upsample(torch.tensor([0.0, 4.0]), (4,)).tolist() == [0, 1, 3, 4]
    corner = torch.zeros(2, 2, 2)
    corner[0, 0, 0] = 64
    line = torch.tensor([4.0, 3, 1, 0])
    assert torch.equal(upsample(corner, (4, 4, 4)), torch.einsum("i,j,k->ijk", line, line, line))
    assert upsample(torch.tensor([1.0, 2]), (4,), "nearest").tolist() == [1, 1, 2, 2]
    same = torch.rand(3, 2)
    assert upsample(same, (3, 2)) is same
    for wrong, mode in (((4,), "bicubic"), ((4, 4, 4), "bicubic")):
        with pytest.raises(InputError, match="mode 'bicubic'; expected 'bilinear' or 'nearest'"):
            upsample(torch.zeros(2, 2, 2), wrong, mode)
    for wrong in ((0, 2), (2, -1), (1.5, 2), 3, (1, 2, 3, 4), "ab"):
        with pytest.raises(InputError, match="expected a height and a width of at least 1"):
            upsample(torch.zeros(2, 2), wrong)
    with pytest.raises(InputError, match=r"shape \(2, 2\); expected \(\.\.\., d, h, w\)"):
        upsample(torch.zeros(2, 2), (2, 2, 2))
    with pytest.raises(InputError, match=r"shape \(2,\); expected \(\.\.\., h, w\)"):
        normalise(torch.zeros(2))


def test_maps_that_no_machine_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heatmap, "MOST_VALUES", 2**30)
    with pytest.raises(InputError, match=r"3 maps of 32,768 × 32,768 need 12 GiB; expected at most 4"):
        upsample(torch.zeros(3, 1, 1), (2**15, 2**15))
    monkeypatch.setattr(heatmap, "MOST_VALUES", 24)
    assert upsample(torch.zeros(2, 1, 1), (3, 4)).numel() == 24
    with pytest.raises(InputError, match="3 maps of 3 × 4 need"):
        upsample(torch.zeros(3, 1, 1), (3, 4))


def test_a_grid_on_part_of_an_image() -> None:
    maps = torch.tensor([[[2.0, 4.0]], [[-3.0, -1.0]], [[5.0, 5.0]]])
    covers = ((1.0, 2.0), (1.0, 3.0))
    found = place(maps, covers, (3, 4))
    assert found[0].tolist() == [[0, 0, 0, 0], [0, 2, 4, 0], [0, 0, 0, 0]]
    assert found[1].tolist() == [
        [-3] * 4,
        [-3, -3, -1, -3],
        [-3] * 4,
    ]  # nothing is the lowest, where that is below 0
    assert found[2].tolist() == [[5] * 4] * 3
    assert place(maps[0], covers, (3, 4), repeat_edges=True).tolist() == [[2, 2, 4, 4]] * 3
    on_centres = place(torch.tensor([[1.0, 1.0, 7]]), ((0.5, 1.5), (0.5, 2.5)), (3, 4))
    assert (on_centres > 0).tolist() == [[True, True, True, False]] * 2 + [[False] * 4]
    assert resample(torch.tensor([[0.0, 8.0]]), ((0, 1), (2, 6)), ((0, 1), (3, 7)), (1, 4)).tolist() == [
        [1 * 2, 6, 8, 8]
    ]


def test_a_grid_in_the_middle_of_lines_and_volumes() -> None:
    assert spread(torch.tensor([0.0, 4]), ((1, 5),), (6,)).tolist() == [0, 0, 1, 3, 4, 4]
    cube = torch.tensor([[[0.0, 8]], [[0.0, 8]]])
    assert spread(cube, ((0, 2), (0, 1), (0, 4)), (2, 1, 4)).tolist() == [[[0, 2, 6, 8]]] * 2
    picture = torch.rand(2, 3, 4)
    close(
        spread(picture, ((1, 3), (2, 6)), (5, 7)), place(picture, ((1, 3), (2, 6)), (5, 7), repeat_edges=True)
    )


# Values


def test_maps_that_show_nothing_are_told_before_they_are_enlarged() -> None:
    maps = torch.tensor([[[-1.0, 0.0]], [[2.0, 2.0]], [[0.0, 1e-30]], [[-5.0, 1.0]]])
    found = make_heatmaps(maps, (2, 2), "max")
    assert found.tolist() == [[[0, 0]] * 2, [[0, 0]] * 2, [[0, 1]] * 2, [[0, 1]] * 2]
    assert make_heatmaps(torch.tensor([[0.0, 4.0], [2.0, 2.0]]), (4,)).tolist() == [
        [0, 0.25, 0.75, 1],
        [0] * 4,
    ]
    assert make_heatmaps(torch.tensor([[[0.0, 4.0]]]), (1, 1, 2)).tolist() == [[[0, 1]]]
    ramp = torch.arange(11.0).view(1, 11)
    close(make_heatmaps(ramp, (1, 11), "percentile", 50), (ramp / 5).clamp(max=1))
    for wrong in (-0.5, 100.5):
        with pytest.raises(InputError, match="percentile is"):
            normalise(ramp, "percentile", wrong)
    for right in (0, 100):
        assert normalise(ramp, "percentile", right).max() == 1
    assert normalise(torch.tensor([[5.0]])).tolist() == [[0]]
    assert normalise(torch.tensor([[0.0, 0, 0, 0.5]]), "percentile", 50).tolist() == [[0, 0, 0, 1]]
    for wrong in (3, (1, 1, 1, 1)):
        with pytest.raises(InputError, match="expected a height and a width"):
            make_heatmaps(torch.ones(2, 2), wrong)


def test_quantiles_at_and_between_values() -> None:
    maps = torch.tensor([[[3.0, 1], [0, 7]]])
    assert [float(quantile(maps, q)) for q in (0, 1 / 3, 0.5, 2 / 3, 1)] == pytest.approx([0, 1, 2, 3, 7])
    for wrong in (-1e-9, 1 + 1e-9):
        with pytest.raises(InputError, match="expected a number from 0 to 1"):
            quantile(maps, wrong)


def test_the_difference_of_two_maps_and_of_equal_ones() -> None:
    a, b = torch.tensor([[[3.0, 1]], [[1, 1]]]), torch.tensor([[[1.0, 5]], [[1, 1]]])
    assert difference(a, b, (1, 2)).tolist() == [[[0.5, -1]], [[0, 0]]]
    assert difference(a / 16, b / 16, (1, 2)).tolist() == [[[0.5, -1]], [[0, 0]]]
    with pytest.raises(InputError, match="expected the same"):
        difference(a, b[:1], (1, 2))


def test_layers_are_fused_image_by_image() -> None:
    one, two = torch.tensor([[[4.0, 2]], [[0, 0]]]), torch.tensor([[[1.0, 2]], [[-3, -1]]])
    assert fuse([one, two], (1, 2)).tolist() == [[[1, 1]], [[0, 0]]]
    assert fuse([one, two], (1, 2), "max", False).tolist() == [[[1, 0.5]], [[0, 0]]]
    close(fuse([one, two], (1, 2), "mean", False), [[[1, 0.8]], [[0, 0]]])
    for wrong in ([one, two[0]], [one, two[:1]], [one[None]]):
        with pytest.raises(InputError, match="all with the same N"):
            fuse(wrong, (1, 2))


def test_a_walk_over_few_rows_at_a_time_and_on_a_coarser_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, features = torch.rand(3, 2, 3, 5, generator=generator), torch.rand(3, 4, 3, 5, generator=generator)
    whole = propagate(maps, features, 3.0, 2)
    for limit in (1, 15, 16, 30, 225, 449, 450, 675):
        close(propagate(maps, features, 3.0, 2, limit), whole)
    assert propagate(maps, features, grid=3).shape == (
        3,
        2,
        2,
        3,
    )  # 15 > 9: 3 and 5, times 3 / √15, rounded down
    assert propagate(maps, features, grid=4).shape == (3, 2, 3, 5)
    assert propagate(torch.rand(1, 1, 1, 9), torch.rand(1, 2, 1, 9), grid=2).shape == (1, 1, 1, 6)
    assert propagate(torch.rand(1, 1, 100, 1), torch.rand(1, 2, 100, 1), grid=2).shape == (1, 1, 20, 1)
    assert torch.equal(propagate(maps, features, steps=0), maps)
    for power, steps in ((0, 2), (-1, 2), (1, -1)):
        with pytest.raises(InputError, match="expected a power above 0 and 0 or more steps"):
            propagate(maps, features, power, steps)
    for a, b in ((maps[0], features), (maps, features[0]), (maps[:2], features)):
        with pytest.raises(InputError, match="propagate was given maps"):
            propagate(a, b)


@pytest.mark.parametrize("limit", [1_000, 10_000, 20_000, 30_000])
def test_a_walk_keeps_at_most_so_many_numbers_in_memory_and_not_far_fewer(limit: int) -> None:
    largest: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            largest.append(out.numel() if isinstance(out, Tensor) else 0)
            return out

    maps, features = torch.rand(4, 1, 10, 10), torch.rand(4, 1, 10, 10)  # a matrix has 10,000 numbers
    with Sizes():
        propagate(maps, features, limit=limit)
    assert limit * 0.9 < max(largest) <= limit


# Boxes


def test_boxes_of_two_images_and_two_classes() -> None:
    heat = torch.zeros(2, 2, 3, 4)
    heat[0, 0, 0, 1:3], heat[0, 0, 2, 0] = 1, 1
    heat[1, 0, 1, 1], heat[1, 0, 2, 2], heat[1, 0, 0, 3] = 0.2, 1, 0.19
    found = make_boxes(heat, BoxRule(0.2, select="all"))
    assert [[box.tolist() for box in row] for row in found] == [
        [[[1, 0, 3, 1], [0, 2, 1, 3]], []],
        [[[1, 1, 3, 3]], []],
    ]
    largest = make_boxes(heat)
    assert [[len(box) for box in row] for row in largest] == [[1, 0], [1, 0]]
    assert make_masks(heat)[0, 0].sum() == 2
    assert make_masks(heat, BoxRule(0.2, select="all"))[0, 0].sum() == 3
    assert cutoffs(heat[1, 0], BoxRule(0.5, relative_to="percentile", percentile=100)) == 0.5
    with pytest.raises(InputError, match=r"expected \(N, K, H, W\)"):
        make_boxes(heat[0])


def test_overlaps_of_boxes_that_touch_or_are_turned_round() -> None:
    a = torch.tensor([0.0, 0, 4, 2])
    others = torch.tensor([[4.0, 0, 6, 2], [3, 1, 5, 3], [4, 2, 0, 0], [0, 0, 4, 1]])
    assert areas(others).tolist() == [4, 4, 0, 4]
    assert shared_areas(a, others).tolist() == [0, 1, 0, 4]
    assert paired_iou(a, others).tolist() == pytest.approx([0, 1 / 11, 0, 0.5])
    assert iou(a[None].int(), others).tolist() == [pytest.approx([0, 1 / 11, 0, 0.5])]
    for wrong in (a, torch.zeros(1, 5), torch.zeros(1, 1, 4)):
        with pytest.raises(InputError, match=r"expected \(B, 4\)"):
            iou(wrong, others)
    truth = [others[3:], others[:2]]
    none = torch.full((4,), torch.nan)
    assert best_ious(torch.stack([a, a]), truth).tolist() == pytest.approx([0.5, 1 / 11])
    assert best_ious(torch.stack([none, a]), truth).tolist() == pytest.approx([0, 1 / 11])


@pytest.mark.parametrize(("margin", "box"), [(0, [0, 0, 9, 6]), (2.5, [2.5, 2.5, 6.5, 3.5])])
def test_the_box_in_the_centre(margin: float, box: list[float]) -> None:
    assert centre_box((6, 9), margin).tolist() == [box]
    for wrong in (-0.1, 3):
        with pytest.raises(InputError, match="leaves no box in 6×9"):
            centre_box((6, 9), wrong)


def test_five_guesses_of_oblong_maps() -> None:
    heat = torch.zeros(5, 4, 20)
    heat[0, :, :10], heat[0, 0, 12:14] = 1.004, 0.5  # a little above 1 counts as 1
    heat[1, 1, 3:9] = 0.09  # above 20 of 255 only
    boxes, ranks = five_guesses(heat, "heuristics")
    assert ranks.tolist() == [0, 0, 1, 1, 2]
    assert boxes.tolist() == [[0, 0, 10, 4], [12, 0, 14, 1], [3, 1, 9, 2], [3, 1, 9, 2], [0, 0, 0, 0]]
    assert five_guesses(heat).class_ranks.tolist() == [0, 1, 2, 3, 4]
    assert five_guesses(heat).boxes_xyxy[2].tolist() == [0, 0, 0, 0]
    faint = torch.full((5, 4, 20), 0.0822)  # 20.96 of 255: 20, which is not above 20
    assert not five_guesses(faint, "heuristics").boxes_xyxy.any()
    nested = torch.zeros(5, 4, 20)
    for column, cut in (
        (0, 0.1),
        (1, 0.4),
        (2, 0.6),
    ):  # the second is 9 of 10 columns: dropped; so is the third
        nested[0, :, column:10] = cut
    assert five_guesses(nested, "heuristics").boxes_xyxy[:2].tolist() == [[0, 0, 10, 4]] * 2
    half = torch.zeros(5, 4, 20)
    half[0, :, :10], half[0, :, :5] = 0.1, 0.4  # exactly half of the larger one is kept
    assert five_guesses(half, "heuristics").boxes_xyxy[:2].tolist() == [[0, 0, 10, 4], [0, 0, 5, 4]]
    for wrong in (heat[:4], heat[None]):
        with pytest.raises(InputError, match=r"expected \(5, H, W\)"):
            five_guesses(wrong)


# Probabilities


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (0, "0.0 %"), (1e-9, "<0.1 %"), (0.000499, "<0.1 %"), (0.0005, "0.1 %"), (0.5, "50.0 %"),
        (0.99949, "99.9 %"), (0.9995, ">99.9 %"), (0.999999, ">99.9 %"), (1, "100.0 %"),
    ],
)  # fmt: skip
def test_a_probability_in_words(probability: float, text: str) -> None:
    assert percent_text(probability) == text
    assert ScoreRule("softmax").text(probability) == ScoreRule("none", "sum to 1").text(probability) == text
    assert ScoreRule("none").text(12345.678) == "1.235e+04"


def test_rows_that_are_probabilities_up_to_rounding() -> None:
    assert [lies_in_unit(torch.tensor([[0.0, v]])) for v in (1.0, 1.00009, 1.0002, -1e-9)] == [
        True,
        True,
        False,
        False,
    ]
    near, far = torch.tensor([[0.5, 0.50009], [0.5, 0.5]]), torch.tensor([[0.5, 0.5002], [0.5, 0.5]])
    assert (sums_to_one(near), sums_to_one(far), sums_to_one(near.flip(0))) == (True, False, True)
    assert not sums_to_one(torch.tensor([[1.5, -0.5]]))
    half = torch.tensor([[0.5, 0.5005]], dtype=torch.float16)  # its rounding is 0.001
    assert sums_to_one(half)
    assert rule_for(near).name == "none"
    assert rule_for(far).name == "softmax"
    assert rule_for(near[:1]).name == "softmax"  # one row: within 1e-5
    assert rule_for(torch.tensor([[0.5, 0.500009]])).name == "none"
    assert rule_for(torch.tensor([[0.5, 0.500014]])).name == "softmax"
    assert rule_for(torch.tensor([[0, 1]])).name == "none"
    assert [rule_for(torch.zeros(0, n)).name for n in (1, 2)] == ["sigmoid", "softmax"]


MOVED: dict[str, Callable[[Tensor], Tensor]] = {
    "view": lambda x: x.view(2, 1, 3).view(2, 3),
    "squeeze": lambda x: x.unsqueeze(0).squeeze(0),
    "slice": lambda x: x[:1, :2],
    "clone": lambda x: x.clone().to(torch.float64),
    "expand": lambda x: x.expand(1, 2, 3).squeeze(0),
}


@pytest.mark.parametrize(
    ("end", "means"),
    [
        (lambda x: x.softmax(1), "softmax"),
        (torch.sigmoid, "sigmoid"),
        (lambda x: x @ torch.eye(3), "logits"),
        (lambda x: nn.functional.linear(x, torch.eye(3), torch.zeros(3)), "logits"),
        (lambda x: x.log_softmax(1), "logits"),
        (lambda x: x.exp(), None),
    ],
)
def test_the_last_operation_is_read_through_those_that_only_move(
    end: Callable[[Tensor], Tensor], means: str | None
) -> None:
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for move in (lambda x: x, *MOVED.values()):
        assert end_of(move(end(x))) == means
    assert end_of(x.detach()) is None
    assert end_of(x) is None


def test_probabilities_that_were_found_are_checked_wherever_they_are_used() -> None:
    whole, unit = ScoreRule("none", "sum to 1"), ScoreRule("none", "lie in [0, 1]")
    shares = torch.tensor([[0.25, 0.75]])
    assert torch.equal(whole.probabilities(shares), shares)
    assert torch.equal(unit.probabilities(shares / 2), shares / 2)
    with pytest.raises(InputError, match="the network's outputs sum to 1 in one pass and not in another"):
        whole.probabilities(shares / 2)
    with pytest.raises(InputError, match=r"the network's outputs lie in \[0, 1\] in one pass"):
        unit.probabilities(shares * 2)
    assert torch.equal(ScoreRule("none").probabilities(shares * 9), shares * 9)
    assert [rule.gives_probabilities for rule in (whole, ScoreRule("none"), ScoreRule("sigmoid"))] == [
        True,
        False,
        True,
    ]
    assert ScoreRule("softmax").probabilities(shares.half()).dtype == torch.float32
    close(
        ScoreRule("softmax").probabilities(torch.tensor([[[0.0, 3], [4, 4]]]).log()), [[[0, 1], [0.5, 0.5]]]
    )
    assert ScoreRule("softmax").probabilities(torch.zeros(2, 1, 4)).sum() == 2
    for shape in ((2, 1), (2, 4, 1)):
        with pytest.raises(InputError, match="the softmax of one output is always 1"):
            ScoreRule("softmax").probabilities(torch.zeros(shape))
    looked = rule_for(shares, None, lambda: torch.sigmoid(torch.zeros(1, 2, requires_grad=True)))
    assert looked == unit
    linear = rule_for(shares, "auto", lambda: torch.ones(1, 2, requires_grad=True) @ torch.eye(2))
    assert linear == ScoreRule("softmax")
    assert rule_for(shares, None, lambda: None) == whole
