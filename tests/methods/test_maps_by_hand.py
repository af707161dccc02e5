"""Maps worked out by hand, on oblong images and batches: what each method and combinator does at its borders."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.errors import InputError
from sightline.heatmap import fuse, upsample
from sightline.methods.attention import relevance, rollout
from sightline.methods.combinators import flipped, scaled, scaled_size, smoothed, tencrop, without_faint
from sightline.methods.eigencam import first_component, like_the_sum
from sightline.methods.fullgrad import bias_of
from sightline.methods.gradcam_pp import plus_plus
from sightline.methods.kpcacam import kernel_component
from sightline.methods.occlusion import window_starts
from sightline.methods.registry import Method
from sightline.methods.results import maps_of
from sightline.methods.rise import make_masks
from sightline.methods.saliency import gaussian
from sightline.methods.scorecam import varied_channels
from sightline.methods.smoothgrad import make_noise
from sightline.methods.spec import Smooth
from toynets import HandFlat, HandGap, image

NET, NONE = nn.Identity(), torch.zeros(1, 1)


def close(found: Tensor, expected: Tensor | list[Any], slack: float = 1e-6) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected).to(found), rtol=0, atol=slack)


# Combinators, of a "method" whose map is the image's first channel


def first(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
    return images[:, :1].clone()


def left(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
    """Sees the image's left column only."""
    found = torch.zeros_like(images[:, :1])
    found[..., 0] = images[:, :1, :, 0]
    return found


def test_a_mirror_image_is_turned_back() -> None:
    x = torch.tensor([[[[2.0, 0, 6], [4, 0, 0]]]])
    assert flipped(left)(NET, x, NONE).tolist() == [[[[1, 0, 3], [2, 0, 0]]]]


def test_a_smaller_scale_is_averaged_over_areas() -> None:
    # At half the size each pixel takes part of its neighbours, too: (1, 3, 3, 1) / 8 in the middle, antialiased.
    x = torch.zeros(1, 1, 8, 16)
    x[..., 3, 7] = 64
    seen: list[Tensor] = []
    scaled(lambda m, i, c, layer=None: (seen.append(i), first(m, i, c))[1], [0.5])(NET, x, NONE)
    line = torch.zeros(4), torch.zeros(8)
    line[0][1], line[0][2], line[1][3], line[1][4] = 3, 1, 3, 1
    close(seen[0][0, 0], torch.outer(*line))


def test_scales_are_each_over_their_maximum_and_their_mean_over_its_own() -> None:
    x = torch.tensor([[[[4.0, 0], [0, 0]]], [[[0.0, 0], [0, 3]]]])

    def resized(size_hw: tuple[int, int]) -> Tensor:
        assert size_hw == (4, 4)
        return torch.full((2, 1, 4, 4), 8.0)

    found = scaled(first, [1, 2], resized)(NET, x, torch.zeros(2, 1))
    assert found.tolist() == [[[[1, 0.5], [0.5, 0.5]]], [[[0.5, 0.5], [0.5, 1]]]]
    faint = scaled(first, [1, 2], lambda size_hw: torch.full((2, 1, 4, 4), 0.03))(NET, x, torch.zeros(2, 1))
    close(faint[1, 0], [[1 / 3, 1 / 3], [1 / 3, 1]])  # 1 % of the other's maximum counts half: 0.5 of 1.5
    for wrong in ((), (0.0,), (1, -1.0), (math.inf,)):
        with pytest.raises(InputError, match="expected one or more factors of the input size above 0"):
            scaled(first, wrong)


def test_a_scaled_image_has_a_pixel_at_least_and_a_hundred_million_at_most() -> None:
    assert scaled_size((10, 3), 0.01) == (1, 1)
    assert scaled_size((10, 3), 0.5) == (5, 2)
    assert scaled_size((10_000, 10_000), 1) == (10_000, 10_000)
    assert scaled_size((10_000, 5_000), 1, 2) == (10_000, 5_000)
    with pytest.raises(InputError, match=r"scales=2 makes 2\.5e\+04 × 2e\+04 pixels"):
        scaled_size((12_500, 10_000), 2)
    with pytest.raises(
        InputError, match=r"makes 3 images of 1e\+04 × 5000 pixels; expected at most 100 million"
    ):
        scaled_size((10_000, 5_000), 1, 3)


