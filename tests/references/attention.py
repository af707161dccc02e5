"""Rollout and Chefer et al.'s relevance of given attention maps, one entry at a time, from their papers."""

from __future__ import annotations

import torch
from torch import Tensor


def matmul(a: Tensor, b: Tensor) -> Tensor:
    size = len(a)
    rows = [[sum(float(a[i, k] * b[k, j]) for k in range(size)) for j in range(size)] for i in range(size)]
    return torch.tensor(rows, dtype=a.dtype)


def rollout(maps: list[Tensor]) -> Tensor:
    """Abnar & Zuidema 2020: Ã_l = (I + mean of the heads), rows over their sums; R_l = Ã_l R_{l-1}."""
    total = torch.eye(maps[0].shape[-1], dtype=maps[0].dtype)
    for heads in maps:  # (heads, T, T)
        mean = sum(heads) / len(heads)
        step = mean + torch.eye(len(mean), dtype=mean.dtype)
        for i in range(len(step)):
            step[i] = step[i] / float(step[i].sum())
        total = matmul(step, total)
    return total


def weighted(maps: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """ReLU(A ⊙ ∂y/∂A) of each head."""
    return [(a * g).clamp(min=0) for a, g in zip(maps, gradients, strict=True)]


def chefer(maps: list[Tensor]) -> Tensor:
    """Chefer et al., ICCV 2021: R ← R + mean of the heads · R; ``maps`` as `weighted` gives them."""
    total = torch.eye(maps[0].shape[-1], dtype=maps[0].dtype)
    for heads in maps:
        total = total + matmul(sum(heads) / len(heads), total)
    return total


def legrad(gradients: list[Tensor]) -> Tensor:
    """Bousselham et al., ICCV 2025: the sum over blocks of the mean of ReLU(∂s_l/∂A_l) over heads and queries: (T,)."""
    size = gradients[0].shape[-1]
    total = [0.0] * size
    for slopes in gradients:  # (heads, T, T)
        for key in range(size):
            for head in slopes:
                total[key] += sum(max(float(head[query, key]), 0.0) for query in range(size)) / (
                    len(slopes) * size
                )
    return torch.tensor(total, dtype=gradients[0].dtype)
