"""How a heatmap spreads its heat: Gini index, entropy, and the share on the border."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sightline.errors import InputError

BORDER = 0.05  # of the side, on every side


def gini(heatmaps: Tensor) -> Tensor:
    """The Gini index of each map (Chalasani et al., ICML 2020): 0 for even heat, near 1 for one hot pixel; (N,).

    G = 1 − 2 Σ_k (v_(k) / Σ v) · (d − k + 1/2) / d over the d values in ascending order. heatmaps (N, H, W) ≥ 0; a
    map without a positive value gives NaN.

    >>> gini(torch.tensor([[[1.0, 1.0]], [[0.0, 1.0]]]))
    tensor([0.0000, 0.5000])
    """
    values = _values(heatmaps).sort(1).values
    d = values.shape[1]
    weight = (d - torch.arange(1, d + 1, device=values.device, dtype=values.dtype) + 0.5) / d
    return 1 - 2 * (values * weight).sum(1) / values.sum(1)


def entropy(heatmaps: Tensor) -> Tensor:
    """The entropy of the heat, as a share of that of even heat: − Σ p log p / log d, p = v / Σ v; (N,) in [0, 1].

    heatmaps (N, H, W) ≥ 0; a map without a positive value gives NaN.

    >>> entropy(torch.tensor([[[1.0, 1.0]], [[0.0, 1.0]]]))
    tensor([1., 0.])
    """
    values = _values(heatmaps)
    share = values / values.sum(1, keepdim=True)
    spread: Tensor = torch.special.entr(share)
    return spread.sum(1) / math.log(values.shape[1])


def border_share(heatmaps: Tensor, border: float = BORDER) -> Tensor:
    """The share of the heat in a frame of ``border`` times the side, at least one pixel: (N,); NaN without heat.

    A frame of 5 % covers 19 % of the area: so much heat lies there if it is even.

    >>> border_share(torch.ones(1, 20, 20))
    tensor([0.1900])
    """
    values = _values(heatmaps).view_as(heatmaps)
    height, width = heatmaps.shape[1:]
    rows, columns = max(round(border * height), 1), max(round(border * width), 1)
    inner = values[:, rows : height - rows, columns : width - columns]
    return 1 - inner.sum((1, 2)) / values.sum((1, 2))


def _values(heatmaps: Tensor) -> Tensor:
    if heatmaps.ndim != 3:
        raise InputError(f"heatmaps have shape {tuple(heatmaps.shape)}; expected (N, H, W)")
    return heatmaps.float().clamp(min=0).flatten(1)
