"""Heatmaps against cases worked by hand, against NumPy and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from references.affinity import walk
from sightline.errors import InputError
from sightline.heatmap import NORMALISATIONS, fuse, make_heatmaps, normalise, propagate, quantile, upsample

# 25 values; sorted: -2 -1 0 ×13 1 1 2 2 3 4 5 6 7 8
MAP = torch.tensor(
    [
        [0.0, 0.0, 0.0, 0.0, -2.0],
        [0.0, 1.0, 2.0, 1.0, 0.0],
        [0.0, 2.0, 8.0, 3.0, 0.0],
        [0.0, 4.0, 5.0, 6.0, 0.0],
        [-1.0, 7.0, 0.0, 0.0, 0.0],
    ],
    dtype=torch.float64,
)


def test_minmax_by_hand():
    expected = (MAP + 2) / 10
    assert torch.equal(normalise(MAP), expected)
    assert expected[2, 2] == 1
    assert expected[0, 4] == 0
    assert expected[4, 0] == 0.1


def test_max_by_hand():
    heatmap = normalise(MAP, "max")
    assert heatmap[2].tolist() == [0, 0.25, 1, 0.375, 0]
    assert heatmap[4].tolist() == [0, 0.875, 0, 0, 0]


def test_percentile_by_hand():
    # 24 gaps: the 75th percentile is the value of rank 18 (from 0): 2 + 2 above the minimum.
    heatmap = normalise(MAP, "percentile", percentile=75)
    assert heatmap[1].tolist() == [0.5, 0.75, 1, 0.75, 0.5]
    assert heatmap[2].tolist() == [0.5, 1, 1, 1, 0.5]  # clipped
    assert heatmap[4, 0] == 0.25


def test_percentile_100_is_minmax():
    torch.testing.assert_close(normalise(MAP, "percentile", 100), normalise(MAP))


def test_ivr_by_hand():
    # rank 0.45 · 24 = 10.8 lies among the zeros: q = 0, so ivr is max here; shifted by 3, it still is.
    assert torch.equal(normalise(MAP, "ivr"), normalise(MAP, "max"))
    assert torch.equal(normalise(MAP + 3, "ivr"), normalise(MAP, "max"))


def test_ivr_on_a_ramp():
    ramp = torch.arange(25, dtype=torch.float64).view(5, 5)
    expected = ((ramp - 10.8) / (24 - 10.8)).clamp(min=0)
    torch.testing.assert_close(normalise(ramp, "ivr"), expected)
    assert int((normalise(ramp, "ivr") == 0).sum()) == 11


@pytest.mark.parametrize("how", NORMALISATIONS)
@pytest.mark.parametrize("value", [-3.0, 0.0, 5.0])
def test_a_constant_map_shows_nothing(how, value):
    assert torch.equal(normalise(torch.full((5, 5), value), how), torch.zeros(5, 5))


@pytest.mark.parametrize("how", NORMALISATIONS)
def test_a_map_without_a_positive_value_shows_nothing(how):
    assert torch.equal(normalise(-MAP.abs(), how), torch.zeros(5, 5, dtype=torch.float64))


def test_a_map_that_is_mostly_its_maximum():
    mostly_one = torch.ones(5, 5)
    mostly_one[0, 0] = 0
    assert torch.equal(normalise(mostly_one, "ivr"), torch.zeros(5, 5))  # the 0.45-quantile is the maximum
    assert torch.equal(normalise(mostly_one), mostly_one)


def test_percentile_zero_takes_the_limit():
    one_peak = torch.zeros(5, 5)
    one_peak[2, 3] = 7
    expected = (one_peak > 0).float()
    assert torch.equal(normalise(one_peak, "percentile", 90), expected)


def test_maps_of_a_batch_do_not_touch_each_other():
    batch = torch.stack([MAP, -MAP.abs(), MAP * 1e6 + 3]).expand(2, 3, 5, 5)
    for how in NORMALISATIONS:
        together = normalise(batch, how)
        assert together.dtype == torch.float64
        for i in range(2):
            for k in range(3):
                assert torch.equal(together[i, k], normalise(batch[i, k], how))
        assert together.min() >= 0
        assert together.max() <= 1


def test_nan_is_not_hidden():
    poisoned = MAP.clone()
    poisoned[1, 1] = float("nan")
    for how in NORMALISATIONS:
        assert normalise(poisoned, how).isnan().any()


def test_the_input_is_left_alone():
    before = MAP.clone()
    for how in NORMALISATIONS:
        normalise(MAP, how)
        make_heatmaps(MAP, (7, 7), how)
    assert torch.equal(MAP, before)


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (64, 65)])
@pytest.mark.parametrize("q", [0.0, 0.1, 0.45, 0.5, 0.9, 0.999, 1.0])
def test_quantile_is_numpys(size, q):
    maps = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = np.quantile(maps.numpy().reshape(2, 3, -1), q, axis=-1)
    np.testing.assert_allclose(quantile(maps, q).numpy(), expected, rtol=1e-12, atol=1e-12)


def test_quantile_of_more_values_than_torch_quantile_takes():
    large = torch.arange(4100 * 4100, dtype=torch.float64).view(4100, 4100)
    assert quantile(large, 0.5) == (4100 * 4100 - 1) / 2


def _bilinear(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Slow: each output pixel's centre looked up among the input's pixel centres, edges repeated."""
    out = np.zeros(size)
    (h, w), (height, width) = values.shape, size
    for y in range(height):
        for x in range(width):
            sy = min(max((y + 0.5) * h / height - 0.5, 0), h - 1)
            sx = min(max((x + 0.5) * w / width - 0.5, 0), w - 1)
            y0, x0 = int(sy), int(sx)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            fy, fx = sy - y0, sx - x0
            top = values[y0, x0] * (1 - fx) + values[y0, x1] * fx
            out[y, x] = top * (1 - fy) + (values[y1, x0] * (1 - fx) + values[y1, x1] * fx) * fy
    return out


