"""What an unknown transform does, measured: each edge of the photo, each channel's scaling, and each refusal."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from sightline.errors import InputError
from sightline.inspection.transform import measure, run

Transform = Callable[[Image.Image], Tensor]
LEVELS = torch.tensor([0.1, 0.3, 0.2]).view(3, 1, 1), torch.tensor([0.5, 0.25, 2.0]).view(3, 1, 1)


def plain(photo: Image.Image) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(photo).copy()).movedim(-1, 0).float() / 255


def cut(box_xyxy: tuple[float, float, float, float], size_wh: tuple[int, int]) -> Transform:
    """A rectangle of the photo, to a fraction of a pixel, resized."""
    return lambda photo: plain(photo.resize(size_wh, Image.Resampling.BILINEAR, box=box_xyxy))


def measured_edges(transform: Transform, photo_hw: tuple[int, int]) -> tuple[float, ...]:
    return measure(transform, photo_hw).geometry.shown_xyxy


# What it returns


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (torch.zeros(3, 4, 4, dtype=torch.uint8), r"torch\.uint8 \(3, 4, 4\)"),
        (torch.zeros(1, 3, 4, 4), r"torch\.float32 \(1, 3, 4, 4\)"),
        (torch.zeros(4, 4), r"torch\.float32 \(4, 4\)"),
        ([0.0], "list"),
    ],
)
def test_what_is_no_float_tensor_of_three_axes_is_refused(returned: Any, got: str) -> None:
    with pytest.raises(InputError, match=f"returns {got}; expected a float tensor of shape"):
        run(lambda photo: returned, Image.new("RGB", (4, 4)))


def test_what_it_returns_is_a_plain_float32_tensor_without_a_graph() -> None:
    given = tv_tensors.Image(torch.rand(3, 2, 4, dtype=torch.float64)).requires_grad_()
    found = run(lambda photo: given, Image.new("RGB", (4, 2)))
    assert (type(found), found.dtype, found.requires_grad) == (Tensor, torch.float32, False)
    assert torch.equal(found, given.detach().as_subclass(Tensor).float())


def test_a_failure_names_the_size_of_the_photo() -> None:
    with pytest.raises(
        InputError, match="failed on an RGB image of 5 × 3 pixels: ZeroDivisionError: division"
    ):
        run(lambda photo: 1 / 0, Image.new("RGB", (5, 3)))  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(1), random.random, np.random.rand], ids=["torch", "random", "numpy"]
)
@pytest.mark.parametrize("fails", [False, True])
def test_a_draw_from_any_generator_is_the_fault_that_is_named(draw: Callable[[], Any], fails: bool) -> None:
    draw()  # whose first draw makes numbers for more than one

    def transform(photo: Image.Image) -> Tensor:
        draw()
        return plain(photo) if not fails else torch.full((3, 8, 8), torch.nan)

    with pytest.raises(InputError, match="draws random numbers"):
        measure(transform, (8, 8))


def test_another_size_for_another_brightness_is_refused() -> None:
    def transform(photo: Image.Image) -> Tensor:
        x = plain(photo)
        return x if x.max() == x.min() else x[:, 1:]

    with pytest.raises(InputError, match=r"gives \(3, 16, 16\), then \(3, 15, 16\); expected one size"):
        measure(transform, (16, 16))


# What it does to the values


def test_each_channel_has_its_mean_and_its_scale() -> None:
    mean, std = LEVELS
    found = measure(lambda photo: (plain(photo) - mean) / std, (16, 24))
    assert found.mean == pytest.approx((0.1, 0.3, 0.2), abs=1e-6)
    assert found.std == pytest.approx((0.5, 0.25, 2.0), abs=1e-6)
    assert not found.per_image
    assert found.geometry.shown_xyxy == (0, 0, 24, 16)
    assert (found.geometry.photo_hw, found.geometry.input_hw) == ((16, 24), (16, 24))


def test_a_negative_is_a_scale_below_zero() -> None:
    found = measure(lambda photo: 1 - plain(photo), (16, 16))
    assert (found.mean, found.std) == (pytest.approx((1.0,) * 3), pytest.approx((-1.0,) * 3))


@pytest.mark.parametrize(("strength", "std"), [(0.6, 1 / 0.6), (0.5, 1.0), (0.4, 1.0)])
def test_what_shows_half_of_the_photo_s_strength_is_padding(strength: float, std: float) -> None:
    def transform(photo: Image.Image) -> Tensor:
        x = plain(photo).clone()
        x[:, :, :14] *= strength  # 14 of 24 columns
        return x

    assert measure(transform, (24, 24)).std == pytest.approx((std,) * 3)


def test_a_pixel_shows_the_photo_where_every_channel_does() -> None:
    def transform(photo: Image.Image) -> Tensor:
        x = plain(photo) * torch.tensor([1.0, 0.5, 0.8]).view(3, 1, 1)
        x[0, :, :4] = 0.3
        return x

    found = measure(transform, (20, 20))
    assert found.geometry.shown_xyxy == (0, 0, 20, 20)
    assert found.std == pytest.approx((1.0, 2.0, 1.25))


@pytest.mark.parametrize("strength", [1.5e-6, 1e-3, 1e3])
def test_the_strength_of_the_values_does_not_matter(strength: float) -> None:
    found = measure(lambda photo: plain(photo) * strength, (12, 16))
    assert found.std == pytest.approx((1 / strength,) * 3)
    assert found.geometry.shown_xyxy == (0, 0, 16, 12)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda photo: plain(photo) * 0.9e-6, "maps black and white photos to the same values"),
        (lambda photo: torch.full((3, 8, 8), 0.5), "maps black and white photos to the same values"),
        (lambda photo: torch.full((3, 8, 8), torch.nan), "gives NaN or Inf for a uniform photo"),
    ],
)
def test_what_shows_nothing_of_a_photo_is_refused(transform: Transform, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(transform, (16, 16))


# Where it looks


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((0, 0, 60, 40), (60, 40)),
        ((6, 4, 60, 40), (54, 36)),
        ((0, 0, 54, 36), (54, 36)),
        ((10, 4, 50, 36), (20, 16)),
        ((10, 4, 50, 36), (80, 64)),
        ((5.5, 8.25, 50.5, 30.75), (30, 15)),
    ],
)
def test_the_rectangle_that_fills_the_input(box: tuple[float, ...], size: tuple[int, int]) -> None:
    found = measure(cut(box, size), (40, 60)).geometry  # type: ignore[arg-type]
    assert found.input_hw == (size[1], size[0])
    pixel = max((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1], 1)
    assert found.shown_xyxy == pytest.approx(box, abs=0.12 * pixel)


@pytest.mark.parametrize(
    ("pads", "edges"),
    [((3, 5, 2, 7), (-3, -2, 45, 37)), ((0, 6, 0, 0), (0, 0, 46, 30)), ((9, 0, 4, 0), (-9, -4, 40, 30))],
)
def test_padding_reaches_beyond_the_photo(pads: tuple[int, ...], edges: tuple[int, ...]) -> None:
    """``pads``: columns before and behind, rows before and behind."""
    transform = lambda photo: torch.nn.functional.pad(plain(photo), pads, value=0.7)  # noqa: E731
    assert measured_edges(transform, (30, 40)) == pytest.approx(edges, abs=0.05)


@pytest.mark.parametrize(("offset", "snaps"), [(0.3, True), (0.6, False)])
def test_less_than_a_tenth_of_an_input_pixel_is_no_crop(offset: float, snaps: bool) -> None:
    """Four pixels of the photo for each of the input."""
    left, top, right, bottom = measured_edges(
        cut((offset, offset, 160 - offset, 120 - offset), (40, 30)), (120, 160)
    )
    assert ((left, top, right, bottom) == (0, 0, 160, 120)) == snaps
    assert all((edge in (0, 160, 120)) == snaps for edge in (left, top, right, bottom))


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (lambda x: x.flip(2), "mirrors or rotates the photo, or its values"),
        (lambda x: x.flip(1), "mirrors or rotates the photo, or its values"),
        (lambda x: x.transpose(1, 2), "rotates or distorts the photo"),
        (lambda x: x.roll(20, 2), "the photo"),
        (lambda x: x**3, "distorts the photo, or its values"),
        (lambda x: torch.cat([x[:, :, :20], x[:, :, 30:]], 2), "distorts the photo, or its values"),
        (lambda x: torch.cat([x[:, :20], x[:, 30:]], 1), " distorts the photo, or its values"),
        (
            lambda x: torch.cat([x[:, :20], x[:, 30:]], 1).repeat_interleave(2, 1),
            " distorts the photo, or its values",
        ),
        (lambda x: torch.stack([x[:, i].roll(i, 1) for i in range(64)], 1), "rotates or distorts the photo"),
    ],
)
def test_what_is_no_rectangle_of_the_photo_is_refused(turn: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(lambda photo: turn(plain(photo)), (64, 64))


@pytest.mark.parametrize(("columns", "refused"), [(4, False), (6, True)])
def test_a_photo_of_which_little_is_left_out_is_measured(columns: int, refused: bool) -> None:
    """A line through both parts is off by half of that; a 128th, one pixel of the photo and one of the input may be."""
    transform = lambda photo: torch.cat([(x := plain(photo))[:, :, :32], x[:, :, 32 + columns :]], 2)  # noqa: E731
    if not refused:
        assert measured_edges(transform, (64, 64)) == pytest.approx((-1, 0, 65, 64), abs=1)
        return
    with pytest.raises(InputError, match="distorts the photo"):
        measure(lambda photo: transform(photo), (64, 64))


class Wandering:
    """A crop whose edges move from its fourth photo on, which is the second along the columns."""

    def __init__(self, before: tuple[float, float], after: tuple[float, float], columns: int) -> None:
        self.before, self.after, self.columns, self.calls = before, after, columns, 0

    def __call__(self, photo: Image.Image) -> Tensor:
        self.calls += 1
        left, right = self.after if self.calls > 3 else self.before
        return cut((left, 0, right, photo.height), (self.columns, photo.height))(photo)


@pytest.mark.parametrize(
    ("before", "after", "columns", "refused"),
    [
        ((30, 54), (32.5, 56.5), 24, False),  # a 64th of the photo, one pixel of it and one of the input: 3
        ((30, 54), (33.5, 57.5), 24, True),
        ((30, 54), (34, 54), 24, True),
        ((30, 54), (30, 50), 24, True),
        ((10, 58), (13.5, 61.5), 24, False),  # 4
        ((10, 58), (15, 63), 24, True),
    ],
)
def test_a_crop_that_moves_between_two_calls_is_refused(
    before: tuple[float, float], after: tuple[float, float], columns: int, refused: bool
) -> None:
    transform = Wandering(before, after, columns)
    if refused:
        with pytest.raises(InputError, match="crop changes between calls; expected a deterministic one"):
            measure(transform, (16, 64))
        return
    left, _, right, _ = measured_edges(transform, (16, 64))
    assert (left, right) == pytest.approx(after, abs=0.3)


def wavy(strength: float) -> Transform:
    """Grey is darker and brighter from pixel to pixel; black and white are not."""

    def transform(photo: Image.Image) -> Tensor:
        x = plain(photo)
        return x + strength * CHECKS * 4 * x * (1 - x)

    return transform


CHECKS = 2.0 * ((torch.arange(64)[:, None] + torch.arange(64)) % 2) - 1


def test_a_line_of_the_input_may_differ_by_a_fiftieth() -> None:
    assert measured_edges(wavy(0.015), (64, 64)) == pytest.approx((0, 0, 64, 64), abs=0.1)
    with pytest.raises(InputError, match="rotates or distorts the photo"):
        measure(wavy(0.03), (64, 64))


def test_a_border_that_repeats_the_photo_s_last_pixel_has_no_place() -> None:
    transform = lambda photo: torch.nn.functional.pad(plain(photo), (9, 4, 0, 6), mode="replicate")  # noqa: E731
    assert measured_edges(transform, (30, 40)) == pytest.approx((-9, 0, 44, 36), abs=0.1)


def test_a_border_may_have_a_brightness_of_its_own_for_each_photo() -> None:
    def transform(photo: Image.Image) -> Tensor:
        x = plain(photo)
        return torch.nn.functional.pad(x, (4, 0), value=float(x.std()))  # 0 for black and for white

    assert measured_edges(transform, (30, 40)) == pytest.approx((-4, 0, 40, 30), abs=0.1)


def test_two_readings_are_enough_and_one_is_not() -> None:
    assert measured_edges(cut((6, 4, 54, 36), (2, 2)), (40, 60)) == pytest.approx((6, 4, 54, 36), abs=2)
    assert measured_edges(cut((6, 4, 54, 36), (1, 1)), (40, 60)) == (0, 0, 60, 40)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_one_pixel_that_is_no_number_is_one_too_many(value: float) -> None:
    def transform(photo: Image.Image) -> Tensor:
        x = plain(photo)
        x[1, 5, 5] = value
        return x

    with pytest.raises(InputError, match="gives NaN or Inf for a uniform photo"):
        measure(transform, (40, 40))


# Photos that are too small for a ramp


@pytest.mark.parametrize("photo_hw", [(1, 1), (2, 3), (3, 2), (3, 40)])
def test_a_photo_of_a_few_pixels_fills_what_is_not_padding(photo_hw: tuple[int, int]) -> None:
    height, width = photo_hw
    grown = lambda photo: plain(photo.resize((8, 12), Image.Resampling.NEAREST))  # noqa: E731
    assert measured_edges(grown, photo_hw) == pytest.approx((0, 0, width, height), abs=0.3)
    padded = lambda photo: torch.nn.functional.pad(grown(photo), (2, 6, 3, 0))  # noqa: E731
    expected = (-2 * width / 8, -3 * height / 12, width + 6 * width / 8, height)
    assert measured_edges(padded, photo_hw) == pytest.approx(expected, abs=0.3)


def test_a_crop_is_seen_from_four_pixels_on() -> None:
    def right(photo: Image.Image) -> Tensor:
        return plain(photo.resize((8, 8), Image.Resampling.NEAREST, box=(1, 0, photo.width, photo.height)))

    assert measured_edges(right, (3, 3)) == (0, 0, 3, 3)
    assert measured_edges(right, (4, 4)) == pytest.approx((1, 0, 4, 4), abs=0.5)
