"""GAP, GMP and TAP: values by hand, gradients by hand, and what they have in common."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sightline.errors import InputError, UnsupportedError
from sightline.models.pooling import POOLINGS, ThresholdedAveragePool, make_pooling

# Two channels of one image: maximum 10 with three values above 1 = 0.1·10, one exactly at the threshold.
FEATURES = [[[10.0, 4.0], [1.0, 3.0]], [[0.0, 0.0], [0.0, 0.0]]]


def pooled(name: str, theta: float = 0.1) -> tuple[list[float], list[list[float]]]:
    """Pooled values, and the gradient of their sum in the first channel."""
    features = torch.tensor([FEATURES], dtype=torch.float64, requires_grad=True)
    values = make_pooling(name, theta)(features)
    values.sum().backward()
    return values[0].tolist(), features.grad[0, 0].tolist()


@pytest.mark.parametrize(
    ("name", "theta", "values", "gradient"),
    [
        ("gap", 0.1, [4.5, 0.0], [[0.25, 0.25], [0.25, 0.25]]),
        ("gmp", 0.1, [10.0, 0.0], [[1.0, 0.0], [0.0, 0.0]]),
        ("tap", 0.1, [17 / 3, 0.0], [[1 / 3, 1 / 3], [0.0, 1 / 3]]),  # 1 is not > 0.1·10
        ("tap", 0.0999, [4.5, 0.0], [[0.25, 0.25], [0.25, 0.25]]),
        ("tap", 0.35, [7.0, 0.0], [[0.5, 0.5], [0.0, 0.0]]),
        ("tap", 0.9999, [10.0, 0.0], [[1.0, 0.0], [0.0, 0.0]]),
    ],
)
def test_values_and_gradients_by_hand(name, theta, values, gradient):
    found, grad = pooled(name, theta)
    assert found == pytest.approx(values, abs=1e-12)
    assert torch.tensor(grad).flatten().tolist() == pytest.approx(torch.tensor(gradient).flatten().tolist())


def test_tap_at_zero_is_the_average_of_the_positive_values():
    features = torch.tensor([[[[0.0, 2.0], [4.0, 0.0]]]], dtype=torch.float64)
    assert make_pooling("tap", 0.0)(features).item() == 3.0
    assert make_pooling("gap")(features + 1) == make_pooling("tap", 0.0)(features + 1)


def test_an_all_zero_channel_has_zero_gradient_under_tap():
    features = torch.zeros(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    ThresholdedAveragePool()(features).sum().backward()
    assert features.grad.abs().sum() == 0


def test_tap_keeps_more_than_gmp_and_less_than_gap():
    features = torch.rand(3, 5, 7, 6, dtype=torch.float64)
    gap, gmp = make_pooling("gap")(features), make_pooling("gmp")(features)
    nearly_max = make_pooling("tap", 1 - 1e-12)(features)
    assert torch.equal(nearly_max, gmp)
    previous = gap
    for theta in (0.1, 0.3, 0.6, 0.9):
        tap = make_pooling("tap", theta)(features)
        assert (tap >= previous).all()
        previous = tap
    assert (gmp >= previous).all()


def test_equal_maxima_share_the_gradient_in_gmp_and_tap():
    for name in ("gmp", "tap"):
        features = torch.tensor([[[[5.0, 5.0], [1.0, 0.0]]]], requires_grad=True)
        make_pooling(name, 0.9)(features).sum().backward()
        assert features.grad.flatten().tolist() == [0.5, 0.5, 0.0, 0.0]


@pytest.mark.parametrize("name", POOLINGS)
def test_gradcheck(name):
    # Distinct values well away from one another and from the threshold: the pooling is smooth there.
    values = torch.randperm(2 * 3 * 4 * 5, generator=torch.Generator().manual_seed(0)).double() + 1
    features = values.reshape(2, 3, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(make_pooling(name, 0.3003), features, eps=1e-6)


@pytest.mark.parametrize("name", POOLINGS)
def test_batch_equals_singles_and_dtype_is_kept(name):
    features = torch.rand(4, 3, 5, 5).half()
    pool = make_pooling(name)
    whole = pool(features)
    assert whole.dtype == torch.float16
    assert torch.equal(whole, torch.cat([pool(one[None]) for one in features]))


@pytest.mark.parametrize("name", POOLINGS)
def test_the_mean_of_a_class_map_is_its_score_for_gap_alone(name):
    """mean_xy M_c + b_c = y_c (Zhou et al. 2016) needs the average; TAP and GMP pool other places."""
    torch.manual_seed(0)
    features, linear = torch.rand(2, 6, 4, 4, dtype=torch.float64), nn.Linear(6, 3).double()
    scores = linear(make_pooling(name, 0.5)(features))
    maps = torch.einsum("kc,nchw->nkhw", linear.weight, features)
    agrees = torch.allclose(maps.mean((-2, -1)) + linear.bias, scores, atol=1e-12)
    assert agrees == (name == "gap")


def test_tap_refuses_negative_features():
    with pytest.raises(UnsupportedError, match="negative feature"):
        ThresholdedAveragePool()(torch.tensor([[[[-0.1, 1.0]]]]))


@pytest.mark.parametrize("theta", [-0.1, 1.0])
def test_a_threshold_that_cannot_be(theta):
    with pytest.raises(InputError, match="0 ≤ theta < 1"):
        ThresholdedAveragePool(theta)


def test_unknown_pooling():
    with pytest.raises(InputError, match="did you mean 'gap'"):
        make_pooling("gaps")