@pytest.mark.parametrize("size", [(5, 5), (10, 10), (13, 7), (3, 4), (1, 1)])
def test_bilinear_against_the_slow_reference(size):
    np.testing.assert_allclose(upsample(MAP, size).numpy(), _bilinear(MAP.numpy(), size), atol=1e-12)


def test_nearest_takes_the_nearest_pixel_centre():
    assert upsample(torch.tensor([[1.0, 2.0, 3.0]]), (1, 5), "nearest").tolist() == [[1, 1, 2, 3, 3]]


def test_bicubic_by_hand():
    # Keys' weights with a = -0.75 a quarter of a pixel before a step: w(0.25) + w(1.25)
    step = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1]).expand(8, 8)
    assert upsample(step, (8, 16), "bicubic")[4, 8] == 0.87890625 - 0.10546875


def test_upsample_keeps_leading_dimensions_and_dtype():
    assert upsample(torch.ones(2, 3, 4, 5, 6), (7, 8)).shape == (2, 3, 4, 7, 8)
    assert upsample(torch.ones(0, 3, 5, 6), (7, 8)).shape == (0, 3, 7, 8)
    assert upsample(torch.ones(5, 6, dtype=torch.float64), (7, 8)).dtype == torch.float64
    assert upsample(torch.ones(5, 6, dtype=torch.bfloat16), (7, 8)).dtype == torch.float32


def test_make_heatmaps_is_upsample_then_normalise():
    torch.testing.assert_close(make_heatmaps(MAP, (9, 8), "ivr"), normalise(upsample(MAP, (9, 8)), "ivr"))


def test_a_constant_map_stays_nothing_when_upsampled():
    # 0.1 is not exact in binary: its upsampled copies differ in the last bit.
    for value in (0.1, 0.7, 1e-3):
        flat = make_heatmaps(torch.full((2, 1, 7, 7), value), (224, 224))
        assert torch.equal(flat, torch.zeros(2, 1, 224, 224))


def test_empty_batches_pass_through():
    assert make_heatmaps(torch.zeros(0, 2, 7, 7), (14, 14), "ivr").shape == (0, 2, 14, 14)


def test_fuse_by_hand():
    fine = torch.tensor([[[4.0, 0.0], [0.0, 2.0]]])
    coarse = torch.tensor([[[10.0]]])
    # fine/4 + coarse/10 = [[2, 1], [1, 1.5]]
    assert torch.equal(fuse([fine, coarse], (2, 2)), torch.tensor([[[1.0, 0.5], [0.5, 0.75]]]))
    assert torch.equal(fuse([fine, coarse], (2, 2), "mean"), torch.tensor([[[1.0, 0.5], [0.5, 0.75]]]))
    assert torch.equal(fuse([fine, coarse], (2, 2), "max"), torch.ones(1, 2, 2))
    plain = fuse([fine, coarse], (2, 2), per_layer_norm=False)  # [[14, 10], [10, 12]] / 14
    torch.testing.assert_close(plain, torch.tensor([[[14.0, 10.0], [10.0, 12.0]]]) / 14)


