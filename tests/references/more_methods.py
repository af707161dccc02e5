"""Recipro-CAM, Finer-CAM, input × gradient and FullGrad, written from their papers, one position or bias at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from references.plain import gradient, layer_and_gradient, layer_output, score, score_behind, upsample
from toynets import CLASSES, Toy, run


def recipro_cam(net: Toy, x: Tensor, c: int, gaussian: bool = True) -> Tensor:
    """Byun & Lee 2022: y^c of A seen through a mask at each position, min-max."""
    a = layer_output(net, x)
    height, width = a.shape[2:]
    scores = torch.zeros(height, width, dtype=a.dtype)
    for i in range(height):
        for j in range(width):
            mask = torch.zeros(height, width, dtype=a.dtype)
            for y in range(height):
                for z in range(width):
                    down, across = abs(y - i), abs(z - j)
                    if gaussian and down <= 1 and across <= 1:
                        mask[y, z] = (0.5, 0.25)[down] * (0.5, 0.25)[across]  # 1/4, 1/8, 1/16
                    elif (down, across) == (0, 0):
                        mask[y, z] = 1
            scores[i, j] = score_behind(net, a * mask, c)
    return (scores - scores.min()) / (scores.max() - scores.min())


def finercam(net: Toy, x: Tensor, c: int, gamma: float = 0.6, n: int = 3, base: str = "gradcam") -> Tensor:
    """Zhang et al. 2025: the map of y^c - γ · mean of y^d, d the n classes whose scores are nearest to y^c."""
    scores = {d: score(net, x, d) for d in range(CLASSES)}
    others = sorted((d for d in scores if d != c), key=lambda d: abs(scores[d] - scores[c]))[:n]
    a, slope = layer_and_gradient(net, x, c)
    for d in others:
        slope = slope - gamma / len(others) * layer_and_gradient(net, x, d)[1]
    total = torch.zeros_like(a[0])
    for k in range(len(a)):
        weight = slope[k].mean() if base == "gradcam" else slope[k].clamp(min=0)
        total = total + weight * a[k]
    return total.clamp(min=0)


def input_x_gradient(net: Toy, x: Tensor, c: int) -> Tensor:
    """Shrikumar et al. 2016: x ⊙ ∂y^c/∂x (3, H, W)."""
    return x[0] * gradient(net.program(), x, c)


def bias_terms(net: Toy, x: Tensor, c: int) -> list[Tensor]:
    """g ⊙ b at the output of every step that has a bias, a batch norm's being b - m w/√(v + ε): (C, h, w) or (C,)."""
    terms = []
    steps, modules = net.program(), dict(net.named_modules())
    for at, step in enumerate(steps, 1):
        module = modules.get(step.name) if step.name and step.kind in ("conv", "norm", "head") else None
        if module is None or module.bias is None:
            continue
        bias = module.bias.detach()
        if isinstance(module, nn.BatchNorm2d):
            deviation = (module.running_var + module.eps).sqrt()
            bias = bias - module.running_mean * module.weight.detach() / deviation
        slope = gradient(steps[at:], run(steps[:at], x), c)
        terms.append(slope * bias.reshape(-1, *[1] * (slope.ndim - 1)))
    return terms


def fullgrad(net: Toy, x: Tensor, c: int, rescale: bool = False) -> Tensor:
    """Srinivas & Fleuret 2019: the magnitude of x ⊙ g and of every g ⊙ b with a spatial map, upsampled, summed."""

    def psi(part: Tensor) -> Tensor:
        size = part.abs()
        if rescale:
            size = (size - size.min()) / (size.max() - size.min())
        return size

    total = psi(input_x_gradient(net, x, c)).sum(0)
    for term in bias_terms(net, x, c):
        if term.ndim == 3:
            for channel in psi(term):
                total = total + upsample(channel, *x.shape[2:])
    return total
