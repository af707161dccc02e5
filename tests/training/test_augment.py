"""Augmentation depends on seed, epoch and photo alone, and does what its name says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sightline.training.augment import augment, cutmix, jitter_colours, random_box
from sightline.training.recipe import AugmentOptions

PLAIN = AugmentOptions(scale=[1.0, 1.0], flip=0.0, jitter=0.0)


@pytest.fixture
def photo() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def test_the_same_key_gives_the_same_pixels_and_any_other_key_does_not(photo):
    options = AugmentOptions()
    first = augment(photo, 16, options, (1, 2, 3))
    assert torch.equal(first, augment(photo, 16, options, (1, 2, 3)))
    for key in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        assert not torch.equal(first, augment(photo, 16, options, key))


def test_global_random_state_neither_matters_nor_changes(photo):
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = augment(photo, 16, AugmentOptions(), (1, 2, 3))
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])
    np.random.seed(9)
    assert torch.equal(first, augment(photo, 16, AugmentOptions(), (1, 2, 3)))


def test_a_flip_is_a_flip():
    half = np.zeros((8, 8, 3), np.uint8)
    half[:, :4] = 255
    options = AugmentOptions(scale=[1.0, 1.0], flip=1.0, jitter=0.0)
    # The crop of a square photo is at most the whole width; aspect and place differ, the dark side does not.
    flipped = augment(Image.fromarray(half), 8, options, (0, 0, 0))
    plain = augment(Image.fromarray(half), 8, PLAIN, (0, 0, 0))
    assert torch.equal(flipped, plain.flip(-1))
    assert plain[0, 0, 0] == 1
    assert flipped[0, 0, 0] == 0


def test_crops_have_the_area_and_aspect_asked_for_and_stay_inside():
    rng = np.random.default_rng(0)
    for _ in range(200):
        x0, y0, x1, y1 = random_box(rng, (50, 50), [0.3, 0.5])
        assert 0 <= x0 < x1 <= 50
        assert 0 <= y0 < y1 <= 50
        assert 0.3 - 1e-9 <= (x1 - x0) * (y1 - y0) / 2500 <= 0.5 + 1e-9
        assert 3 / 4 - 1e-9 <= (x1 - x0) / (y1 - y0) <= 4 / 3 + 1e-9


def test_colours_by_hand():
    pixels = np.array([[[0.2, 0.4, 0.6], [0.0, 0.0, 0.0]]], np.float32)
    luma = 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6
    brighter = jitter_colours(pixels, np.array([2.0, 1.0, 1.0]))
    np.testing.assert_allclose(brighter[0, 0], [0.4, 0.8, 1.0], atol=1e-6)
    flat = jitter_colours(pixels, np.array([1.0, 0.0, 1.0]))
    np.testing.assert_allclose(flat, np.full((1, 2, 3), luma / 2), atol=1e-6)
    grey = jitter_colours(pixels, np.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(grey[0, 0], [luma] * 3, atol=1e-6)


def test_cutmix_mixes_a_rectangle_of_the_neighbour():
    images = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 20, 30)
    shares = []
    for seed in range(50):
        mixed, own = cutmix(images, np.random.default_rng(seed))
        for i in range(4):
            mine = mixed[i] == i
            assert torch.equal(~mine, mixed[i] == (i - 1) % 4)
            assert float(mine.float().mean()) == pytest.approx(own)
        rows, columns = torch.nonzero(mixed[1, 0] == 0, as_tuple=True)
        if len(rows):  # filled, hence a rectangle
            assert len(rows) == int((rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1))
        shares.append(own)
    assert min(shares) < 0.4
    assert max(shares) > 0.9
    assert torch.equal(images[1], torch.ones(3, 20, 30))  # the batch itself is left alone


def test_grey_photos_have_three_equal_channels(photo):
    options = AugmentOptions(grey=1.0)
    grey = augment(photo, 16, options, (0, 0, 0))
    torch.testing.assert_close(grey[0], grey[1])
    torch.testing.assert_close(grey[0], grey[2])
    coloured = [augment(photo, 16, AugmentOptions(grey=0.5), (0, 0, i)) for i in range(40)]
    count = sum(bool((image[0] - image[1]).abs().max() < 1e-6) for image in coloured)
    assert 10 <= count <= 30
