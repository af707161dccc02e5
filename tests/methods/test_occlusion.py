"""Occlusion (Zeiler & Fergus 2014) against one window at a time, by hand, and on a linear model."""

from __future__ import annotations

import pytest
import torch

import sightline
from references.occlusion import occlusion
from references.plain import each
from sightline.errors import InputError
from toynets import ALL_TOYS, HandFlat, build, flat_weight, image, make_images

PICKED = torch.tensor([[2, 0], [1, 3]])


@pytest.mark.parametrize("name", ALL_TOYS)
def test_equals_the_reference_at_its_defaults(name: str) -> None:
    # side 14: the window is 14/7 = 2 pixels, the stride half of that
    net, x = build(name), make_images(2, 14)
    if name == "vgg end":
        x = make_images(2, 28)[:1]
    picked, window = PICKED[: len(x)], x.shape[2] // 7
    explanation = sightline.explain(net, x, method="occlusion", classes=picked)
    expected = each(occlusion, net, x, picked, window=(window, window), stride=(window // 2, window // 2))
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(explanation.maps, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_does_not_depend_on_the_chunk(chunk: int) -> None:
    net, x = build("vgg end"), make_images()
    maps = sightline.explain(net, x, method="occlusion", classes=PICKED, window=4, stride=4, chunk=chunk).maps
    expected = each(occlusion, net, x, PICKED, window=(4, 4), stride=(4, 4))
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("window", [4, 0.25, (4, 4)])
def test_window_in_pixels_or_as_a_share_of_the_side(window: object) -> None:
    net, x = build("gap"), make_images()
    maps = sightline.explain(net, x, method="occlusion", classes=PICKED, window=window).maps
    expected = each(occlusion, net, x, PICKED, window=(4, 4), stride=(2, 2))
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-10)


def test_windows_need_not_be_square() -> None:
    net, x = build("gap"), make_images()
    maps = sightline.explain(net, x, method="occlusion", classes=PICKED, window=(8, 2), stride=(4, 2)).maps
    torch.testing.assert_close(
        maps, each(occlusion, net, x, PICKED, window=(8, 2), stride=(4, 2)), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize(("size", "window", "stride"), [(16, 5, 3), (15, 4, 3), (16, 3, 3), (14, 6, 5)])
def test_a_side_that_the_stride_does_not_divide_is_covered_to_the_edge(
    size: int, window: int, stride: int
) -> None:
    net, x = build("gap"), make_images(2, size)
    maps = sightline.explain(net, x, method="occlusion", classes=PICKED, window=window, stride=stride).maps
    expected = each(occlusion, net, x, PICKED, window=(window, window), stride=(stride, stride))
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-10)


def test_by_hand() -> None:
    # y = Σ w x with one channel of weights 1 and x = 1 … 8 in 2×4; the others have weight 0. Windows 2×2 at
    # columns 0, 1, 2 take 1+2+5+6 = 14, 2+3+6+7 = 18, 3+4+7+8 = 22 away. Columns: 14, (14+18)/2, (18+22)/2,
    # 22.
    ones, none = [[1.0] * 4] * 2, [[0.0] * 4] * 2
    net = HandFlat(flat_weight([[ones, none, none]]), [5.0])
    x = image([[[1, 2, 3, 4], [5, 6, 7, 8]], [[9] * 4] * 2, [[9] * 4] * 2])
    maps = sightline.explain(net, x, method="occlusion", classes=0, window=(2, 2), stride=(1, 1)).maps
    assert maps[0, 0].tolist() == [[14, 16, 20, 22], [14, 16, 20, 22]]


def test_tiles_on_a_linear_model_share_out_the_score() -> None:
    # Windows that do not overlap: each pixel has its window's part of y, so the map's mean times the number
    # of windows is y without its bias.
    weight = torch.randn(1, 3 * 8 * 8, dtype=torch.float64)
    net, x = HandFlat(weight.tolist(), [3.0]), make_images(1, 8).abs()
    maps = sightline.explain(net, x, method="occlusion", classes=0, window=2, stride=2).maps
    assert maps.mean().item() * 16 == pytest.approx(net(x).item() - 3.0, abs=1e-10)


@pytest.mark.parametrize(
    "options", [{"window": 0}, {"window": 17}, {"window": 4, "stride": 0}, {"window": -1}]
)
def test_impossible_windows_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"window|stride"):
        sightline.explain(build("gap"), make_images(), method="occlusion", **options)


@pytest.mark.parametrize(("window", "stride"), [(4, 5), ((4, 2), (4, 3)), ((2, 4), (3, 4))])
def test_a_stride_larger_than_the_window_is_refused(window: object, stride: object) -> None:
    with pytest.raises(InputError, match=r"stride .* is larger than the window"):
        sightline.explain(build("gap"), make_images(), method="occlusion", window=window, stride=stride)
