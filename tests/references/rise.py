"""Petsiuk et al. 2018: (1 / (N p)) Σ_m softmax(y(x ⊙ m))_c · m, for masks that are given."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from toynets import Toy, run


def rise(net: Toy, x: Tensor, c: int, masks: Tensor, p: float = 0.5) -> Tensor:
    """``masks`` (M, H, W); x (1, 3, H, W)."""
    total = torch.zeros_like(masks[0])
    for mask in masks:
        logits = run(net.program(), x * mask)[0].tolist()
        probability = 1 / sum(math.exp(other - logits[c]) for other in logits)
        total = total + probability * mask
    return total / (len(masks) * p)
