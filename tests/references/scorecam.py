"""Wang et al. 2020 (Score-CAM) and Ramaswamy & Desai 2020 (Ablation-CAM), one channel at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from references.plain import layer_output, score, score_behind, upsample
from toynets import Toy


def scorecam(net: Toy, x: Tensor, c: int, channels: int | None = None) -> Tensor:
    """H_k = min-max(up(A^k)); α = softmax_k y^c(x ⊙ H_k); ReLU(Σ α_k A^k). Constant channels take no part."""
    a = layer_output(net, x)[0]
    chosen = list(range(len(a)))
    if channels is not None:
        chosen.sort(key=lambda k: -float(a[k].std()))
        chosen = chosen[:channels]
    scores = {}
    for k in chosen:
        mask = upsample(a[k], *x.shape[2:])
        if mask.max() == mask.min():
            continue
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        scores[k] = score(net, x * mask, c)
    total = torch.zeros_like(a[0])
    for k, s in scores.items():
        total = total + a[k] / sum(math.exp(other - s) for other in scores.values())
    return total.clamp(min=0)


def ablationcam(net: Toy, x: Tensor, c: int, nwc: bool = False) -> Tensor:
    """w_k = (y^c - y^c with A^k = 0) / |y^c|; ReLU(Σ w_k A^k)."""
    activations = layer_output(net, x)
    whole = score_behind(net, activations, c)
    total = torch.zeros_like(activations[0, 0])
    for k in range(activations.shape[1]):
        without = activations.clone()
        without[0, k] = 0
        weight = (whole - score_behind(net, without, c)) / abs(whole)
        total = total + (max(weight, 0.0) if nwc else weight) * activations[0, k]
    return total.clamp(min=0)