def test_a_map_below_two_per_cent_of_the_largest_counts_in_proportion() -> None:
    large = torch.tensor([[[[100.0, 50]]]])
    for high, counts in ((2.0, 1.0), (4.0, 1.0), (1.0, 0.5), (0.5, 0.25), (0.0, 0.0), (-3.0, 0.0)):
        one, two = without_faint([large, torch.tensor([[[[high, high / 2]]]])])
        assert one.tolist() == [[[[1, 0.5]]]]
        close(two, [[[[counts, counts / 2]]]])
    _, hollow = without_faint(
        [large, torch.tensor([[[[1.0, -4]]]])]
    )  # its size is that of its largest magnitude
    close(hollow, [[[[0.125, -0.5]]]])
    _, just = without_faint([large, torch.tensor([[[[2.0, -8]]]])])
    close(just, [[[[1, -4]]]])
    two_images = torch.tensor([[[[100.0, 0]]], [[[1.0, 0]]]])
    close(without_faint([two_images, torch.ones(2, 1, 1, 2)])[1][:, 0, 0, 0], [0.5, 1.0])


def test_ten_crops_of_an_oblong_image_lie_where_they_were_cut() -> None:
    large = torch.rand(1, 1, 16, 32, generator=torch.Generator().manual_seed(0))
    asked: list[tuple[int, int]] = []
    found = tencrop(left, lambda size: (asked.append(size), large)[1])(NET, torch.zeros(1, 1, 14, 28), NONE)
    assert asked == [(16, 32)]
    total, times = torch.zeros(16, 32), torch.zeros(16, 32)
    for top, start in ((0, 0), (0, 4), (2, 0), (2, 4), (1, 2)):
        crop = torch.zeros(14, 28)
        crop[:, 0] = (
            large[0, 0, top : top + 14, start] / 2
        )  # of the crop and, turned back, of its mirror image
        crop[:, 27] = large[0, 0, top : top + 14, start + 27] / 2
        total[top : top + 14, start : start + 28] += crop
        times[top : top + 14, start : start + 28] += 1
    close(found[0, 0], total / times)


def test_noisy_images_are_drawn_one_after_another() -> None:
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(7)
    span = (x.flatten(1).amax(1) - x.flatten(1).amin(1)).view(2, 1, 1, 1)
    noisy = [x + 0.3 * span * torch.randn(3, 4, 5, generator=generator) for _ in range(3)]
    found = smoothed(first, Smooth(3, 0.3, 7))(NET, x, NONE)
    close(found, torch.stack(noisy).mean(0)[:, :1])
    drawn = make_noise(x, 0.3, torch.Generator().manual_seed(7))
    close(drawn, noisy[0] - x)


# Methods


def test_grad_cam_plus_plus_at_and_around_a_pole() -> None:
    # 2 + g ΣA of three channels: 2 + 2, 2 - 2 = 0 and 2 - 3 < 0. The first has a = 1/4 at both places.
    activations = torch.tensor([[[[3.0, -1]], [[-1, -1]], [[-2, -1]]]])
    with pytest.warns(UserWarning, match="a denominator is not positive"):
        found = plus_plus(torch.ones(1, 3, 1, 2), activations)
    assert found.tolist() == [[[1.5, 0]]]
    with pytest.warns(UserWarning, match="a denominator is not positive"):
        assert plus_plus(torch.ones(1, 1, 1, 2), activations[:, 1:2]).tolist() == [[[0, 0]]]
    assert plus_plus(-torch.ones(1, 1, 1, 2), activations[:, :1]).tolist() == [
        [[0, 0]]
    ]  # no warning: g is negative


def test_smooth_grad_cam_plus_plus_without_noise_at_a_pole() -> None:
    # y = A¹ + A² with A¹ = (3, -1), A² = (-1, -1): as above; D₂ / (2 D₂ + D₃ ΣA) = 1/4 and a pole.
    net = HandFlat([[1.0, 1, 1, 1, 0, 0]], [0.0], body=nn.Identity())
    x = image([[[3, -1]], [[-1, -1]], [[0, 0]]])
    with pytest.warns(UserWarning, match="smoothgradcam_pp: a denominator is not positive"):
        found = sightline.explain(net, x, "smoothgradcam_pp", 0, layer="body", sigma=0, samples=2).maps
    close(found[0, 0], [[1.5, 0]])


def test_fem_keeps_what_is_exactly_k_deviations_above_the_mean() -> None:
    # Mean 1 and deviation 1 of (0, 2); the second channel is constant; the third has mean 2 and deviation √3 of (1, 5).
    net = HandGap([[1, 1, 1]], [0], body=nn.Identity())
    x = image([[[0, 2], [2, 0]], [[3, 3], [3, 3]], [[1, 1], [1, 5]]])
    assert sightline.explain(net, x, "fem", layer="body", k=1.0).maps[0, 0].tolist() == [[0, 1], [1, 2]]
    assert sightline.explain(net, x, "fem", layer="body", k=1.01).maps[0, 0].tolist() == [[0, 0], [0, 2]]


