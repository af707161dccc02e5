"""SmoothGrad and RISE: the noise and the masks are caught on their way into the network, the rest is arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sightline
from references.gradcam import smoothgradcam_pp
from references.gradients import largest_magnitude, mean_gradient
from references.plain import each
from references.rise import rise
from sightline.errors import InputError
from toynets import GapToy, HandFlat, HandGap, build, flat_weight, image, make_images, prepare

PICKED = torch.tensor([[2, 0], [1, 3]])


class Listening(GapToy):
    """A `GapToy` that writes down every image it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.heard.append(x.detach().clone())
        return super().forward(x)

    def changed(self, x: Tensor) -> Tensor:
        """The images that were shown and were not ``x`` itself."""
        shown = torch.cat(self.heard)
        return shown[(shown != x).flatten(1).any(1)]


def listen(x: Tensor, method: str, **options: object) -> tuple[sightline.Explanation, Tensor, Listening]:
    net = prepare(Listening())
    sightline.explain(net, x)  # the first look at a network shows it images of its own
    net.heard.clear()
    explanation = sightline.explain(net, x, method=method, **options)
    return explanation, net.changed(x[:1]), net


# Smooth Grad-CAM++


@pytest.mark.filterwarnings("ignore:.*denominator")
@pytest.mark.parametrize("samples", [1, 7])
def test_smoothgradcam_pp_takes_the_moments_of_the_gradients_of_the_images_it_showed(samples: int) -> None:
    x = make_images(1)
    explanation, noisy, net = listen(x, "smoothgradcam_pp", classes=PICKED[:1], samples=samples, sigma=0.2)
    assert torch.equal(noisy[:samples], noisy[-samples:])
    expected = torch.stack([smoothgradcam_pp(net, x, noisy[:samples], int(c)) for c in PICKED[0]])
    assert expected.max() > 1e-3
    torch.testing.assert_close(explanation.maps[0], expected, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore:.*denominator")
@pytest.mark.parametrize("name", ["vgg end", "gap", "squeezenet end"])
def test_smoothgradcam_pp_without_noise_is_gradcam_pp(name: str) -> None:
    net, x = build(name), make_images()
    plain = sightline.explain(net, x, method="gradcam_pp", classes=PICKED).maps
    maps = sightline.explain(net, x, method="smoothgradcam_pp", classes=PICKED, sigma=0.0, samples=2).maps
    torch.testing.assert_close(maps, plain, rtol=0, atol=1e-10)


def test_smoothgradcam_pp_by_hand() -> None:
    # A flat linear head: every noisy image has the same g1 = [[1, 2], [0, -1]], whatever the noise. ΣA1 = 10:
    # a = 1/(2 + 10 g) at g = 1, 2: 1/12 and 1/22; w = 1/12 + 2/22 = 23/132.
    g, none = [[1, 2], [0, -1]], [[0, 0], [0, 0]]
    net = HandFlat(flat_weight([[g, none, none]]), [0.0])
    x = image([[[1, 2], [3, 4]], none, none])
    maps = sightline.explain(net, x, method="smoothgradcam_pp", classes=0, layer="body", samples=3).maps
    expected = 23 / 132 * x[0, 0]
    torch.testing.assert_close(maps[0, 0], expected, rtol=0, atol=1e-12)


# SmoothGrad


@pytest.mark.parametrize("samples", [1, 7])
def test_smoothgrad_is_the_mean_gradient_of_the_images_it_showed(samples: int) -> None:
    x = make_images(1)
    explanation, noisy, net = listen(x, "smoothgrad", classes=PICKED[:1], samples=samples, sigma=0.2)
    assert len(noisy) in (samples, 2 * samples)  # once for both classes, or once for each
    assert torch.equal(noisy[:samples], noisy[-samples:])
    expected = torch.stack([mean_gradient(net, noisy[:samples], int(c)) for c in PICKED[0]])
    torch.testing.assert_close(explanation.signed[0], expected, rtol=0, atol=1e-10)
    largest = torch.stack([largest_magnitude(s) for s in expected])
    torch.testing.assert_close(explanation.maps[0], largest, rtol=0, atol=1e-10)


def test_smoothgrad_noise_is_a_share_of_the_range_of_each_image() -> None:
    x = make_images(2, 32)
    x[1] *= 10
    for n in range(2):
        _, noisy, _ = listen(x[n : n + 1], "smoothgrad", classes=0)
        noise = noisy - x[n]
        assert len(noise) == 25
        sigma = 0.15 * float(x[n].max() - x[n].min())
        count = noise.numel()  # 25 · 3 · 32 · 32: five standard errors
        assert abs(noise.mean().item()) < 5 * sigma / count**0.5
        assert noise.std().item() == pytest.approx(sigma, rel=5 / (2 * count) ** 0.5)
        within = (noise.abs() < sigma).double().mean().item()
        assert within == pytest.approx(0.6827, abs=0.01)  # normal, not uniform


def test_smoothgrad_without_noise_is_saliency() -> None:
    net, x = build("vgg end"), make_images()
    smooth = sightline.explain(net, x, method="smoothgrad", classes=PICKED, sigma=0.0, samples=3)
    plain = sightline.explain(net, x, method="saliency", classes=PICKED, smooth=0.0)
    torch.testing.assert_close(smooth.signed, plain.signed, rtol=0, atol=1e-12)


def test_smoothgrad_of_a_linear_model_is_its_weights() -> None:
    net = HandFlat(torch.randn(2, 3 * 4 * 4).tolist(), [0.0, 0.0], body=torch.nn.Identity())
    both = torch.tensor([[0, 1]])
    signed = sightline.explain(net, make_images(1, 4), method="smoothgrad", classes=both).signed
    torch.testing.assert_close(signed[0].flatten(1), net.fc.weight.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("method", "options"), [("smoothgrad", {"samples": 4}), ("rise", {"masks": 16})])
def test_the_seed_decides_and_nothing_else(method: str, options: dict[str, int]) -> None:
    net, x = build("gap"), make_images()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sightline.explain(net, x, method=method, classes=PICKED, seed=5, **options).maps
    assert torch.equal(torch.get_rng_state(), before)  # the caller's random numbers are left alone
    torch.manual_seed(2)
    assert torch.equal(
        sightline.explain(net, x, method=method, classes=PICKED, seed=5, **options).maps, first
    )
    other = sightline.explain(net, x, method=method, classes=PICKED, seed=6, **options).maps
    assert (other - first).abs().max() > 1e-3


# RISE


def caught_masks(size: int = 16, **options: object) -> Tensor:
    """The masks (M, H, W) that RISE lays over an image of ones."""
    x = torch.ones(1, 3, size, size, dtype=torch.float64)
    _, shown, _ = listen(x, "rise", classes=0, **options)
    assert torch.equal(shown[:, 0], shown[:, 1])
    assert torch.equal(shown[:, 0], shown[:, 2])
    return shown[:, 0]


@pytest.mark.parametrize("p", [0.5, 0.3])
def test_rise_is_the_mean_of_its_masks_weighted_by_the_probability(p: float) -> None:
    masks = caught_masks(masks=40, grid=4, p=p, seed=3)
    assert len(masks) == 40
    net, x = prepare(GapToy()), make_images(2)
    maps = sightline.explain(net, x, method="rise", classes=PICKED, masks=40, grid=4, p=p, seed=3).maps
    expected = each(rise, net, x, PICKED, masks=masks, p=p)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-10)
    assert (maps[:, 0] - maps[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_rise_does_not_depend_on_the_chunk(chunk: int) -> None:
    net, x = prepare(GapToy()), make_images(2)
    options = {"masks": 20, "grid": 4, "seed": 3}
    maps = sightline.explain(net, x, method="rise", classes=PICKED, chunk=chunk, **options).maps
    again = sightline.explain(net, x, method="rise", classes=PICKED, **options).maps
    torch.testing.assert_close(maps, again, rtol=0, atol=1e-12)


def test_rise_masks_are_smooth_shifted_grids_open_with_probability_p() -> None:
    masks = caught_masks(32, masks=2000, grid=4, p=0.3)
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-12
    # each pixel is a convex mixture of cells that are open with probability p: mean p, deviation at most
    # sqrt(p (1 - p)); five standard errors of 2000 masks
    assert (masks.mean(0) - 0.3).abs().max() < 5 * (0.21 / 2000) ** 0.5
    # bilinear between cells of 8 pixels: neighbours differ by no more than about one cell's slope
    assert masks.diff(dim=1).abs().max() < 1.05 / 8
    assert masks.diff(dim=2).abs().max() < 1.05 / 8
    assert len(torch.unique(masks.flatten(1), dim=0)) > 1950
    # along a row the kinks of one mask stand a cell apart, and the shift moves them from mask to mask
    places = {tuple((row.diff().diff().abs() > 1e-6).nonzero().flatten().tolist()) for row in masks[:, 10]}
    assert len({place[0] for place in places if place}) > 4


def test_rise_of_a_model_that_sees_nothing_is_flat() -> None:
    # Without weights y is the softmax of the biases, q: the map is q/p times the mean mask, in expectation q.
    net = HandGap([[0, 0, 0], [0, 0, 0]], [1.0, 0.0])
    maps = sightline.explain(
        net, make_images(1, 16), method="rise", classes=0
    ).maps  # 4,000 masks, 8×8, p = 0.5
    q = 1 / (1 + torch.tensor(-1.0).exp().item())
    # five standard errors: the deviation of a mask's pixel is at most 0.5
    assert (maps - q).abs().max() < 5 * q / 0.5 * 0.5 / 4000**0.5
    assert maps.mean().item() == pytest.approx(q, rel=0.01)


def test_rise_finds_the_only_pixels_that_count() -> None:
    # y_0 is large where the top left quarter is open: E[map] is larger there than anywhere else.
    weight = torch.zeros(2, 3, 16, 16)
    weight[0, :, :4, :4] = 0.5
    net = HandFlat(weight.flatten(1).tolist(), [-12.0, 0.0])
    x = torch.ones(1, 3, 16, 16, dtype=torch.float64)
    m = sightline.explain(net, x, method="rise", classes=0, masks=1000, grid=4).maps[0, 0]
    assert m[:4, :4].mean() > 1.2 * m[8:, 8:].mean()


@pytest.mark.parametrize(
    ("method", "options", "named"),
    [
        ("rise", {"p": 0.0}, "p"),
        ("rise", {"p": 1.5}, "p"),
        ("rise", {"masks": 0}, "masks"),
        ("rise", {"grid": 0}, "grid"),
        ("smoothgrad", {"samples": 0}, "samples"),
        ("smoothgrad", {"sigma": -0.1}, "sigma"),
        ("integrated_gradients", {"steps": 0}, "steps"),
    ],
)
def test_impossible_options_are_refused_by_name(method: str, options: dict[str, float], named: str) -> None:
    with pytest.raises(InputError, match=named):
        sightline.explain(build("gap"), make_images(1), method=method, **options)
