"""Maps of every kind that a threshold sweep can stumble over, made from a seed."""

from __future__ import annotations

import cv2
import numpy as np

KINDS = ("smooth", "noise", "plateaus", "few values", "specks", "rings", "objects", "one pixel", "constant")


def make(kind, rng, height, width):
    """A raw float64 map (height, width), of any range."""
    noise = rng.standard_normal((height, width))
    if kind == "smooth":
        return cv2.GaussianBlur(noise, (0, 0), rng.uniform(1, max(1.5, width / 12)))
    if kind == "noise":
        return noise
    if kind == "plateaus":
        return np.round(cv2.GaussianBlur(noise, (0, 0), 2) * rng.integers(3, 12))
    if kind == "few values":
        return rng.integers(0, rng.integers(2, 6), (height, width)).astype(float)
    if kind == "specks":
        return (rng.random((height, width)) < 0.05) * rng.random((height, width))
    if kind == "rings":
        return _rings(rng, height, width)
    if kind == "objects":
        return _objects(rng, height, width)
    single = np.zeros((height, width))
    if kind == "one pixel":
        single[rng.integers(height), rng.integers(width)] = rng.uniform(0.1, 5)
    return single


def _rings(rng, height, width):
    """Waves around a few centres: holes in holes, islands in holes."""
    y, x = np.mgrid[:height, :width]
    waves = np.zeros((height, width))
    for _ in range(rng.integers(1, 4)):
        distance = np.hypot(y - rng.uniform(0, height), x - rng.uniform(0, width))
        waves += np.cos(distance * rng.uniform(0.2, 1.2)) / (1 + distance / width)
    return waves


def _objects(rng, height, width):
    """Ellipses of different heights, some alike (ties), over a weak ground."""
    y, x = np.mgrid[:height, :width]
    ground = 0.05 * rng.random((height, width))
    for _ in range(rng.integers(1, 6)):
        ry, rx = rng.uniform(1, height / 4 + 1), rng.uniform(1, width / 4 + 1)
        inside = ((y - rng.uniform(0, height)) / ry) ** 2 + ((x - rng.uniform(0, width)) / rx) ** 2 < 1
        ground[inside] = rng.choice([0.4, 0.7, 1.0])
    return ground


def eight_bit(raw, top=255):
    """A raw map scaled to 0 … top by its minimum and maximum, truncated."""
    spread = raw.max() - raw.min()
    return ((raw - raw.min()) / (spread or 1) * top).astype(np.uint8)


def boxes(rng, height, width):
    """One to three half-open integer boxes (B, 4) inside."""
    count = rng.integers(1, 4)
    x0, y0 = rng.integers(0, width, count), rng.integers(0, height, count)
    x1 = np.minimum(x0 + 1 + rng.integers(0, width, count), width)
    y1 = np.minimum(y0 + 1 + rng.integers(0, height, count), height)
    return np.stack([x0, y0, x1, y1], 1).astype(float)
