"""A transform that scales each photo by that photo's own values: what two-toned photos tell of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sightline.errors import InputError
from sightline.inspection.transform import measure

Transform = Callable[[Image.Image], Tensor]
CHECKS = 2.0 * ((torch.arange(64)[:, None] + torch.arange(64)) % 2) - 1


def plain(photo: Image.Image) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.asarray(photo).copy()).movedim(-1, 0).float() / 255


def cut(box_xyxy: tuple[float, float, float, float], size_wh: tuple[int, int]) -> Transform:
    """A rectangle of the photo, to a fraction of a pixel, resized."""
    return lambda photo: plain(photo.resize(size_wh, Image.Resampling.BILINEAR, box=box_xyxy))


def own_scale(x: Tensor) -> Tensor:
    return (x - x.mean()) / x.std()


def measured_edges(transform: Transform, photo_hw: tuple[int, int]) -> tuple[float, ...]:
    return measure(transform, photo_hw).geometry.shown_xyxy


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((0, 0, 60, 40), (60, 40)),
        ((6, 4, 60, 40), (54, 36)),
        ((0, 0, 54, 36), (54, 36)),
        ((10, 5, 50, 35), (80, 60)),
    ],
)
def test_the_rectangle_where_each_photo_has_its_own_scale(
    box: tuple[int, ...], size: tuple[int, int]
) -> None:
    shown = cut(box, size)  # type: ignore[arg-type]
    found = measure(lambda photo: own_scale(shown(photo)), (40, 60))
    assert found.per_image
    assert (found.mean, found.std) == ((0, 0, 0), (1, 1, 1))
    assert (found.geometry.photo_hw, found.geometry.input_hw) == ((40, 60), (size[1], size[0]))
    assert found.geometry.shown_xyxy == pytest.approx(box, abs=0.5)
    assert [
        edge for edge, true in zip(found.geometry.shown_xyxy, box, strict=True) if true in (0, 40, 60)
    ] == [true for true in box if true in (0, 40, 60)]


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (lambda x: x.flip(2), "gives NaN or Inf for a uniform photo"),  # white up to a place: nothing is read
        (lambda x: x.flip(1), "gives NaN or Inf for a uniform photo"),
        (
            lambda x: x[:, : 48 if x[0, 0, -1] > 0 else 64],
            "gives NaN or Inf for a uniform photo",
        ),  # two sizes
        (lambda x: torch.nn.functional.pad(x, (20, 0)), "rotates, distorts or pads the photo"),
        (lambda x: torch.cat([x[:, :, :20], x[:, :, 36:]], 2), "mirrors, rotates or distorts the photo"),
        (
            lambda x: torch.stack([x[:, i].roll(i // 8, 1) for i in range(64)], 1),
            "distorts or pads the photo",
        ),
    ],
)
def test_what_is_no_rectangle_is_refused_where_each_photo_has_its_own_scale(
    turn: Callable[[Tensor], Tensor], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        measure(lambda photo: own_scale(turn(plain(photo))), (64, 64))


def centred(x: Tensor) -> Tensor:
    return x - x.mean()


@pytest.mark.parametrize(
    ("rows", "seen"),
    [
        ((16, 35), True),  # 20 and 30 are the tenths inside, 4 pixels or more from either end
        ((17, 35), False),
        ((14, 34), True),
        ((14, 33), False),
        ((25, 36), False),
        ((0, 100), True),
    ],
)
def test_two_edges_a_few_pixels_inside_tell_a_crop(rows: tuple[int, int], seen: bool) -> None:
    transform = lambda photo: centred(plain(photo)[:, rows[0] : rows[1]])  # noqa: E731
    if seen:
        assert measured_edges(transform, (100, 40)) == pytest.approx((0, rows[0], 40, rows[1]))
        return
    with pytest.raises(InputError, match="maps black and white photos to the same values"):
        measure(transform, (100, 40))


@pytest.mark.parametrize(("offset", "snaps"), [(0.5, True), (1.1, False)])
def test_less_than_a_fifth_of_an_input_pixel_is_no_crop_there(offset: float, snaps: bool) -> None:
    """Four pixels of the photo for each of the input."""
    shown = cut((offset, offset, 160 - offset, 120 - offset), (40, 30))
    edges = measured_edges(lambda photo: centred(shown(photo)), (120, 160))
    assert [edge == whole for edge, whole in zip(edges, (0, 0, 160, 120), strict=True)] == [snaps] * 4


@pytest.mark.parametrize(("columns", "refused"), [(3, False), (5, True), (24, True)])
def test_a_photo_of_which_a_little_is_left_out_there(columns: int, refused: bool) -> None:
    def transform(photo: Image.Image) -> Tensor:
        x = plain(photo)
        return centred(torch.cat([x[:, :, :50], x[:, :, 50 + columns :]], 2))

    if not refused:
        assert measured_edges(transform, (40, 100)) == pytest.approx((0, 0, 100, 40), abs=2)
        return
    with pytest.raises(InputError, match="mirrors, rotates or distorts the photo"):
        measure(transform, (40, 100))


def sharpened(x: Tensor, strength: float) -> Tensor:
    """Overshoots by a third of ``strength`` at an edge."""
    for axis in (1, 2):
        ends = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
        wide = torch.cat([ends[0], x, ends[1]], axis)
        size = x.shape[axis]
        x = x + strength * (x - sum(wide.narrow(axis, i, size) for i in range(3)) / 3)
    return x


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (lambda x: sharpened(x, 0.4), False),
        (lambda x: sharpened(x, 0.9).clamp(max=1), True),
        (lambda x: sharpened(x, 0.9).clamp(min=0), True),
        (lambda x: 50 * (x + 0.012 * CHECKS), False),
        (lambda x: 50 * (x + 0.03 * CHECKS), True),
        (
            lambda x: torch.stack([x[:, i, (torch.arange(64) - i // 16).clamp(min=0)] for i in range(64)], 1),
            True,
        ),
    ],
    ids=["sharp", "too dark", "too bright", "texture", "strong texture", "sheared"],
)
def test_an_edge_is_straight_and_overshoots_by_a_fifth_at_most(
    change: Callable[[Tensor], Tensor], refused: bool
) -> None:
    transform = lambda photo: centred(change(plain(photo))) * (plain(photo).std() > 0)  # noqa: E731
    if not refused:
        assert measured_edges(transform, (64, 64)) == pytest.approx((0, 0, 64, 64), abs=0.5)
        return
    with pytest.raises(InputError, match="rotates, distorts or pads the photo"):
        measure(transform, (64, 64))
