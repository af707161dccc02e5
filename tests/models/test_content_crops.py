"""A transform must show of each photo the part that it shows of others of its size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
import torchvision.transforms.functional as T
from torch import Tensor

from sightline.errors import InputError
from sightline.models.preprocess import Preprocess

Photo = PIL.Image.Image


def photo(border: bool, size_hw: tuple[int, int] = (120, 200), seed: int = 0) -> Photo:
    """Noise; with a border, black above and to the left of it."""
    pixels = np.random.default_rng(seed).integers(1, 256, (*size_hw, 3), dtype=np.uint8)
    if border:
        pixels[:40] = 0
        pixels[:, :80] = 0
    return PIL.Image.fromarray(pixels)


def trimmed(photo: Photo) -> Tensor:
    return T.to_tensor(photo.crop(photo.getbbox()).resize((96, 96)))


def brightest(photo: Photo) -> Tensor:
    """The half that is brighter."""
    pixels = np.asarray(photo)
    half = photo.width // 2
    left = pixels[:, :half].mean() > pixels[:, half:].mean()
    return T.to_tensor(
        photo.crop((0, 0, half, photo.height) if left else (half, 0, photo.width, photo.height))
    )


def test_a_crop_by_content_is_refused_for_the_photo_that_it_crops() -> None:
    preprocess = Preprocess.from_transform(trimmed)
    _, geometry = preprocess.prepare(photo(border=False))
    assert geometry.shown_xyxy == (0, 0, 200, 120)
    with pytest.raises(
        InputError, match=r"another part of this photo than of others of 200 × 120 pixels: it crops"
    ):
        preprocess.prepare(photo(border=True))


def test_a_photo_of_which_one_half_is_shown_is_never_taken_for_the_other() -> None:
    def prepared() -> None:
        preprocess = Preprocess.from_transform(brightest)
        for number in range(8):
            preprocess.prepare(photo(border=False, seed=number))

    with pytest.raises(InputError):
        prepared()


def letterboxed(photo: Photo) -> Tensor:
    return T.to_tensor(PIL.ImageOps.pad(photo, (96, 96)))


def standardised(photo: Photo) -> Tensor:
    pixels = T.to_tensor(photo.resize((96, 96)))
    return (pixels - pixels.mean()) / (pixels.std() + 1e-6)


@pytest.mark.parametrize(
    "transform",
    [
        letterboxed,
        standardised,
        lambda photo: T.to_tensor(PIL.ImageOps.autocontrast(photo).resize((96, 96))),
        lambda photo: T.to_tensor(PIL.ImageOps.equalize(photo).resize((96, 96))),
        lambda photo: T.to_tensor(photo.crop((30, 20, 130, 120)).resize((96, 96))),
        lambda photo: 1 - T.to_tensor(photo.resize((64, 48))),
    ],
)
def test_fixed_crops_borders_and_changes_of_all_values_are_taken(
    transform: Callable[[Photo], Tensor],
) -> None:
    preprocess = Preprocess.from_transform(transform)
    smooth = PIL.Image.fromarray(np.linspace(0, 255, 120 * 200 * 3).reshape(120, 200, 3).astype(np.uint8))
    for shown in (photo(border=False), photo(border=True), smooth, PIL.Image.new("RGB", (200, 120), "grey")):
        tensor, geometry = preprocess.prepare(shown)
        assert torch.isfinite(tensor).all()
        assert geometry.photo_hw == (120, 200)
