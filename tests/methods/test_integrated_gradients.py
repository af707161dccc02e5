"""Integrated gradients (Sundararajan et al. 2017): against the loop, by hand, and completeness."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sightline
from references.gradients import integrated_gradients
from references.plain import each
from toynets import ALL_TOYS, HandFlat, build, flat_weight, image, make_images

PICKED = torch.tensor([[2, 0], [1, 3]])


@pytest.mark.parametrize("name", ALL_TOYS)
@pytest.mark.parametrize("steps", [8, 5])
def test_equals_the_reference(name: str, steps: int) -> None:
    net, x = build(name), make_images()
    signed = sightline.explain(net, x, method="integrated_gradients", classes=PICKED, steps=steps).signed
    expected = each(integrated_gradients, net, x, PICKED, steps=steps)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(signed, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in ALL_TOYS if name != "tap"])
def test_completeness(name: str) -> None:
    # Σ signed = y(x) - y(0). Each ReLU that opens on the way from 0 to x is a kink, which 32 points pass over with
    # a small error. (TAP is left out: a value that crosses the threshold makes the score itself jump.)
    net, x = build(name), make_images(2)
    every = torch.arange(4).expand(2, -1)
    signed = sightline.explain(net, x, method="integrated_gradients", classes=every).signed
    difference = (net(x) - net(torch.zeros_like(x))).detach()
    largest = difference.abs().max()
    assert largest > 0.5
    assert (signed.sum((2, 3, 4)) - difference).abs().max() < 0.02 * largest


@pytest.mark.parametrize("name", ["gap", "vgg end", "residual", "squeezenet end", "gmp", "tap"])
def test_completeness_is_exact_without_biases(name: str) -> None:
    # Then y(t x) = t y(x): no ReLU changes its mind on the way from 0 to x.
    net, x = build(name), make_images(2)
    with torch.no_grad():
        for module in net.modules():
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
    signed = sightline.explain(net, x, method="integrated_gradients", classes=PICKED).signed
    torch.testing.assert_close(signed.sum((2, 3, 4)), net(x).gather(1, PICKED), rtol=0, atol=1e-10)


class Squared(nn.Module):
    """y = (w · x)², whose gradient 2 (w · x) w is not constant."""

    def __init__(self, inner: HandFlat) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) ** 2


def test_there_are_32_steps_by_default() -> None:
    net, x = build("gap"), make_images(1)
    signed = sightline.explain(net, x, method="integrated_gradients", classes=PICKED[:1]).signed
    torch.testing.assert_close(signed, each(integrated_gradients, net, x, PICKED[:1]), rtol=0, atol=1e-10)


def test_by_hand() -> None:
    # w · x = 1·1 + 2·3 - 1·2 = 5, y = 25. Along t x the gradient is 2 t (w · x) w, its integral (w · x) w = 5
    # w, times x: 5·(1, 6, -2) = (5, 30, -10), which sums to 25 = y(x) - y(0).
    weight = flat_weight([[[[1.0, 2.0]], [[0.0, 0.0]], [[0.0, -1.0]]]])
    net = Squared(HandFlat(weight, [0.0], body=nn.Identity()))
    x = image([[[1, 3]], [[7, 7]], [[8, 2]]])
    explanation = sightline.explain(net, x, method="integrated_gradients", classes=0)
    expected = torch.tensor([[[5.0, 30]], [[0, 0]], [[0, -10]]], dtype=torch.float64)
    torch.testing.assert_close(explanation.signed[0, 0], expected, rtol=0, atol=1e-12)


def test_signed_maps_are_linear_in_the_target() -> None:
    net, x = build("vgg end"), make_images(2)
    every = torch.arange(4).expand(2, -1)
    parts = sightline.explain(net, x, method="integrated_gradients", classes=every).signed
    whole = sightline.explain(net, x, method="integrated_gradients", target=lambda out: out.sum(1)).signed
    torch.testing.assert_close(parts.sum(1, keepdim=True), whole, rtol=0, atol=1e-10)
