"""A random walk on likeness, one place at a time."""

from __future__ import annotations

import math

from torch import Tensor


def walk(maps: Tensor, features: Tensor, power: float, steps: int) -> Tensor:
    """m_i ← Σ_j a_ij m_j, a_ij = max(0, cos(f_i, f_j))^power over its row's sum; a place without features stays."""
    n, k, h, w = maps.shape
    found = maps.flatten(2).clone()
    for image in range(n):
        f = features[image].flatten(1).T.tolist()
        lengths = [math.sqrt(sum(v * v for v in place)) for place in f]
        for _ in range(steps):
            before = found[image].clone()
            for i, own in enumerate(f):
                if lengths[i] == 0:
                    likeness = [float(i == j) for j in range(len(f))]
                else:
                    cosines = [
                        sum(a * b for a, b in zip(own, other, strict=True)) / (lengths[i] * lengths[j])
                        if lengths[j]
                        else 0.0
                        for j, other in enumerate(f)
                    ]
                    likeness = [max(c, 0.0) ** power for c in cosines]
                for row in range(k):
                    mean = sum(a * float(m) for a, m in zip(likeness, before[row], strict=True)) / sum(
                        likeness
                    )
                    found[image, row, i] = mean
    return found.view(n, k, h, w)
