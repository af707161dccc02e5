"""Scores worked out by hand: values that a change of one operation once left unnoticed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sightline.boxes import BoxRule, xywh_to_xyxy
from sightline.errors import InputError
from sightline.metrics.accumulators import PixelTally
from sightline.metrics.components import EVERYWHERE, hole_lives, inside_holes
from sightline.metrics.localisation import MaxBoxAcc, MaxBoxAccV2
from sightline.metrics.pointing import energy_in_mask
from sightline.metrics.protocols import sweep_ious, wsol_true_boxes
from sightline.metrics.registry import get_metric, register_metric, unregister_metric
from sightline.metrics.road import road
from sightline.metrics.torch_metrics import GTKnownLocalisation, MaxBoxAccuracy
from sightline.types import Geometry


def tally(maps: list[np.ndarray], first: int = 0) -> PixelTally:
    truth = np.zeros((224, 224), np.uint8)
    truth[:112] = 1
    found = PixelTally(BoxRule(), resamples=3)
    found.update(maps, [truth] * len(maps), range(first, first + len(maps)))
    return found


def test_pixels_counted_in_two_parts() -> None:
    rows = np.linspace(1, 0, 224, dtype=np.float32)[:, None].repeat(224, 1)
    good, bad = rows, rows[::-1].copy()
    whole, first, second = tally([good, bad]), tally([good]), tally([bad], first=1)
    assert np.array_equal((first + second).resampled, whole.resampled)
    assert (first + second).interval() == whole.interval()
    assert whole.interval(minus=whole) == (0.0, 0.0, 0.0)
    apart = first.interval(minus=second)
    assert apart.value == pytest.approx(first.score.compute() - second.score.compute())
    assert apart.value > 0.5


def test_islands_in_two_holes_side_by_side_and_in_holes_below_each_other() -> None:
    level = np.full((11, 13), 9, np.int32)
    for top, left in ((1, 1), (1, 7), (6, 1), (6, 7)):
        level[top : top + 3, left : left + 4] = 0
        level[top + 1, left + 1 : left + 3] = 5
    where = inside_holes(hole_lives(level, 9)[0], 11, 13)
    expected = np.zeros((11, 13), bool)
    for top, left in ((1, 1), (1, 7), (6, 1), (6, 7)):
        expected[top + 1, left + 1 : left + 3] = True
    assert np.array_equal(where == EVERYWHERE, expected)


def test_road_s_noise_is_drawn_for_every_channel() -> None:
    seen = []

    def score(images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return images.mean((1, 2, 3))

    # Of a black photo all that is imputed is black: what is left in the removed half is the noise.
    heat = torch.arange(64 * 64.0).view(1, 64, 64)
    road(score, torch.zeros(1, 3, 64, 64), heat, percentiles=(50,), noise=0.5)
    first, last = seen[0]
    assert not first[:, :32].any()
    assert not last[:, 32:].any()
    noise = first[:, 32:]
    assert noise.std((1, 2)).tolist() == pytest.approx([0.5] * 3, rel=0.1)
    assert abs(float(torch.corrcoef(noise.flatten(1))[0, 1])) < 0.1


def test_true_boxes_of_an_oblong_photo_shown_whole_are_not_clipped() -> None:
    # 448 × 224 shown at 224 × 224: y is halved; the box begins above the photo and stays there.
    box = wsol_true_boxes(np.array([[10.0, -20.0, 301.0, 101.0]]), Geometry.identity((448, 224)))
    assert box.tolist() == [[10, -10, 300, 50]]


def test_protocols_of_several_kinds_at_once_are_those_of_each_alone() -> None:
    heat = torch.zeros(1, 14, 14)
    heat[0, 4:9, 3:12] = torch.rand(5, 9, generator=torch.Generator().manual_seed(0)) + 0.5
    boxes, places = [torch.tensor([[48.0, 64, 192, 144]])], [Geometry.identity((224, 224))]
    names = ("rethinking", "wsol-v2", "exact")
    every = sweep_ious(heat, boxes, places, names)
    assert tuple(every) == names
    for name in names:
        assert np.array_equal(every[name], sweep_ious(heat, boxes, places, (name,))[name])
    score = MaxBoxAcc()
    score.update(heat, boxes, places)
    assert score.compute() == float((every["wsol-v2"] >= 0.5).any()) or score.protocol != "wsol-v2"
    assert score.hits.sum() > 0


def test_a_map_with_one_nan_has_no_exact_boxes() -> None:
    heat = torch.rand(1, 4, 4)
    heat[0, 1, 2] = torch.nan
    with pytest.raises(InputError, match="a map holds NaN"):
        sweep_ious(heat, [torch.tensor([[0.0, 0, 4, 4]])], [Geometry.identity((8, 8))], ("exact",))


def test_v2_counts_three_overlaps() -> None:
    score = MaxBoxAccV2()  # Choe et al.: 0.3, 0.5 and 0.7
    score.add_ious(np.full((1, 1000), 0.6))
    assert score.compute() == pytest.approx(2 / 3)
    assert score.deltas == (0.3, 0.5, 0.7)


def test_a_metric_needs_boxes_or_nothing() -> None:
    with pytest.raises(InputError, match="unknown need 'maps'"):
        register_metric("mine", good="lower", says="-", needs=("maps",))
    register_metric("mine", good="lower", says="-", needs=("boxes",))(lambda *_: {})
    try:
        assert get_metric("mine").needs == {"boxes"}
    finally:
        unregister_metric("mine")


def test_masks_are_booleans() -> None:
    with pytest.raises(InputError, match=r"masks are torch\.uint8; expected bool"):
        energy_in_mask(torch.ones(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))


@pytest.mark.parametrize("score", [GTKnownLocalisation((4, 4)), MaxBoxAccuracy((4, 4))])
def test_maps_and_boxes_are_of_the_same_images(score: torch.nn.Module) -> None:
    with pytest.raises(InputError, match="there are boxes for 2 images"):
        score.update(torch.rand(1, 4, 4), [torch.ones(1, 4)] * 2)


@pytest.mark.parametrize("shape", [(4,), (1, 4), (2, 1, 4)])
def test_corners_of_boxes_by_their_size(shape: tuple[int, ...]) -> None:
    box = torch.tensor([10, 20, 3, 4]).expand(shape)
    assert torch.equal(xywh_to_xyxy(box), torch.tensor([10, 20, 13, 24]).expand(shape))