def test_windows_along_a_side() -> None:
    assert [window_starts(*one) for one in ((4, 4, 1), (5, 4, 1), (5, 4, 4), (1, 1, 1), (7, 3, 2))] == [
        [0], [0, 1], [0, 1], [0], [0, 2, 4],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "window", "stride"),
    [
        ({"window": 2, "stride": 2}, (2, 2), (2, 2)),
        ({"window": 0.5, "stride": 0.25}, (2, 4), (1, 2)),
        ({"window": (4, 8)}, (4, 8), (2, 4)),
        ({"window": (1, 3)}, (1, 3), (1, 1)),
        ({"window": (2, 3), "stride": (2, 3)}, (2, 3), (2, 3)),
    ],
)
def test_windows_in_pixels_pairs_and_shares(options: dict[str, Any], window: Any, stride: Any) -> None:
    # A linear score of an oblong image of ones: each window's drop is its weights' sum, times 1 - the grey value.
    weight = torch.arange(32.0, dtype=torch.float64).view(4, 8)
    net = HandFlat([[*weight.flatten().tolist(), *[0.0] * 64]], [3.0])
    x = torch.ones(2, 3, 4, 8, dtype=torch.float64)
    x[1] = 2
    found = sightline.explain(net, x, "occlusion", 0, value=0.25, chunk=5, **options).maps
    total, times = torch.zeros(4, 8).double(), torch.zeros(4, 8).double()
    for top in window_starts(4, window[0], stride[0]):
        for start in window_starts(8, window[1], stride[1]):
            cut = slice(top, top + window[0]), slice(start, start + window[1])
            total[cut] += weight[cut].sum()
            times[cut] += 1
    close(found[:, 0], torch.stack([0.75 * total / times, 1.75 * total / times]), 1e-9)


@pytest.mark.parametrize(
    "options", [{"window": (5, 8)}, {"window": (4, 9)}, {"stride": 0.01}, {"window": 2, "stride": 3}]
)
def test_windows_that_do_not_fit(options: dict[str, Any]) -> None:
    net = HandFlat([[1.0] * 96], [0.0])
    with pytest.raises(InputError, match=r"does not fit an image of|would leave pixels uncovered"):
        sightline.explain(net, torch.ones(1, 3, 4, 8, dtype=torch.float64), "occlusion", 0, **options)


