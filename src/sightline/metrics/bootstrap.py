"""95 % bootstrap intervals over images, for a score and for the difference of two."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.errors import InputError

Array = NDArray[Any]

CHUNK = 8_000_000  # numbers drawn at once


class Interval(NamedTuple):
    """A score and the ends of its interval."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    per_image: ArrayLike, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """The percentile interval of a score over images (Efron 1979), resampled with replacement.

    ``per_image`` (N,): the score is the mean. (N, T), hits at T thresholds: the maximum over T of the mean,
    as in MaxBoxAcc, so that the choice of threshold is resampled too. (N, D, T): the mean over D of that, as in
    MaxBoxAccV2. Raises `InputError` for no images.

    >>> bootstrap_interval([1.0, 1.0, 1.0])
    Interval(value=1.0, low=1.0, high=1.0)
    """
    values = _checked(per_image)
    means = _resampled_means(values, resamples, seed)
    return _interval(float(_score(values.mean(0)[None])[0]), _score(means), confidence)


def paired_difference(
    a: ArrayLike, b: ArrayLike, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """The interval of score(a) - score(b), both measured on the same images in the same order.

    Each resample draws the same images for both, so the difficulty of an image cancels in the difference.
    Shapes as in `bootstrap_interval`. Raises `InputError` if the numbers of images differ.

    >>> paired_difference([1, 0, 1, 1], [0, 0, 1, 1], resamples=100).value
    0.25
    """
    first, second = _checked(a), _checked(b)
    if len(first) != len(second):
        raise InputError(f"{len(first)} and {len(second)} images; a paired difference needs the same images")
    scores = [_score(_resampled_means(values, resamples, seed)) for values in (first, second)]
    value = float(_score(first.mean(0)[None])[0] - _score(second.mean(0)[None])[0])
    return _interval(value, scores[0] - scores[1], confidence)


def _checked(per_image: ArrayLike) -> Array:
    values = np.asarray(per_image)
    if values.ndim not in (1, 2, 3) or len(values) == 0:
        raise InputError(
            f"per-image scores have shape {values.shape}; expected (N,), (N, T) or (N, D, T), N > 0"
        )
    return values.astype(np.float32) if values.dtype == np.bool_ else values.astype(np.float64)


def _resampled_means(values: Array, resamples: int, seed: int) -> Array:
    """(resamples, ...): the mean over each draw of N images; the same seed gives the same draws."""
    rng = np.random.default_rng(seed)
    images = len(values)
    flat = values.reshape(images, -1)
    step = max(1, CHUNK // images)
    means = []
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, images, (rows, images)) + images * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)
        means.append(times.astype(flat.dtype) @ flat / images)
    return np.concatenate(means).reshape(resamples, *values.shape[1:])


def _score(means: Array) -> Array:
    """(R,), (R, T) or (R, D, T) -> (R,)."""
    best = means if means.ndim == 1 else means.max(-1)
    scores: Array = best if best.ndim == 1 else best.mean(-1)
    return scores


def _interval(value: float, scores: Array, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(scores.astype(np.float64), [tail, 1 - tail])
    return Interval(value, float(low), float(high))
