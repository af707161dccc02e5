"""What the references share: activations and gradients along plain steps, bilinear upsampling in loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from toynets import Step, Toy, run


def gradient(steps: list[Step], at: Tensor, c: int) -> Tensor:
    """∂y^c/∂A (C, h, w) for one image: ``at`` is (1, C, h, w), ``steps`` lead from it to the logits."""
    leaf = at.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        run(steps, leaf)[0, c].backward()
    assert leaf.grad is not None
    return leaf.grad[0].detach()


def layer_and_gradient(net: Toy, x: Tensor, c: int, layer: str | None = None) -> tuple[Tensor, Tensor]:
    """A (C, h, w) and g (C, h, w) of one image (1, 3, H, W)."""
    before, after = net.split(layer)
    activations = run(before, x).detach()
    return activations[0], gradient(after, activations, c)


def score(net: Toy, x: Tensor, c: int) -> float:
    return float(run(net.program(), x)[0, c])


def upsample(m: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, ``align_corners=False``: pixel centres at i + 0.5, clamped at the border; pixel by pixel."""
    h, w = m.shape
    out = torch.zeros(height, width, dtype=m.dtype)
    for i in range(height):
        for j in range(width):
            y = max((i + 0.5) * h / height - 0.5, 0.0)
            x = max((j + 0.5) * w / width - 0.5, 0.0)
            y0, x0 = min(math.floor(y), h - 1), min(math.floor(x), w - 1)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            fy, fx = y - y0, x - x0
            top = m[y0, x0] * (1 - fx) + m[y0, x1] * fx
            bottom = m[y1, x0] * (1 - fx) + m[y1, x1] * fx
            out[i, j] = top * (1 - fy) + bottom * fy
    return out


def each(
    reference: Callable[..., Tensor], net: Toy, images: Tensor, classes: Tensor, **options: object
) -> Tensor:
    """The reference for every image and class, one at a time: classes (N, K) -> (N, K, ...)."""
    rows = []
    for n in range(len(images)):
        rows.append(torch.stack([reference(net, images[n : n + 1], int(c), **options) for c in classes[n]]))
    return torch.stack(rows).detach()
