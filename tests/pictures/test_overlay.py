"""The pictures, pixel by pixel where a pixel can be worked out by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest
import torch

from sightline.errors import InputError
from sightline.pictures.overlay import (
    INK,
    PAPER,
    colour_table,
    coloured,
    curves,
    drawn_size,
    overlay,
    shorten,
    signed_picture,
    typeface,
)

GREY_PHOTO = PIL.Image.new("RGB", (400, 300), (100, 100, 100))


def test_overlay_is_the_blend_of_grey_photo_and_colour() -> None:
    picture = overlay(GREY_PHOTO, torch.ones(2, 2), alpha=0.25, colormap="gray")
    assert picture.size == (400, 300)
    assert picture.getpixel((200, 150)) == (138, 138, 138)  # 0.75 · 100 + 0.25 · 255 = 138.75, cut


@pytest.mark.parametrize(("alpha", "pixel"), [(0.0, (100, 100, 100)), (1.0, (255, 255, 255))])
def test_alpha_goes_from_the_photo_to_the_map(alpha: float, pixel: tuple[int, ...]) -> None:
    assert overlay(GREY_PHOTO, torch.ones(2, 2), alpha, "gray").getpixel((10, 10)) == pixel


def test_heat_is_where_the_map_is_hot() -> None:
    heatmap = torch.zeros(4, 4)
    heatmap[0, 3] = 1.0
    picture = np.asarray(overlay(GREY_PHOTO, heatmap, 1.0, "gray"), dtype=float)[..., 0]
    assert picture[:40, 360:].mean() > 250
    assert picture[150:].max() == 0
    assert picture[:, :200].max() == 0


def test_photo_outside_the_shown_crop_is_dimmed() -> None:
    picture = overlay(GREY_PHOTO, torch.ones(2, 2), 1.0, "gray", shown_xyxy=(50.0, 0.0, 350.0, 300.0))
    dim = round(0.35 * 100 + 0.65 * INK[0])
    assert abs(picture.getpixel((49, 150))[0] - dim) <= 1
    assert picture.getpixel((50, 150)) == (255, 255, 255)
    assert picture.getpixel((349, 150)) == (255, 255, 255)
    assert abs(picture.getpixel((350, 150))[0] - dim) <= 1


def test_box_is_drawn_inside_its_half_open_edges() -> None:
    box = torch.tensor([[100.0, 50.0, 200.0, 150.0]])
    picture = overlay(GREY_PHOTO, torch.ones(2, 2), 0.0, boxes_xyxy=box)
    row = [picture.getpixel((x, 100)) for x in range(98, 106)]
    assert row == [(100,) * 3] * 2 + [INK, PAPER, PAPER, INK] + [(100,) * 3] * 2
    assert picture.getpixel((199, 100)) == INK  # the last pixel inside x1 = 200
    assert picture.getpixel((200, 100)) == (100, 100, 100)


def test_box_in_photo_pixels_follows_the_drawn_size() -> None:
    tiny = PIL.Image.new("RGB", (64, 64), (100, 100, 100))
    picture = overlay(tiny, torch.ones(2, 2), 0.0, boxes_xyxy=torch.tensor([[16.0, 16.0, 48.0, 48.0]]))
    assert picture.size == (192, 192)
    assert picture.getpixel((48, 96)) == INK
    assert picture.getpixel((47, 96)) == (100, 100, 100)
    assert picture.getpixel((143, 96)) == INK
    assert picture.getpixel((144, 96)) == (100, 100, 100)


def test_map_without_positive_value_says_so() -> None:
    picture = np.asarray(overlay(GREY_PHOTO, torch.zeros(7, 7)))
    assert picture[:100].max() < 60  # dimmed, no colour
    written = (picture == 255).all(-1)
    assert written[130:170, 100:300].any()
    assert not written[:100].any()


def test_label_stands_in_the_picture_even_for_a_box_in_the_corner() -> None:
    box = torch.tensor([[390.0, 0.0, 400.0, 20.0]])
    picture = np.asarray(
        overlay(GREY_PHOTO, torch.ones(2, 2), 0.0, boxes_xyxy=box, label="a long class name")
    )
    assert (picture[:20, 200:] == INK).all(-1).mean() > 0.3


def test_signed_picture_is_grey_at_zero_and_spans_the_range() -> None:
    signed = torch.zeros(3, 1, 2)
    signed[0] = torch.tensor([[-2.0, 2.0]])
    picture = signed_picture(signed, (2, 1))
    assert picture.getpixel((0, 0)) == (0, 128, 128)
    assert picture.getpixel((1, 0)) == (255, 128, 128)


def test_signed_replaces_the_heatmap() -> None:
    picture = overlay(GREY_PHOTO, torch.ones(2, 2), signed=torch.zeros(3, 8, 8))
    assert picture.getpixel((200, 150)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("photo", "drawn"),
    [
        ((1, 1), (192, 192)),
        ((64, 48), (192, 144)),
        ((224, 200), (224, 200)),
        ((4000, 3000), (1600, 1200)),
        ((10000, 1), (1600, 400)),
        ((1, 10000), (400, 1600)),
    ],
)
def test_drawn_size(photo: tuple[int, int], drawn: tuple[int, int]) -> None:
    assert drawn_size(photo) == drawn
    assert overlay(PIL.Image.new("RGB", photo), torch.rand(7, 7)).size == drawn


def test_unknown_colour_map_names_near_ones() -> None:
    with pytest.raises(InputError, match=r"unknown colour map 'virdis'; did you mean 'viridis'"):
        colour_table("virdis")


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_values_outside_zero_to_one_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="expected 0 to 1"):
        coloured(torch.full((2, 2), value), (2, 2))


def test_wrong_shape_and_wrong_alpha_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(1, 2, 2\); expected \(H, W\)"):
        coloured(torch.zeros(1, 2, 2), (2, 2))
    with pytest.raises(InputError, match="alpha is 2"):
        overlay(GREY_PHOTO, torch.ones(2, 2), alpha=2)


def test_shorten_prefers_the_first_name_then_an_ellipsis() -> None:
    face = typeface(16)
    assert shorten("tabby, tabby cat", face, 500) == "tabby, tabby cat"
    assert shorten("tabby, tabby cat", face, face.getlength("tabby,")) == "tabby"
    cut = shorten("a very long name", face, 80)
    assert cut.endswith("…")
    assert face.getlength(cut) <= 80
    assert shorten("two\nlines", face, 500) == "two lines"


def test_curves_draw_each_line() -> None:
    flat = curves({"a": ([0, 1], [0, 0])}, "x", "y", size=(480, 320))
    steep = curves({"a": ([0, 1], [0, 0]), "b": ([0, 1], [0, 1])}, "x", "y", "t", size=(480, 320))
    assert flat.size == steep.size == (480, 320)
    blue, orange = np.array([31, 119, 180]), np.array([255, 127, 14])
    near = lambda picture, colour: (abs(np.asarray(picture) - colour).sum(-1) < 12).sum()  # noqa: E731
    assert near(flat, blue) > 100
    assert near(flat, orange) == 0
    assert near(steep, orange) > 100
    with pytest.raises(InputError, match="curve 'a' has 2 x and 1 y"):
        curves({"a": ([0, 1], [0])}, "x", "y")


def test_many_threads_draw_the_same_picture() -> None:
    heatmap = torch.rand(7, 7)
    draw = lambda _: overlay(GREY_PHOTO, heatmap, label="tabby").tobytes()  # noqa: E731
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(draw, range(16)))) == 1
