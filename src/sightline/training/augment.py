"""Augmentation as a pure function: the same seed, epoch and photo give the same pixels in every process."""

from __future__ import annotations

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.training.recipe import AugmentOptions

Box = tuple[float, float, float, float]
GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601 luma


def random_box(rng: np.random.Generator, size_hw: tuple[int, int], scale: list[float]) -> Box:
    """A random crop (x0, y0, x1, y1): share of the area drawn from ``scale``, aspect 3/4 to 4/3.

    >>> random_box(np.random.default_rng(0), (64, 64), [1.0, 1.0])[2] <= 64
    True
    """
    height, width = size_hw
    area = rng.uniform(scale[0], scale[1]) * height * width
    aspect = float(np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3))))
    w, h = min(float(np.sqrt(area * aspect)), width), min(float(np.sqrt(area / aspect)), height)
    x0, y0 = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return x0, y0, x0 + w, y0 + h


def jitter_colours(pixels: NDArray[np.float32], factors: NDArray[np.float64]) -> NDArray[np.float32]:
    """Scale brightness, contrast and saturation of (H, W, 3) pixels in [0, 1] by three factors.

    >>> jitter_colours(np.full((1, 1, 3), 0.5, np.float32), np.array([1.2, 1.0, 0.5])).tolist()
    [[[0.6, 0.6, 0.6]]]
    """
    brightness, contrast, saturation = factors.astype(np.float32)
    pixels = pixels * brightness
    pixels = pixels * contrast + (1 - contrast) * (pixels @ GREY).mean()
    pixels = pixels * saturation + (1 - saturation) * (pixels @ GREY)[..., None]
    clipped: NDArray[np.float32] = pixels.clip(0, 1)
    return clipped


def augment(photo: PIL.Image.Image, side: int, options: AugmentOptions, key: tuple[int, int, int]) -> Tensor:
    """A random resized crop, a flip and a colour jitter: float (3, side, side) in [0, 1].

    ``key`` is (seed, epoch, index of the photo) and determines the result.

    >>> white = PIL.Image.new("RGB", (64, 48), "white")
    >>> a, b = (augment(white, 8, AugmentOptions(), (0, 3, 7)) for _ in range(2))
    >>> bool((a == b).all()), a.shape
    (True, torch.Size([3, 8, 8]))
    """
    rng = np.random.default_rng(key)
    box = random_box(rng, (photo.height, photo.width), options.scale)
    cut = photo.resize((side, side), PIL.Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(cut, dtype=np.float32) / np.float32(255)
    if rng.random() < options.flip:
        pixels = pixels[:, ::-1]
    if options.jitter or options.grey:
        factors = 1 + options.jitter * rng.uniform(-1, 1, 3)
        if options.grey and rng.random() < options.grey:
            factors[2] = 0.0
        pixels = jitter_colours(pixels, factors)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def cutmix(images: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Paste one rectangle of each image's neighbour into it (Yun et al., ICCV 2019, with λ ~ U(0, 1)).

    (N, 3, H, W) -> the mixed images, and the share of pixels that are still the image's own; the rest come from
    ``images.roll(1, 0)``.

    >>> mixed, own = cutmix(torch.arange(2.).reshape(2, 1, 1, 1).expand(2, 3, 8, 8), np.random.default_rng(1))
    >>> bool((mixed[0] == 0).float().mean() == own)
    True
    """
    height, width = images.shape[-2:]
    side = float(np.sqrt(1 - rng.uniform()))
    centre_y, centre_x = rng.uniform(0, height), rng.uniform(0, width)
    y0, y1 = (int(np.clip(centre_y + s * side * height / 2, 0, height)) for s in (-1, 1))
    x0, x1 = (int(np.clip(centre_x + s * side * width / 2, 0, width)) for s in (-1, 1))
    mixed = images.clone()
    mixed[..., y0:y1, x0:x1] = images.roll(1, 0)[..., y0:y1, x0:x1]
    return mixed, 1 - (y1 - y0) * (x1 - x0) / (height * width)
