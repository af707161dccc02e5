"""What the references share: activations and gradients along plain steps, bilinear upsampling in loops."""

from __future__ import annotations

import functools
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


def layer_output(net: Toy, x: Tensor) -> Tensor:
    """A (1, C, h, w) of one image (1, 3, H, W)."""
    return run(net.split()[0], x).detach()


def score(net: Toy, x: Tensor, c: int) -> float:
    return run(net.program(), x).detach()[0, c].item()


def score_behind(net: Toy, activations: Tensor, c: int) -> float:
    """y^c when the target layer gives ``activations`` (1, C, h, w)."""
    return run(net.split()[1], activations).detach()[0, c].item()


@functools.cache
def _interpolation(length: int, wanted: int) -> Tensor:
    """(wanted, length): which two source pixels each wanted pixel lies between, and how near to each."""
    weights = torch.zeros(wanted, length, dtype=torch.float64)
    for i in range(wanted):
        at = max((i + 0.5) * length / wanted - 0.5, 0.0)
        low = min(math.floor(at), length - 1)
        high = min(low + 1, length - 1)
        weights[i, low] += 1 - (at - low)
        weights[i, high] += at - low
    return weights


def upsample(m: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, ``align_corners=False``: pixel centres at i + 0.5, clamped at the border; rows, then columns."""
    return _interpolation(m.shape[0], height) @ m @ _interpolation(m.shape[1], width).T


def each(
    reference: Callable[..., Tensor], net: Toy, images: Tensor, classes: Tensor, **options: object
) -> Tensor:
    """The reference for every image and class, one at a time: classes (N, K) -> (N, K, ...)."""
    rows = []
    for n in range(len(images)):
        rows.append(torch.stack([reference(net, images[n : n + 1], int(c), **options) for c in classes[n]]))
    return torch.stack(rows).detach()
