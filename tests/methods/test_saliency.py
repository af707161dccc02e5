"""Saliency (Simonyan et al. 2014) against the gradient of the plain steps, by hand, and smoothed."""

from __future__ import annotations

import pytest
import torch

import sightline
from references.gradients import input_gradient, saliency
from references.plain import each
from toynets import ALL_TOYS, HandFlat, build, flat_weight, image, make_images

PICKED = torch.tensor([[2, 0], [1, 3]])


@pytest.mark.parametrize("name", ALL_TOYS)
def test_equals_the_reference(name: str) -> None:
    net, x = build(name), make_images()
    explanation = sightline.explain(net, x, method="saliency", classes=PICKED, smooth=0.0)
    expected = each(saliency, net, x, PICKED)
    assert expected.max() > 1e-3
    torch.testing.assert_close(explanation.maps, expected, rtol=0, atol=1e-10)
    signed = each(input_gradient, net, x, PICKED)
    torch.testing.assert_close(explanation.signed, signed, rtol=0, atol=1e-10)


def test_by_hand() -> None:
    # y = w · x with the weights below: the largest magnitude of the three channels at each pixel.
    weight = [[[1, -5], [0, 0]], [[-2, 4], [0, -1]], [[0, 3], [0, 0.5]]]
    net = HandFlat(flat_weight([weight]), [0.0])
    x = image([[[1, 2], [3, 4]], [[1, 1], [1, 1]], [[2, 2], [2, 2]]])
    explanation = sightline.explain(net, x, method="saliency", classes=0, smooth=0.0)
    assert explanation.maps[0, 0].tolist() == [[2, 5], [0, 1]]
    assert explanation.signed[0, 0].tolist() == weight


def test_is_blind_where_a_relu_is_closed() -> None:
    net = HandFlat(flat_weight([[[[1.0, 1.0]], [[1.0, 1.0]], [[1.0, 1.0]]]]), [0.0])
    x = image([[[-1, 2]], [[-1, -1]], [[-3, -2]]])
    assert sightline.explain(net, x, method="saliency", classes=0, smooth=0.0).maps.tolist() == [[[[0, 1]]]]


def test_smoothing_is_a_gaussian_of_a_share_of_the_side() -> None:
    # One bright pixel far from the border becomes a Gaussian bump: its mass stays, and its variance is σ².
    size, sigma = 101, 0.02 * 101
    weight = torch.zeros(1, 3, size, size, dtype=torch.float64)
    weight[0, 1, 50, 40] = -1
    net = HandFlat(weight.flatten(1).tolist(), [0.0])
    x = torch.ones(1, 3, size, size, dtype=torch.float64)
    bump = sightline.explain(net, x, method="saliency", classes=0, smooth=0.02).maps[0, 0]
    rows, columns = torch.arange(size).double(), torch.arange(size).double()
    assert bump.sum().item() == pytest.approx(1, abs=1e-6)
    assert (bump.sum(1) @ rows).item() == pytest.approx(50, abs=1e-6)
    assert (bump.sum(0) @ columns).item() == pytest.approx(40, abs=1e-6)
    assert (bump.sum(1) @ (rows - 50).square()).item() == pytest.approx(sigma**2, rel=0.02)
    assert (bump.sum(0) @ (columns - 40).square()).item() == pytest.approx(sigma**2, rel=0.02)
    assert bump[50, 41].item() / bump[50, 40].item() == pytest.approx(
        torch.tensor(-0.5 / sigma**2).exp().item()
    )


def test_a_callable_target_equals_its_class() -> None:
    net, x = build("vgg end"), make_images(3)
    by_class = sightline.explain(net, x, method="saliency", classes=3)
    by_target = sightline.explain(net, x, method="saliency", target=lambda out: out[:, 3])
    torch.testing.assert_close(by_target.signed, by_class.signed, rtol=0, atol=1e-12)
