"""Gradients at the image: saliency, integrated gradients, and the mean over given noisy images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from references.plain import gradient
from toynets import Toy


def input_gradient(net: Toy, x: Tensor, c: int) -> Tensor:
    """∂y^c/∂x (3, H, W)."""
    return gradient(net.program(), x, c)


def largest_magnitude(signed: Tensor) -> Tensor:
    """(3, H, W) -> (H, W): the maximum over the channels of the magnitude, one pixel at a time."""
    rows = [
        [max(map(abs, pixel)) for pixel in zip(*row, strict=True)]
        for row in zip(*signed.tolist(), strict=True)
    ]
    return torch.tensor(rows, dtype=signed.dtype)


def saliency(net: Toy, x: Tensor, c: int) -> Tensor:
    """Simonyan et al. 2014: max over channels of |∂y^c/∂x|."""
    return largest_magnitude(input_gradient(net, x, c))


def mean_gradient(net: Toy, noisy: Tensor, c: int) -> Tensor:
    """Smilkov et al. 2017: the mean of the gradients at the noisy images (S, 3, H, W)."""
    total = torch.zeros_like(noisy[0])
    for s in range(len(noisy)):
        total = total + input_gradient(net, noisy[s : s + 1], c)
    return total / len(noisy)


def integrated_gradients(net: Toy, x: Tensor, c: int, steps: int = 32) -> Tensor:
    """Sundararajan et al. 2017: x ⊙ ∫_0^1 ∂y^c(t x)/∂x dt from the baseline 0, Gauss-Legendre; (3, H, W)."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
    total = torch.zeros_like(x[0])
    for node, weight in zip(nodes, weights, strict=True):
        total = total + 0.5 * weight * input_gradient(net, (0.5 * node + 0.5) * x, c)
    return x[0] * total
