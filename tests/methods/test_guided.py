"""Guided backpropagation against the pass walked by hand, for every spelling of ReLU; guided Grad-CAM on top."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sightline
from references.gradcam import gradcam
from references.gradients import largest_magnitude
from references.guided import guided_backprop, guided_gradcam
from references.plain import each, upsample
from sightline.errors import UnsupportedError
from toynets import (
    CLASS_CONVS,
    ActivationToy,
    BatchNormToy,
    GapToy,
    GlobalMax,
    PooledToy,
    Thresholded,
    Toy,
    build,
    image,
    make_images,
    prepare,
)

PICKED = torch.tensor([[2, 0], [1, 3]])
SPELLINGS = ["functional", "functional_", "torch", "torch_", "method", "method_", "inplace"]
STRAIGHT: dict[str, Callable[[], Toy]] = {
    **{name: (lambda name=name: build(name)) for name in ("gap", "in-place, functional mean")},
    **{name: (lambda name=name: build(name)) for name in ("densenet end", "vgg end")},
    **{name: (lambda name=name: build(name)) for name in CLASS_CONVS},
    **{f"relu spelled {how}": (lambda how=how: prepare(BatchNormToy(how))) for how in SPELLINGS},
    "relu6": lambda: prepare(ActivationToy(nn.ReLU6)),
    "relu6 in place": lambda: prepare(ActivationToy(lambda: nn.ReLU6(inplace=True))),
    "gmp": lambda: prepare(PooledToy(GlobalMax())),
    "tap": lambda: prepare(PooledToy(Thresholded())),
}  # fmt: skip


@pytest.mark.parametrize("name", STRAIGHT)
def test_equals_the_pass_walked_by_hand(name: str) -> None:
    net, x = STRAIGHT[name](), make_images()
    explanation = sightline.explain(net, x, method="guided_backprop", classes=PICKED)
    expected = each(guided_backprop, net, x, PICKED)
    assert expected.abs().max() > 1e-3
    assert explanation.signed.shape == (2, 2, 3, 16, 16)
    torch.testing.assert_close(explanation.signed, expected, rtol=0, atol=1e-10)
    largest = torch.stack([torch.stack([largest_magnitude(s) for s in row]) for row in expected])
    torch.testing.assert_close(explanation.maps, largest, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["gap", *(f"relu spelled {how}" for how in SPELLINGS)])
def test_is_not_the_plain_gradient(name: str) -> None:
    net, x = STRAIGHT[name](), make_images()
    guided = sightline.explain(net, x, method="guided_backprop", classes=PICKED).signed
    plain = sightline.explain(net, x, method="saliency", classes=PICKED, smooth=0.0).signed
    assert (guided - plain).abs().max() > 1e-2


class PixelNet(nn.Module):
    """Two units a pixel, z = (x1 - x2, x2 + x3), ReLU, mean over two pixels, y0 = 2 F1 - 4 F2, y1 = -y0."""

    def __init__(self, how: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.fc, self.how = nn.Conv2d(3, 2, 1, bias=False), nn.Linear(2, 2, bias=False), how
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[1.0, -1, 0], [0, 1, 1]]).view(2, 3, 1, 1))
            self.fc.weight.copy_(torch.tensor([[2.0, -4], [-2, 4]]))
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.how(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("how", [F.relu, F.relu_, torch.relu, Tensor.relu, nn.ReLU(), nn.ReLU(inplace=True)])
def test_by_hand(how: Callable[[Tensor], Tensor]) -> None:
    # Pixels (3, 1, 0) and (1, 2, 1): z = (2, 1) and (-1, 3).
    # y0: R = (2, -4)/2 = (1, -2) behind the ReLU; the second unit has R < 0. First pixel: R = (1, 0), back
    # through the convolution (1, -1, 0). Second pixel: the first unit is closed: nothing.
    # y1: R = (-1, 2): only the second unit, open in both pixels: (0, 2, 2) twice.
    # (The plain gradient of y0 would be (1, -3, -2) and (0, -2, -2).)
    x = image([[[3, 1]], [[1, 2]], [[0, 1]]])
    both = torch.tensor([[0, 1]])
    explanation = sightline.explain(PixelNet(how), x, method="guided_backprop", classes=both)
    assert explanation.signed[0].tolist() == [[[[1, 0]], [[-1, 0]], [[0, 0]]], [[[0, 0]], [[2, 2]], [[2, 2]]]]
    assert explanation.maps[0].tolist() == [[[1, 0]], [[2, 2]]]
    plain = sightline.explain(PixelNet(how), x, method="saliency", classes=0, smooth=0.0).signed
    assert plain[0, 0].tolist() == [[[1, 0]], [[-3, -2]], [[-2, -2]]]


def test_relu_called_twice_in_a_residual_block() -> None:
    # Walked by hand: R splits at the addition, and each of the three ReLUs gates it.
    net, x = build("residual"), make_images(1)
    c = 2
    stem = net.stem(x)
    pooled_from = F.relu(stem)
    pooled, where = F.max_pool2d(pooled_from, 2, return_indices=True)
    inner = net.block.conv1(pooled)
    outer = net.block.conv2(F.relu(inner)) + pooled
    r = (net.fc.weight[c] / outer[0, 0].numel()).view(1, -1, 1, 1) * (outer > 0)
    r = r * (r > 0)
    through = F.conv_transpose2d(r, net.block.conv2.weight, padding=1)
    through = through * (inner > 0) * (through > 0)
    r = r + F.conv_transpose2d(through, net.block.conv1.weight, padding=1)
    r = F.max_unpool2d(r, where, 2)
    r = r * (stem > 0) * (r > 0)
    expected = F.conv_transpose2d(r, net.stem.weight, padding=1)
    signed = sightline.explain(net, x, method="guided_backprop", classes=c).signed
    torch.testing.assert_close(signed[:, 0], expected.detach(), rtol=0, atol=1e-10)


class FunctionalToy(GapToy):
    """`GapToy` whose second activation is a function, not a module."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        f = self.features
        return self.fc(self.activation(f[3](f[2](f[1](f[0](x))))).mean((2, 3)))