def test_masks_of_rise_are_cut_from_one_cell_more() -> None:
    masks = make_masks(64, 2, 0.5, (4, 6), torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    cells = (torch.rand(64, 1, 2, 2, generator=generator) < 0.5).float()
    at = (torch.rand(64, 2, generator=generator) * torch.tensor([2, 3])).long().tolist()
    large = upsample(cells, (6, 9))
    expected = [one[:, y : y + 4, x : x + 6] for one, (y, x) in zip(large, at, strict=True)]
    assert {y for y, _ in at} == {0, 1}
    assert {x for _, x in at} == {0, 1, 2}
    close(masks, torch.stack(expected))


def test_the_gaussian_of_saliency_is_cut_at_four_sigma_and_at_the_side() -> None:
    point = torch.zeros(2, 1, 5, 21)
    point[0, 0, 2, 10] = point[1, 0, 2, 0] = 1
    for sigma, radius in ((1.0, 4), (0.6, 2), (0.7, 3), (9.0, 4)):
        weight = torch.tensor([math.exp(-0.5 * (i / sigma) ** 2) for i in range(-radius, radius + 1)])
        weight = weight / weight.sum()
        found = gaussian(point, sigma)
        line, edge = found[0, 0, 2], found[1, 0, 2, : radius + 1]
        close(line[10 - radius : 11 + radius] / line.sum(), weight)
        close(edge / edge[0], weight[radius:] / weight[radius])  # the border is reflected, not repeated
        close(gaussian(point.mT, sigma), found.mT)


def test_the_channels_that_vary_most() -> None:
    maps = torch.tensor([[[0.0, 4]], [[1, 1]], [[0, 9]], [[0, 1]]])
    assert varied_channels(maps, None).tolist() == [0, 2, 3]
    assert sorted(varied_channels(maps, 2).tolist()) == [0, 2]
    assert varied_channels(maps, 3).tolist() == varied_channels(maps, 9).tolist() == [0, 2, 3]


def test_components_of_the_smallest_and_the_largest_maps() -> None:
    maps = torch.tensor([[[[-1.0, 3, 1]], [[0, 2, 4]]], [[[5, 1, 0]], [[1, 1, 1]]]], dtype=torch.float64)
    for centre in (True, False):
        expected = first_component(maps, centre)
        for power in (-300, 300):
            factor = torch.tensor(2.0, dtype=torch.float64) ** power
            close(first_component(maps * factor, centre) / factor, expected, 1e-12)
    assert first_component(torch.full((1, 2, 2, 2), 5.0)).tolist() == [[[0, 0], [0, 0]]]


def test_a_projection_s_sign() -> None:
    projection = torch.tensor([[1.0, -2], [1, -2], [1, -2]])
    total = torch.tensor([[3.0, 1], [1, 1], [1e-9, 0]])
    found = like_the_sum(projection, total, torch.ones(3, 1))
    assert found.tolist() == [
        [1, -2],
        [-1, 2],
        [-1, 2],
    ]  # 3 - 2 > 0; 1 - 2 < 0; no sum: the largest is positive


@pytest.mark.parametrize("gamma", [None, 0.3])
@pytest.mark.parametrize("kernel", ["sigmoid", "rbf", "linear"])
def test_kernel_components_of_an_oblong_batch(kernel: Any, gamma: float | None) -> None:
    maps = torch.randn(2, 4, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = kernel_component(maps, kernel, gamma)
    scale = 1 / 4 if gamma is None else gamma
    for one, own in zip(maps.flatten(2).transpose(1, 2), found.flatten(1), strict=True):
        x = one - one.mean(0)
        pairs = [[(a, b) for b in x] for a in x]
        of = {
            "sigmoid": lambda a, b: math.tanh(scale * float(a @ b) + 1),
            "rbf": lambda a, b: math.exp(-scale * float(((a - b) ** 2).sum())),
            "linear": lambda a, b: float(a @ b),
        }[kernel]
        matrix = torch.tensor([[of(*pair) for pair in row] for row in pairs], dtype=torch.float64)
        middle = torch.eye(6).double() - 1 / 6
        values, vectors = torch.linalg.eigh(middle @ matrix @ middle)
        expected = vectors[:, -1] * values[-1].sqrt()
        close(own, expected * (expected @ x.sum(1)).sign(), 1e-9)
        assert float(own @ x.sum(1)) > 0


def test_what_a_layer_adds_to_each_channel() -> None:
    norm = nn.BatchNorm2d(2, eps=0.0).eval()
    norm.running_mean.copy_(torch.tensor([2.0, -1]))
    norm.running_var.copy_(torch.tensor([4.0, 0.25]))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([3.0, 1]))
        norm.bias.copy_(torch.tensor([1.0, 5]))
    assert bias_of(norm).tolist() == [1 - 2 * 3 / 2, 5 + 1 / 0.5]
    plain = nn.BatchNorm2d(1, eps=1.0, affine=False).eval()
    plain.running_mean.fill_(2)
    plain.running_var.fill_(3)
    assert bias_of(plain).tolist() == [-1]
    assert bias_of(nn.BatchNorm2d(2, track_running_stats=False)).tolist() == [0, 0]
    assert bias_of(nn.BatchNorm2d(2, affine=False, track_running_stats=False)) is None
    conv = nn.Conv2d(1, 2, 1)
    assert torch.equal(bias_of(conv), conv.bias)
    assert bias_of(nn.Conv2d(1, 2, 1, bias=False)) is None
    assert bias_of(nn.LayerNorm((2, 2))) is None
    assert not bias_of(conv).requires_grad


def test_attention_of_two_blocks() -> None:
    one = torch.tensor([[[0.0, 1], [1, 3]]])
    two = torch.tensor([[[1.0, 0], [0, 1]]])
    close(rollout([one, two]), [[[0.5, 0.5], [0.2, 0.8]]])
    late = torch.tensor(
        [[[0.0, 0], [3, 0]]]
    )  # (I + late) over its sums is [[1, 0], [3/4, 1/4]], and stands on the left
    close(rollout([one, late]), [[[0.5, 0.5], [0.425, 0.575]]])
    assert relevance([one, late]).tolist() == [[[1, 1], [4, 7]]]


# What a method returns, for every target


def evidence(**more: Any) -> Any:
    """As methods and their results need it: a layer of 1 × 2 cells that sees an image of 2 × 4 pixels, whole."""
    known = {
        "images": torch.zeros(2, 3, 2, 4),
        "activations": torch.zeros(2, 5, 1, 2),
        "grid": (2, 4),
        "size_hw": (2, 4),
        "sites": [SimpleNamespace(covers=None)],
        "upsampled": lambda maps, number=0: upsample(maps, (2, 4)),
    }
    return SimpleNamespace(**{**known, **more})


def method(function: Callable[..., Any], needs: tuple[str, ...] = ("activations",), **more: Any) -> Method:
    return Method("mine", function, "", frozenset(needs), **more)


CELLS = torch.tensor([[[1.0, 2]], [[3, 4]]])  # (N, h, w)


def test_maps_of_several_targets() -> None:
    found, signed = maps_of(method(lambda e, t: CELLS * t), evidence(), [1, 10], {})
    assert signed is None
    assert found.tolist() == [[[[1, 2]], [[10, 20]]], [[[3, 4]], [[30, 40]]]]
    same, _ = maps_of(method(lambda e, t: CELLS * t, class_specific=False), evidence(), [1, 10], {})
    assert same.tolist() == [[[[1, 2]]] * 2, [[[3, 4]]] * 2]
    joint = method(lambda e, targets, power: torch.stack([CELLS * t**power for t in targets], 1), joint=True)
    assert torch.equal(maps_of(joint, evidence(), [1, 10], {"power": 1})[0], found)
    for dtype, kept in ((torch.int64, torch.float32), (torch.float16, torch.float32), (torch.float64,) * 2):
        assert maps_of(method(lambda e, t, d=dtype: CELLS.to(d)), evidence(), [1], {})[0].dtype == kept


def test_signed_maps_are_shown_by_their_largest_magnitude() -> None:
    pixels = torch.zeros(2, 3, 2, 4)
    pixels[0, :, 1, 3] = torch.tensor([1.0, -5, 2])
    shown, signed = maps_of(method(lambda e, t: pixels * t, signed=True), evidence(), [1, 2], {})
    assert shown[0, :, 1, 3].tolist() == [5, 10]
    assert signed.shape == (2, 2, 3, 2, 4)
    assert signed[0, 1, :, 1, 3].tolist() == [2, -10, 4]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_single_value_that_is_no_number_is_refused(bad: float) -> None:
    spoilt = CELLS.clone()
    spoilt[1, 0, 1] = bad
    with pytest.raises(InputError, match="the maps of 'mine' hold NaN or Inf"):
        maps_of(method(lambda e, t: spoilt), evidence(), [1], {})


def test_a_layer_that_sees_part_of_the_image_is_shown_on_the_image() -> None:
    part = [SimpleNamespace(covers=((0, 2), (0, 2)))]
    for more, shape in (
        ({"sites": part}, (2, 4)),
        ({}, (1, 2)),
        ({"sites": []}, (1, 2)),
    ):
        assert maps_of(method(lambda e, t: CELLS), evidence(**more), [1], {})[0].shape[2:] == shape
    # Not where the method has placed its map itself, or fuses layers at the image's size.
    whole = torch.zeros(2, 2, 4)
    assert maps_of(method(lambda e, t: whole), evidence(sites=part), [1], {})[0].shape[2:] == (2, 4)
    fused = method(lambda e, t: CELLS, layers="convs")
    assert maps_of(fused, evidence(sites=part), [1], {})[0].shape[2:] == (1, 2)
    assert maps_of(method(lambda e, t: CELLS, ()), evidence(sites=part), [1], {})[0].shape[2:] == (1, 2)


def test_several_levels_are_fused_each_over_its_maximum_and_a_faint_one_counts_little() -> None:
    levels = [torch.tensor([[[[100.0, 0]]]]), torch.tensor([[[[0.0, 1.0]]]])]
    asked: list[int] = []

    def upsampled(maps: Tensor, number: int = 0) -> Tensor:
        asked.append(number)
        return upsample(maps, (2, 4))

    def of_layer(number: int) -> Any:
        return evidence(images=torch.zeros(1, 3, 2, 4), of=levels[number][:, 0])

    both = evidence(sites=[SimpleNamespace(covers=None)] * 2, of_layer=of_layer, upsampled=upsampled)
    found, signed = maps_of(method(lambda e, t: e.of), both, [1], {})
    assert signed is None
    assert asked == [0, 1]
    whole = [upsample(levels[0], (2, 4)) / 100, upsample(levels[1], (2, 4)) / 2]  # 1 of 2 % of 100: half
    close(found, fuse([one[:, 0] for one in whole], (2, 4), per_layer_norm=False)[:, None])
    # One that fuses layers itself, or explains pixels, is run once.
    assert maps_of(method(lambda e, t: CELLS, layers="convs"), evidence(sites=both.sites), [1], {})[0].shape[
        2:
    ] == (1, 2)
