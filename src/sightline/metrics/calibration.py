"""Is a classifier as often right as it says? The expected calibration error and its bins."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sightline.errors import InputError

BINS = 15  # as Guo et al.


class Calibration(NamedTuple):
    """``error``: the ECE; per bin ``edges`` (B + 1,), ``counts`` (B,), ``confidence`` (B,) and ``accuracy`` (B,)."""

    error: float
    edges: Tensor
    counts: Tensor
    confidence: Tensor
    accuracy: Tensor


def calibration(confidence: Tensor, correct: Tensor, bins: int = BINS) -> Calibration:
    """The expected calibration error (Guo et al., ICML 2017): Σ_b n_b / N · |accuracy_b − confidence_b|.

    ``confidence`` (N,) is the highest probability of each image, ``correct`` (N,) whether that class is right; the bins
    are of equal width on [0, 1], each with its upper edge. Empty bins have NaN.

    >>> round(calibration(torch.tensor([0.9, 0.9]), torch.tensor([True, False])).error, 3)
    0.4
    """
    if confidence.shape != correct.shape or confidence.ndim != 1 or not len(confidence):
        raise InputError(
            f"confidence has shape {tuple(confidence.shape)} and correct {tuple(correct.shape)}; expected (N,) for both"
        )
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    place = torch.bucketize(confidence.double(), edges[1:-1])
    counts = torch.bincount(place, minlength=bins)
    mean = torch.bincount(place, confidence.double(), bins) / counts
    right = torch.bincount(place, correct.double(), bins) / counts
    error = ((counts / len(confidence)) * (right - mean).abs()).nansum()
    return Calibration(float(error), edges, counts, mean, right)