def test_fuse_counts_a_dead_layer_as_zero():
    alive = torch.tensor([[[4.0, 1.0]]])
    assert torch.equal(fuse([alive, torch.zeros(1, 1, 1)], (1, 2)), alive / 4)
    assert torch.equal(fuse([torch.zeros(1, 1, 2)], (1, 2)), torch.zeros(1, 1, 2))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: normalise(MAP, "min-max"), "did you mean 'minmax'"),
        (lambda: normalise(MAP, "percentile", 101), "from 0 to 100"),
        (lambda: upsample(MAP, (2, 2), "bilinaer"), "did you mean 'bilinear'"),
        (lambda: upsample(MAP, (0, 2)), "at least 1"),
        (lambda: upsample(torch.ones(3), (2, 2)), "(3,)"),
        (lambda: quantile(MAP, 1.5), "from 0 to 1"),
        (lambda: fuse([], (2, 2)), "one or more"),
        (lambda: fuse([MAP[None], torch.ones(2, 3, 3)], (2, 2)), "(2, 3, 3)"),
        (lambda: fuse([MAP[None]], (2, 2), reduce="median"), "unknown reduction"),
    ],
)
def test_errors_say_what_was_expected(call, says):
    with pytest.raises(InputError) as caught:
        call()
    assert says in str(caught.value)


# The affinity walk


def test_propagate_by_hand():
    # Three places with f = (1, 0), (3, 4)/5, (0, 1): cosines 1, 0.6, 0; 0.6, 1, 0.8; 0, 0.8, 1.
    # Power 2 and rows over their sums: [1, .36, 0]/1.36, [.36, 1, .64]/2, [0, .64, 1]/1.64. One step of m = (8, 0, 4).
    features = torch.tensor([[[[2.0, 3, 0]], [[0, 4, 7]]]], dtype=torch.float64)
    maps = torch.tensor([[[[8.0, 0, 4]]]], dtype=torch.float64)
    one = propagate(maps, features, power=2, steps=1)
    expected = torch.tensor([8 / 1.36, (8 * 0.36 + 4 * 0.64) / 2, 4 / 1.64], dtype=torch.float64)
    torch.testing.assert_close(one[0, 0, 0], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(propagate(maps, features, 2, 2), propagate(one, features, 2, 1))
    assert torch.equal(propagate(maps, features, 2, 0), maps)


def test_opposite_features_do_not_count():
    features = torch.tensor([[[[1.0, -1.0]]]])
    maps = torch.tensor([[[[5.0, 1.0]]]])
    assert torch.equal(propagate(maps, features, power=1), maps)


@pytest.mark.parametrize("limit", [1, 40, 300, 2**24])
@pytest.mark.parametrize(("power", "steps"), [(4, 2), (1, 3), (0.5, 1)])
def test_propagate_equals_the_slow_walk_whatever_is_alive_at_once(limit, power, steps):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 2, 2, 3, generator=generator, dtype=torch.float64)
    features = torch.randn(3, 5, 4, 3, generator=generator, dtype=torch.float64)
    features[1, :, 2, 1] = 0  # a place without features
    found = propagate(maps, features, power, steps, limit)
    expected = walk(upsample(maps, (4, 3)), features, power, steps)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_propagate_keeps_a_constant_map_and_the_range():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 6, 5, 5, generator=generator, dtype=torch.float64)
    constant = torch.full((2, 1, 5, 5), 3.0, dtype=torch.float64)
    torch.testing.assert_close(propagate(constant, features), constant)
    maps = torch.rand(2, 1, 5, 5, generator=generator, dtype=torch.float64)
    walked = propagate(maps, features)
    assert (walked.amax((2, 3)) <= maps.amax((2, 3))).all()  # a mean of means
    assert (walked.amin((2, 3)) >= maps.amin((2, 3))).all()


def test_propagate_on_a_coarser_grid_averages_the_features():
    torch.manual_seed(0)
    maps, features = torch.rand(2, 3, 2, 3), torch.randn(2, 5, 8, 12)
    found = propagate(maps, features, grid=5)
    assert found.shape == (2, 3, 4, 6)
    torch.testing.assert_close(found, propagate(maps, torch.nn.functional.avg_pool2d(features, 2)))
    assert torch.equal(propagate(maps, features, grid=10), propagate(maps, features))


def test_propagate_of_a_batch_at_448_stays_within_its_limit():
    """The features of 32 photos at 448: 56×56 positions make a matrix of 1.2 GB for all, and are averaged to 28×28."""
    torch.manual_seed(0)
    maps, features = torch.rand(4, 1, 14, 14), torch.randn(4, 8, 56, 56)
    largest = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest.append(out.numel())
            return out

    with Sizes():
        found = propagate(maps, features, grid=28, limit=2**20)
    assert max(largest) <= 2**20
    by_hand = [propagate(m[None], f[None], grid=28) for m, f in zip(maps, features, strict=True)]
    torch.testing.assert_close(found, torch.cat(by_hand))


def test_propagate_says_what_does_not_fit():
    maps, features = torch.zeros(2, 1, 4, 4), torch.zeros(3, 5, 4, 4)
    with pytest.raises(InputError, match=r"maps \(2, 1, 4, 4\) and features \(3, 5, 4, 4\)"):
        propagate(maps, features)
    with pytest.raises(InputError, match="power=-1, steps=2"):
        propagate(maps, features[:2], power=-1)
