"""Input × gradient and FullGrad against one bias at a time, by hand, and by completeness."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sightline
from references.gradients import largest_magnitude
from references.more_methods import bias_terms, fullgrad, input_x_gradient
from references.plain import each, score
from sightline.engine import observe
from sightline.methods.fullgrad import bias_layers, full_gradients
from sightline.targets import ClassTarget
from toynets import ALL_TOYS, HandFlat, build, flat_weight, image, make_images

PICKED = torch.tensor([[2, 0], [1, 3]])
# Their residual block and branches are one step of `program()`: the biases inside are not steps of their own.
WITH_STEPS = [name for name in ALL_TOYS if name not in ("residual", "branches")]


@pytest.mark.parametrize("name", ALL_TOYS)
def test_input_x_gradient_equals_the_reference(name: str) -> None:
    net, x = build(name), make_images()
    explanation = sightline.explain(net, x, method="input_x_gradient", classes=PICKED)
    expected = each(input_x_gradient, net, x, PICKED)
    assert explanation.signed is not None
    torch.testing.assert_close(explanation.signed, expected, rtol=0, atol=1e-10)
    largest = torch.stack([largest_magnitude(one) for one in expected.flatten(0, 1)]).view_as(
        explanation.maps
    )
    torch.testing.assert_close(explanation.maps, largest, rtol=0, atol=1e-10)


def test_input_x_gradient_sums_to_the_score_without_biases() -> None:
    net, x = build("vgg end"), make_images()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    explanation = sightline.explain(net, x, method="input_x_gradient", classes=PICKED)
    assert explanation.signed is not None
    torch.testing.assert_close(explanation.signed.sum((2, 3, 4)), net(x).gather(1, PICKED))


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("name", WITH_STEPS)
def test_fullgrad_equals_the_reference(name: str, rescale: bool) -> None:
    net, x = build(name), make_images()
    maps = sightline.explain(net, x, method="fullgrad", classes=PICKED, rescale=rescale).maps
    torch.testing.assert_close(maps, each(fullgrad, net, x, PICKED, rescale=rescale), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", WITH_STEPS)
def test_the_reference_is_complete(name: str) -> None:
    net, x = build(name), make_images(1)
    total = input_x_gradient(net, x, 2).sum() + sum(term.sum() for term in bias_terms(net, x, 2))
    assert total.item() == pytest.approx(score(net, x, 2), abs=1e-10)


def parts_sum(net: nn.Module, x: Tensor, c: int) -> Tensor:
    """Image term and spatial bias terms (N,), and, by its parameters, what the linear layers behind add."""
    target = ClassTarget(torch.full((len(x),), c))
    (parts,) = full_gradients(observe(net, x, gradient=False), [target])
    total = parts.image.sum((1, 2, 3)) + sum(part.sum((1, 2, 3)) for part in parts.biases)
    for module in net.modules():
        if isinstance(module, nn.Linear):
            for i in range(len(x)):
                (slope,) = torch.autograd.grad(net(x[i : i + 1])[0, c], module.bias)
                total[i] += (slope * module.bias).sum().detach()
    return total


@pytest.mark.parametrize("name", ALL_TOYS)
def test_completeness(name: str) -> None:
    """All terms sum to y^c, batch norms, a ReLU module called twice, residual sums and max-pools included."""
    net, x = build(name), make_images(3)
    torch.testing.assert_close(parts_sum(net, x, 1), net(x)[:, 1].detach(), rtol=0, atol=1e-10)


def test_a_norm_with_its_activation_inside_is_seen_before_it() -> None:
    from timm.layers import BatchNormAct2d

    norm = BatchNormAct2d(5, act_layer=nn.ReLU)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -0.5, 2, 0.3, 1]))
        norm.bias.copy_(torch.tensor([0.3, -0.2, 0.5, 0.1, 0]))
        norm.running_mean.copy_(torch.tensor([0.1, 0.4, -0.3, 0.2, 0]))
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
    ).double().eval()  # fmt: skip
    x = make_images(2)
    assert [str(site) for site, _ in bias_layers(net, x)] == ["1.drop"]
    torch.testing.assert_close(parts_sum(net, x, 2), net(x)[:, 2].detach(), rtol=0, atol=1e-10)


def test_by_hand() -> None:
    # y = Σ g ⊙ ReLU(x + b), b = (1, -3, 0) by a 1×1 convolution: g1 = [[1, -1], [2, 0]], the others 1.
    # x1 = [[1, -2], [3, 4]]: x + 1 = [[2, -1], [4, 5]], so the second place is off. x2 = 5, so on; x3 = -1: off.
    # |x ⊙ g|: [[1, 0], [6, 0]] + 5; |b ⊙ g|: [[1, 0], [2, 0]] + 3; together [[10, 8], [16, 8]].
    ones = [[1, 1], [1, 1]]
    body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    with torch.no_grad():
        body[0].weight.copy_(torch.eye(3)[..., None, None])
        body[0].bias.copy_(torch.tensor([1.0, -3, 0]))
    net = HandFlat(flat_weight([[[[1, -1], [2, 0]], ones, ones]]), [7], body=body)
    x = image([[[1, -2], [3, 4]], [[5, 5], [5, 5]], [[-1, -1], [-1, -1]]])
    maps = sightline.explain(net, x, method="fullgrad", classes=0).maps
    assert maps[0, 0].tolist() == [[10, 8], [16, 8]]


def test_a_network_without_biases_shows_the_image_term() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)).double()
    x = make_images()
    maps = sightline.explain(net, x, method="fullgrad", classes=1).maps
    torch.testing.assert_close(maps[:, 0], (x * net[1].weight[1].view(3, 16, 16)).abs().sum(1).detach())
