"""Zeiler & Fergus 2014: a window of zeros slides along; a pixel gets the mean drop of its windows."""

from __future__ import annotations

import torch
from torch import Tensor

from references.plain import score
from toynets import Toy


def positions(length: int, window: int, stride: int) -> list[int]:
    """0, stride, 2·stride, … and, where these leave a rest, one more window flush with the far edge."""
    starts = list(range(0, length - window + 1, stride))
    if starts[-1] + window < length:
        starts.append(length - window)
    return starts


def occlusion(net: Toy, x: Tensor, c: int, window: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    _, _, height, width = x.shape
    whole = score(net, x, c)
    drops = torch.zeros(height, width, dtype=x.dtype)
    count = torch.zeros(height, width, dtype=x.dtype)
    for top in positions(height, window[0], stride[0]):
        for left in positions(width, window[1], stride[1]):
            masked = x.clone()
            for i in range(top, top + window[0]):
                for j in range(left, left + window[1]):
                    masked[0, :, i, j] = 0
            drop = whole - score(net, masked, c)
            drops[top : top + window[0], left : left + window[1]] += drop
            count[top : top + window[0], left : left + window[1]] += 1
    return drops / count
