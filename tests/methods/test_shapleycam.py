"""Shapley-CAM against the full Hessian, by hand on a quadratic score, and where it must be Grad-CAM."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sightline
from references.more_methods import shapleycam
from references.plain import each
from sightline.engine import observe
from sightline.errors import UnsupportedError
from sightline.inspection.layers import LayerRef
from sightline.targets import ClassTarget
from toynets import ALL_TOYS, HandGap, TokenToy, build, image, make_images, prepare

PICKED = torch.tensor([[2, 0], [1, 3]])


class HandSquare(HandGap):
    """y = weight · the means of A², A = x: the gradient is 2 w A / Z and the Hessian 2 w / Z."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((self.body(x) ** 2).mean((2, 3)))


@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("name", ALL_TOYS)
def test_equals_the_reference(name: str, rest: bool) -> None:
    net, x = build(name), make_images(1)
    maps = sightline.explain(net, x, "shapleycam", PICKED[:1], rest=rest).maps
    expected = each(shapleycam, net, x, PICKED[:1], rest=rest)
    assert expected.max() > 1e-4
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ALL_TOYS)
def test_behind_relus_it_is_gradcam(name: str) -> None:
    net, x = build(name), make_images()
    expected = sightline.explain(net, x, "gradcam", PICKED).maps
    torch.testing.assert_close(sightline.explain(net, x, "shapleycam", PICKED).maps, expected)
    with_softmax = sightline.explain(net, x, "shapleycam:rest=true", PICKED).maps
    assert not torch.allclose(with_softmax, 2 * expected, rtol=1e-3)


def test_by_hand() -> None:
    # y = (4 ΣA1² - 8 ΣA2²) / 4. g - HA/2 = (2 A1 - A1, -4 A2 + 2 A2): of A1 = [[1, 2], [3, 2]] the mean is 2, of
    # A2 = [[1, 0], [0, 1]] it is -2 · 1/2 = -1. 2 A1 - A2 = [[1, 4], [6, 3]].
    x = image([[[1, 2], [3, 2]], [[1, 0], [0, 1]], [[0, 0], [0, 0]]])
    maps = sightline.explain(HandSquare([[4, -8, 1]], [0.5]), x, "shapleycam", 0, layer="body").maps
    assert maps[0, 0].tolist() == [[1, 4], [6, 3]]


def test_of_a_quadratic_score_the_values_add_up_to_it() -> None:
    # Shapley's efficiency: Σ A ⊙ (g - HA/2) = y(A) - y(0)
    net, x = HandSquare([[4, -8, 3], [1, 2, -1]], [0.5, 0]), make_images(2)
    seen, target = observe(net, x, [LayerRef("body")]), ClassTarget(torch.tensor([0, 1]))
    values = (seen.gradient(target) - 0.5 * seen.hessian_product(target)) * seen.activations
    torch.testing.assert_close(
        values.sum((1, 2, 3)), net(x)[[0, 1], [0, 1]] - torch.tensor([0.5, 0]).double()
    )


def test_tokens_behind_fused_attention() -> None:
    """PyTorch has no second derivative of fused attention; the whole tensor counts in H A, the class token too."""
    net, x = prepare(TokenToy(class_token=True)), make_images(1)
    kept: dict[str, Any] = {}
    handles = [
        net.block.register_forward_pre_hook(lambda m, args: kept.update(stream=args[0].detach())),
        net.block.norm1.register_forward_hook(lambda m, args, out: kept.update(normed=out.detach())),
    ]
    net(x)
    for handle in handles:
        handle.remove()

    def score(flat: Tensor) -> Tensor:
        q, k, v = net.block.qkv(flat.view_as(kept["normed"])).chunk(3, -1)
        mixed = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        tokens = kept["stream"] + net.block.out(mixed)
        tokens = net.norm(tokens + net.block.mlp(net.block.norm2(tokens)))
        return net.fc(tokens[:, 0])[0, 1]

    flat = kept["normed"].flatten()
    change = torch.autograd.functional.jacobian(score, flat)
    curved = torch.autograd.functional.hessian(score, flat) @ flat
    weight = (change - curved / 2).view_as(kept["normed"])[0, 1:].mean(0)
    expected = (kept["normed"][0, 1:] @ weight).clamp(min=0).view(4, 4)
    assert curved.abs().max() > 1e-2
    found = sightline.explain(net, x, "shapleycam", 1).maps[0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_rest_needs_a_class() -> None:
    with pytest.raises(UnsupportedError, match="rest=true needs a class"):
        sightline.explain(build("gap"), make_images(1), "shapleycam:rest=true", target=lambda out: out[:, 0])


def test_no_gradient_is_left_behind() -> None:
    net, x = build("gap"), make_images(1)
    sightline.explain(net, x, "shapleycam:rest=true", 0)
    assert all(parameter.grad is None for parameter in net.parameters())
