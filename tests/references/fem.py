"""Fuad et al. 2020, position by position: k-sigma rule per channel, binary maps weighted by the channels' means."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from references.plain import layer_output
from toynets import Toy


def fem(net: Toy, x: Tensor, c: int, k: float = 2.0) -> Tensor:
    activations = layer_output(net, x)[0]
    channels, height, width = activations.shape
    out = torch.zeros(height, width, dtype=torch.float64)
    for one in range(channels):
        values = [float(v) for v in activations[one].flatten()]
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        if max(values) == min(values):
            continue
        for i in range(height):
            for j in range(width):
                if float(activations[one, i, j]) >= mean + k * spread:
                    out[i, j] += mean
    return out
