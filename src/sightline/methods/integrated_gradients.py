"""Integrated gradients."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sightline.engine import Evidence
from sightline.methods.registry import register_method
from sightline.options import Count
from sightline.targets import Target


@register_method(
    "integrated_gradients", paper="Sundararajan et al., ICML 2017", needs=("input_gradient",), signed=True
)
def integrated_gradients(
    evidence: Evidence, target: Target, *, steps: Count = 32, baseline: float = 0.0
) -> Tensor:
    """(x − x₀) ⊙ ∫₀¹ ∂y^c/∂x (x₀ + t(x − x₀)) dt, by Gauss–Legendre quadrature with 32 points.

    The baseline x₀ is 0 after normalisation (the data set's mean colour). Completeness: the values sum to
    y^c(x) − y^c(x₀). The map is the channel-wise maximum of the magnitude. Returns (N, 3, H, W).

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    >>> e = sightline.explain(net, torch.rand(1, 3, 8, 8), method="integrated_gradients", classes=0)
    >>> bool(torch.isclose(e.signed.sum(), e.logits[0, 0] - net[1].bias[0], atol=1e-5))
    True
    """
    images = evidence.images.detach()
    difference = images - baseline
    points, weights = np.polynomial.legendre.leggauss(steps)
    total = torch.zeros_like(images)
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        total += weight * evidence.at(baseline + float(point) * difference).input_gradient(target)
    return difference * total