@pytest.mark.parametrize("method", ["guided_backprop", "guided_gradcam"])
@pytest.mark.parametrize(
    ("activation", "named"),
    [
        (nn.LeakyReLU, r"(?i)leaky"),
        (lambda: nn.LeakyReLU(inplace=True), r"(?i)leaky"),
        (nn.GELU, r"(?i)gelu"),
        (nn.SiLU, r"(?i)silu"),
        (lambda: nn.SiLU(inplace=True), r"(?i)silu"),
        (nn.ELU, r"(?i)elu"),
        (nn.Hardswish, r"(?i)hard.?swish"),
        (nn.PReLU, r"(?i)prelu"),
        (nn.Tanh, r"tanh|needs ReLU"),
        (nn.Mish, r"(?i)mish"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refuses_other_activations_by_name(
    activation: Callable[[], nn.Module], named: str, method: str
) -> None:
    with pytest.raises(UnsupportedError, match=named):
        sightline.explain(prepare(ActivationToy(activation)), make_images(), method=method)


@pytest.mark.parametrize(
    ("activation", "named"),
    [(F.gelu, "gelu"), (F.silu, "silu"), (F.leaky_relu, "leaky"), (F.elu, "elu"),
     (lambda t: F.leaky_relu(t, inplace=True), "leaky"), (F.hardswish, "hard.?swish")],
)  # fmt: skip
def test_refuses_other_functional_activations_by_name(
    activation: Callable[[Tensor], Tensor], named: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"(?i){named}"):
        sightline.explain(prepare(FunctionalToy(activation)), make_images(), method="guided_backprop")


DISGUISED: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp(min=0)": lambda t: t.clamp(min=0),
    "clamp_(min=0)": lambda t: t.clamp_(min=0),
    "clamp_min": lambda t: t.clamp_min(0),
    "clamp(0, 6)": lambda t: t.clamp(0, 6),
    "hardtanh(0, 6)": lambda t: F.hardtanh(t, 0.0, 6.0),
    "threshold": lambda t: F.threshold(t, 0.0, 0.0),
}


@pytest.mark.parametrize("how", DISGUISED)
def test_a_relu_in_disguise_is_guided_or_refused_but_never_passed_over(how: str) -> None:
    # Beside an honest ReLU: a version that looked for `relu` only would give the plain gradient at the other.
    net, x = prepare(FunctionalToy(DISGUISED[how])), make_images()
    expected = each(guided_backprop, build("gap"), x, PICKED)  # no activation of it reaches 6
    try:
        signed = sightline.explain(net, x, method="guided_backprop", classes=PICKED).signed
    except UnsupportedError:
        return
    torch.testing.assert_close(signed, expected, rtol=0, atol=1e-10)


class Swish(torch.autograd.Function):
    """SiLU with a backward of its own, as memory-saving EfficientNets have it."""

    @staticmethod
    def forward(ctx, t: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        ctx.save_for_backward(t)
        return t * torch.sigmoid(t)

    @staticmethod
    def backward(ctx, r: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        (t,) = ctx.saved_tensors
        gate = torch.sigmoid(t)
        return r * gate * (1 + t * (1 - gate))


@pytest.mark.parametrize("activation", [F.celu, torch.tanh, Swish.apply], ids=["celu", "tanh", "swish"])
def test_other_activations_beside_a_relu_are_refused(activation: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedError):
        sightline.explain(prepare(FunctionalToy(activation)), make_images(), method="guided_backprop")


@pytest.mark.parametrize("name", STRAIGHT)
def test_guided_gradcam_equals_the_reference(name: str) -> None:
    net, x = STRAIGHT[name](), make_images()
    explanation = sightline.explain(net, x, method="guided_gradcam", classes=PICKED)
    expected = each(guided_gradcam, net, x, PICKED)
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(explanation.signed, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(explanation.maps, expected.abs().amax(2), rtol=0, atol=1e-10)


def test_guided_gradcam_takes_the_unmodified_gradient_for_its_first_factor() -> None:
    # The head has a ReLU, so the guided signal at the layer is not the gradient there; the factor is
    # Grad-CAM's own.
    net, x = build("vgg end"), make_images(1)
    c = 2
    signed = sightline.explain(net, x, method="guided_gradcam", classes=c).signed[0, 0]
    guided = sightline.explain(net, x, method="guided_backprop", classes=c).signed[0, 0]
    factor = upsample(gradcam(net, x, c), 16, 16)
    torch.testing.assert_close(signed, factor * guided, rtol=0, atol=1e-10)
    head = net.program()[5:]
    a = net.features[:5](x).detach().requires_grad_(True)
    hidden = a
    for (
        step
    ) in head:  # the guided gradient at the layer: what a careless version would weight the channels with
        hidden = GuidedReLU.apply(hidden) if step.kind == "relu" else step.run(hidden)
    (wrong,) = torch.autograd.grad(hidden[0, c], a)
    careless = (wrong.mean((2, 3), keepdim=True) * a).sum(1).relu()[0].detach()
    assert (upsample(careless, 16, 16) * guided - signed).abs().max() > 1e-4


class GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, f: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        ctx.save_for_backward(f)
        return f.clamp(min=0)

    @staticmethod
    def backward(ctx, r: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        (f,) = ctx.saved_tensors
        return r * (f > 0) * (r > 0)
