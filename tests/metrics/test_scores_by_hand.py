"""Scores worked out by hand, on oblong maps and batches: every branch, every border from both sides."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from sightline.errors import InputError
from sightline.metrics.calibration import calibration
from sightline.metrics.complexity import border_share, entropy, gini
from sightline.metrics.faithfulness import (
    centre_maps,
    class_probability,
    deletion,
    drop_and_increase,
    insertion,
)
from sightline.metrics.pointing import (
    class_mean_weights,
    energy_in_mask,
    pointing_game,
    relevance_rank_accuracy,
)
from sightline.metrics.registry import Column, MetricContext, get_metric, list_metrics
from sightline.metrics.road import PERCENTILES, impute, road
from sightline.metrics.sanity import can_reset, max_sensitivity, randomised_cascade, spearman

# How heat spreads


def test_gini_and_entropy_of_a_few_values() -> None:
    # 1 2 3 4 of 10: 1 - 2 (1 · 7/8 + 2 · 5/8 + 3 · 3/8 + 4 · 1/8) / 10. Half, a quarter and a quarter: 3/2 of 2 bits.
    heat = torch.tensor([[[3.0, 1], [4, 2]], [[2, 0], [1, 1]], [[-1, 0], [0, 7]]])
    assert gini(heat).tolist() == pytest.approx([0.25, 0.375, 0.75])
    assert entropy(heat)[1:].tolist() == pytest.approx([0.75, 0])
    for score in (gini, entropy, border_share):
        assert score(torch.zeros(1, 2, 2)).isnan().all()
        with pytest.raises(InputError, match=r"shape \(1, 1, 2, 2\); expected \(N, H, W\)"):
            score(torch.zeros(1, 1, 2, 2))


def test_the_frame_is_a_share_of_each_side_and_one_pixel_at_least() -> None:
    heat = torch.zeros(2, 40, 20)  # a frame of 2 rows and 1 column
    for (row, column), value in {(1, 10): 1, (38, 10): 1, (20, 0): 2, (20, 19): 1}.items():
        heat[0, row, column] = value
    for (row, column), value in {(2, 10): 5, (37, 10): 3, (20, 1): 4, (20, 18): 3}.items():
        heat[0, row, column] = value
    heat[1, 39, 19], heat[1, 5, 5] = 3, -9
    assert border_share(heat).tolist() == pytest.approx([0.25, 1])
    assert border_share(torch.ones(1, 4, 5)).tolist() == pytest.approx([1 - 6 / 20])
    assert border_share(torch.ones(1, 8, 12), border=0.25).tolist() == pytest.approx([1 - 4 * 6 / 96])


def test_calibration_by_hand() -> None:
    found = calibration(torch.tensor([0.1, 0.3, 0.8, 1.0]), torch.tensor([False, True, True, False]), bins=4)
    assert found.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.counts.tolist() == [1, 1, 0, 2]
    torch.testing.assert_close(
        found.confidence, torch.tensor([0.1, 0.3, math.nan, 0.9]).double(), equal_nan=True
    )
    torch.testing.assert_close(found.accuracy, torch.tensor([0, 1, math.nan, 0.5]).double(), equal_nan=True)
    assert found.error == pytest.approx((0.1 + 0.7 + 2 * 0.4) / 4)
    for confidence, correct in (((0,), (0,)), ((2, 2), (2, 2)), ((2,), (3,))):
        with pytest.raises(InputError, match=r"expected \(N,\) for both"):
            calibration(torch.zeros(confidence), torch.zeros(correct))


# Where the heat is


def test_the_maximum_on_an_oblong_map_and_how_far_it_may_be() -> None:
    heat = torch.zeros(3, 4, 9)
    heat[0, 3, 7] = heat[0, 3, 8] = 2  # the first of two maxima: row 3, column 7
    heat[1, 0, 0] = 1
    mask = torch.zeros(3, 4, 9, dtype=torch.bool)
    mask[0, 3, 2] = mask[1, 1, 1] = mask[2, 0, 0] = (
        True  # 5 to the left; diagonally next to it; nothing to point
    )
    for tolerance, hits in ((0, [0, 0, 0]), (1, [0, 0, 0]), (2, [0, 1, 0]), (4, [0, 1, 0]), (5, [1, 1, 0])):
        assert pointing_game(heat, mask, tolerance).tolist() == hits
    assert pointing_game(heat[:1], heat[:1] > 0).tolist() == [1]


def test_energy_and_rank_of_each_map() -> None:
    heat = torch.tensor([[[5.0, 1, 1], [1, 0, 2]], [[0, 0, 0], [0, 0, 0]], [[1, 1, 1], [3, 1, 1]]])
    mask = torch.tensor([[[True, True, False], [True, False, False]]]).repeat(3, 1, 1)
    assert energy_in_mask(heat, mask).tolist() == pytest.approx([0.7, 0, 5 / 8])
    # K = 3: 5 and 2 are above the third value, 1, and three pixels share the last place, two of them inside.
    expected = [(1 + 2 / 3) / 3, 3 / 6, (1 + 2 * 2 / 5) / 3]
    assert relevance_rank_accuracy(heat, mask).tolist() == pytest.approx(expected)
    assert relevance_rank_accuracy(heat.double(), mask).dtype == torch.float64
    for bad in (math.nan, math.inf):
        with pytest.raises(InputError, match="heatmaps hold NaN or Inf"):
            pointing_game(torch.tensor([[[1.0, bad]]]), torch.tensor([[[True, True]]]))
    with pytest.raises(InputError, match=r"expected \(N, H, W\) for both"):
        energy_in_mask(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool))


def test_classes_weigh_the_same_however_many_images_they_have() -> None:
    weights = class_mean_weights(torch.tensor([4, 2, 4, 4]))
    assert weights.tolist() == pytest.approx([4 / (2 * 3), 4 / 2, 4 / (2 * 3), 4 / (2 * 3)])


# Does the network use it?


def mean(images: Tensor, rows: Tensor) -> Tensor:
    return images.mean((1, 2, 3)) * (1 + rows)


def test_a_network_without_class_scores_has_no_probability() -> None:
    score = class_probability(nn.Identity(), torch.tensor([0]))
    with pytest.raises(
        InputError, match=r"the network has no scores \(N, C\); faithfulness needs a classifier"
    ):
        score(torch.zeros(1, 3, 2, 2), torch.tensor([0]))


def test_drop_and_increase_of_each_image() -> None:
    images = torch.tensor([1.0, 1, 0, 2]).view(4, 1, 1, 1).expand(4, 3, 1, 2)
    heat = torch.tensor([[[1.0, 0]], [[1, 2]], [[1, 1]], [[0, 0]]])
    found = drop_and_increase(mean, images, heat)
    assert found.drop.tolist() == pytest.approx([0.5, 0, 0, 1])
    assert found.increase.tolist() == [0, 1, 0, 0]


def test_curves_of_each_image_when_the_steps_do_not_divide_the_pixels() -> None:
    # 6 pixels in 4 steps: 0, 1.5, 3, 4.5 and 6 are rounded to even.
    images = torch.tensor([[1.0, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]]).view(2, 1, 2, 3).expand(2, 3, 2, 3)
    heat = torch.arange(6.0).view(1, 2, 3).expand(2, 2, 3)  # the last pixel first
    curves = deletion(mean, images, heat, steps=4, value=-1)
    assert curves.share.tolist() == pytest.approx([0, 2 / 6, 3 / 6, 4 / 6, 1])
    first = [21, 21 - 11 - 2, 21 - 15 - 3, 21 - 18 - 4, -6]
    second = [21, 21 - 3 - 2, 21 - 6 - 3, 21 - 10 - 4, -6]
    expected = torch.tensor([first, [2 * v for v in second]]) / 6
    torch.testing.assert_close(curves.scores, expected)
    widths = torch.tensor([2.0, 1, 1, 2]) / 6
    area = ((expected[:, 1:] + expected[:, :-1]) / 2 * widths).sum(1)
    torch.testing.assert_close(curves.auc, area)
    assert deletion(mean, images, heat).share.shape == (57,) if heat[0].numel() >= 56 else True
    with pytest.raises(InputError, match="steps=0; expected 1 to 6"):
        deletion(mean, images, heat, steps=0)


def test_insertion_begins_with_a_blur_and_ends_with_the_image() -> None:
    images = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    insertion(
        lambda x, rows: (seen.append(x), x.mean((1, 2, 3)))[1], images, torch.rand(2, 8, 9), 2, sigma=2.0
    )
    shown = torch.cat(seen).view(3, 2, 3, 8, 9)
    assert torch.equal(shown[2], images)
    # What a Gaussian filter makes of one pixel in a window of 11, at each pixel; 0 outside the image.
    point = np.zeros((11, 11))
    point[5, 5] = 1
    kernel = ndimage.gaussian_filter(point, 2.0)
    expected = ndimage.convolve(images.numpy(), kernel[None, None], mode="constant")
    np.testing.assert_allclose(shown[0].numpy(), expected, atol=1e-6)


def test_the_centre_map_is_a_gaussian_of_a_quarter_of_each_side() -> None:
    found = centre_maps(2, (4, 8))
    by_hand = [
        [math.exp(-((y - 1.5) ** 2) / 2 - ((x - 3.5) / 2) ** 2 / 2) for x in range(8)] for y in range(4)
    ]
    torch.testing.assert_close(found, torch.tensor([by_hand] * 2))


def test_road_removes_shares_of_the_pixels_from_both_ends() -> None:
    assert PERCENTILES == (10, 20, 30, 40, 50, 60, 70, 80, 90)
    seen: list[Tensor] = []

    def score(images: Tensor, rows: Tensor) -> Tensor:
        assert rows.tolist() == [0, 1, 0, 1]
        seen.append(images)
        return torch.tensor([0.1, 0.2, 0.5, 1.0]) / len(seen)

    # Of black images all that is removed is noise: 10 % of 25 pixels are 2, 50 % are 12.
    heat = torch.stack([torch.arange(25.0).view(5, 5), -torch.arange(25.0).view(5, 5)])
    found = road(score, torch.zeros(2, 3, 5, 5), heat, percentiles=(10, 50), noise=1.0)
    for images, count in zip(seen, (2, 12), strict=True):
        removed = (images != 0).all(1).flatten(1)
        last, first = [i >= 25 - count for i in range(25)], [i < count for i in range(25)]
        assert removed.tolist() == [last, first, first, last]
    assert torch.equal(
        seen[0][0, :, 4, 4], seen[0][3, :, 4, 4]
    )  # an image's noise does not depend on the others
    torch.testing.assert_close(found.morf, torch.tensor([[0.1, 0.05], [0.2, 0.1]]))
    torch.testing.assert_close(found.lerf, torch.tensor([[0.5, 0.25], [1.0, 0.5]]))
    torch.testing.assert_close(found.combined, torch.tensor([(0.2 + 0.1) / 2, (0.4 + 0.2) / 2]))
    for bad in ((), (0,), (100,), (50, 100.5)):
        with pytest.raises(InputError, match="expected values between 0 and 100"):
            road(score, torch.zeros(2, 3, 5, 5), heat, percentiles=bad)
    with pytest.raises(InputError, match="heatmaps have shape"):
        road(score, torch.zeros(2, 3, 5, 5), heat[:1])


def test_road_s_noise_is_that_of_its_seed_and_its_shares_are_rounded() -> None:
    seen: list[Tensor] = []
    heat = torch.arange(200.0).view(1, 10, 20)
    road(
        lambda x, rows: (seen.append(x), x.mean((1, 2, 3)))[1],
        torch.zeros(1, 3, 10, 20),
        heat,
        (50, 0.4),
        0.1,
        3,
    )
    generator = torch.Generator().manual_seed(3)
    for images, count in zip(seen, (100, 1), strict=True):
        noise = 0.1 * torch.randn(3, 10, 20, generator=generator)
        first = (torch.arange(200) < count).view(10, 20)
        torch.testing.assert_close(images[0], noise * first.flip(0, 1))
        torch.testing.assert_close(images[1], noise * first)


def test_what_is_imputed_does_not_depend_on_the_scale_or_on_the_rest_of_the_batch() -> None:
    images = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    removed = torch.zeros(2, 24, 24, dtype=torch.bool)
    removed[0, 2, 2] = True  # done in one step
    removed[1, 1:-1, 1:-1] = True
    found = impute(images, removed)
    torch.testing.assert_close(found[1:], impute(images[1:], removed[1:]), rtol=0, atol=1e-9)
    exact = impute(images[1:], removed[1:], tolerance=1e-12)
    torch.testing.assert_close(found[1:], exact, rtol=0, atol=1e-2)
    for scale in (1e-4, 1e4):
        torch.testing.assert_close(impute(images * scale, removed) / scale, found, rtol=0, atol=1e-9)
    removed[0] = True
    with pytest.raises(InputError, match="every pixel of an image is removed"):
        impute(images, removed)


def test_sensitivity_is_each_image_s_own_and_endless_where_nothing_becomes_something() -> None:
    images = torch.stack([torch.full((1, 1, 2), v) for v in (1.0, 0.0, 2.0)])
    found = max_sensitivity(lambda x: x[:, 0], images, radius=0.5, samples=4, seed=3)
    generator = torch.Generator().manual_seed(3)
    largest = max(float(((torch.rand(1, 1, 2, generator=generator) * 2 - 1) * 0.5).norm()) for _ in range(4))
    assert found.tolist() == pytest.approx([largest / math.sqrt(2), math.inf, largest / math.sqrt(8)])
    calls: list[int] = []
    max_sensitivity(lambda x: (calls.append(1), torch.ones(len(x), 1, 1))[1], images)
    assert len(calls) == 11
    assert max_sensitivity(lambda x: x[:, 0], images, radius=0.01, samples=1).isfinite().tolist() == [
        True,
        False,
        True,
    ]


def test_ranks_that_are_tied_take_their_mean() -> None:
    # Ranks 1.5 1.5 3 4 and 4 3 1.5 1.5 about 2.5: -1.5 - 0.5 - 0.5 - 1.5 = -4, and either's squares sum to 4.5.
    a = torch.tensor([[[1.0, 1], [2, 3]], [[0, 0], [0, 0]]])
    b = torch.tensor([[[9.0, 8], [7, 7]], [[1, 2], [3, 4]]])
    found = spearman(a, b)
    assert found.tolist() == pytest.approx([-4 / 4.5, 0])
    assert found.dtype == torch.float32
    assert spearman(torch.tensor([[[1.0, 2]]]), torch.tensor([[[5.0, 4]]])).tolist() == pytest.approx([-1])


class Scaled(nn.Linear):
    """Has a weight of its own, layers of its own, and no weights that could be drawn again."""

    reset_parameters = None  # type: ignore[assignment]

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.weight, self.inner = nn.Parameter(torch.ones(1)), nn.Linear(2, 2)


def test_the_cascade_is_that_of_its_seed_and_of_layers_that_can_be_drawn_again() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), Scaled())
    assert [can_reset(one) for one in net.modules()] == [False, True, False, False, True]

    def last(seed: int) -> Tensor:
        *_, (name, other) = randomised_cascade(net, seed)
        assert name == "0"
        return other[0].weight.detach().clone()

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert torch.equal(last(1), last(1))
    assert not torch.equal(last(1), last(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(InputError, match="no layer whose weights can be re-initialised"):
        list(randomised_cascade(nn.Sequential(nn.ReLU())))


def test_each_registered_metric_is_its_function_with_the_run_s_settings() -> None:
    generator = torch.Generator().manual_seed(0)
    images, heat = torch.rand(2, 3, 20, 24, generator=generator), torch.rand(2, 20, 24, generator=generator)
    heat[0, 0, 0] = heat[1, 0, 0] = 2
    masks = torch.zeros(2, 20, 24, dtype=torch.bool)
    masks[0, 15, 0] = masks[1, 16, 0] = True  # 15 and 16 pixels below the maximum
    context = MetricContext(mean, lambda x: x.mean(1), masks, steps=7, seed=5)
    found = {name: get_metric(name).measure(context, images, heat) for name in list_metrics()}
    assert found["pointing15"]["pointing15"].tolist() == [1, 0]
    assert found["pointing"]["pointing"].tolist() == [0, 0]
    torch.testing.assert_close(found["pointing"]["energy"], energy_in_mask(heat, masks))
    torch.testing.assert_close(found["pointing"]["rank_accuracy"], relevance_rank_accuracy(heat, masks))
    torch.testing.assert_close(found["insertion"]["insertion"], insertion(mean, images, heat, 7).auc)
    torch.testing.assert_close(found["deletion"]["deletion"], deletion(mean, images, heat, 7).auc)
    imputed = road(mean, images, heat, seed=5)
    torch.testing.assert_close(found["road"]["road_morf"], imputed.morf.mean(1))
    torch.testing.assert_close(found["road"]["road_lerf"], imputed.lerf.mean(1))
    torch.testing.assert_close(found["road"]["road_combined"], imputed.combined)
    changed = max_sensitivity(context.explain, images, seed=5)
    torch.testing.assert_close(found["sensitivity"]["sensitivity"], changed)
    dropped = drop_and_increase(mean, images, heat)
    torch.testing.assert_close(found["drop"]["average_drop"], dropped.drop)
    torch.testing.assert_close(found["drop"]["increase"], dropped.increase)


def test_the_settings_of_metrics_if_none_are_given() -> None:
    assert (MetricContext(mean, mean).steps, MetricContext(mean, mean).seed) == (56, 0)
    assert [name for name in list_metrics() if not get_metric(name).default] == ["pointing15", "sensitivity"]
    assert [name for name in list_metrics() if "boxes" in get_metric(name).needs] == [
        "pointing",
        "pointing15",
    ]
    shown = {name: column for m in list_metrics() for name, column in get_metric(m).columns.items()}
    assert [name for name, column in shown.items() if not column.share] == ["sensitivity"]
    assert Column("a", "↑", "b").share
    nothing = get_metric("drop").measure(
        MetricContext(mean, mean), torch.zeros(0, 3, 2, 2), torch.zeros(0, 2, 2)
    )
    assert {name: tuple(scores.shape) for name, scores in nothing.items()} == {
        "average_drop": (0,),
        "increase": (0,),
    }
