"""The channel-weighted gradient methods, written from the papers, one channel and one pixel at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from references.plain import layer_and_gradient
from toynets import Toy


def gradcam(net: Toy, x: Tensor, c: int, layer: str | None = None, nwc: bool = False) -> Tensor:
    """Selvaraju et al. 2017: α_k = (1/Z) Σ_ij g^k_ij; ReLU(Σ_k α_k A^k)."""
    a, g = layer_and_gradient(net, x, c, layer)
    channels, h, w = a.shape
    total = torch.zeros(h, w, dtype=a.dtype)
    for k in range(channels):
        alpha = sum(float(g[k, i, j]) for i in range(h) for j in range(w)) / (h * w)
        if nwc:
            alpha = max(alpha, 0.0)
        total = total + alpha * a[k]
    return total.clamp(min=0)


def gradcam_pp(net: Toy, x: Tensor, c: int, layer: str | None = None, nwc: bool = False) -> Tensor:
    """Chattopadhyay et al. 2018, eq. 19: a = g² / (2g² + Σ_ab A_ab · g³); w_k = Σ_ij a ReLU(g)."""
    a, g = layer_and_gradient(net, x, c, layer)
    channels, h, w = a.shape
    total = torch.zeros(h, w, dtype=a.dtype)
    for k in range(channels):
        mass = float(a[k].sum())
        weight = 0.0
        for i in range(h):
            for j in range(w):
                slope = float(g[k, i, j])
                denominator = 2 * slope**2 + mass * slope**3
                if denominator > 0:  # 0/0 and a pole are left out
                    weight += slope**2 / denominator * max(slope, 0.0)
        if nwc:
            weight = max(weight, 0.0)
        total = total + weight * a[k]
    return total.clamp(min=0)


def xgradcam(net: Toy, x: Tensor, c: int, layer: str | None = None, nwc: bool = False) -> Tensor:
    """Fu et al. 2020: α_k = Σ_ij g^k A^k / Σ_ij A^k; a channel that sums to zero has no weight."""
    a, g = layer_and_gradient(net, x, c, layer)
    channels, h, w = a.shape
    total = torch.zeros(h, w, dtype=a.dtype)
    for k in range(channels):
        mass = sum(float(a[k, i, j]) for i in range(h) for j in range(w))
        if mass == 0:
            continue
        alpha = sum(float(g[k, i, j] * a[k, i, j]) for i in range(h) for j in range(w)) / mass
        total = total + (max(alpha, 0.0) if nwc else alpha) * a[k]
    return total.clamp(min=0)


def hirescam(net: Toy, x: Tensor, c: int, layer: str | None = None) -> Tensor:
    """Draelos & Carin 2020: ReLU(Σ_k g^k ⊙ A^k)."""
    a, g = layer_and_gradient(net, x, c, layer)
    channels, h, w = a.shape
    out, a, g = torch.zeros(h, w, dtype=a.dtype), a.tolist(), g.tolist()
    for i in range(h):
        for j in range(w):
            out[i, j] = max(sum(g[k][i][j] * a[k][i][j] for k in range(channels)), 0.0)
    return out


def gradcam_elementwise(net: Toy, x: Tensor, c: int, layer: str | None = None) -> Tensor:
    """Σ_k ReLU(g^k ⊙ A^k)."""
    a, g = layer_and_gradient(net, x, c, layer)
    channels, h, w = a.shape
    out, a, g = torch.zeros(h, w, dtype=a.dtype), a.tolist(), g.tolist()
    for i in range(h):
        for j in range(w):
            out[i, j] = sum(max(g[k][i][j] * a[k][i][j], 0.0) for k in range(channels))
    return out


def layercam(net: Toy, x: Tensor, c: int, layer: str | None = None) -> Tensor:
    """Jiang et al. 2021: ReLU(Σ_k ReLU(g^k) ⊙ A^k)."""
    a, g = layer_and_gradient(net, x, c, layer)
    channels, h, w = a.shape
    out, a, g = torch.zeros(h, w, dtype=a.dtype), a.tolist(), g.tolist()
    for i in range(h):
        for j in range(w):
            out[i, j] = max(sum(max(g[k][i][j], 0.0) * a[k][i][j] for k in range(channels)), 0.0)
    return out


def smoothgradcam_pp(net: Toy, x: Tensor, noisy: Tensor, c: int) -> Tensor:
    """Omeiza et al. 2019: the derivatives of Grad-CAM++ are means over the noisy images (S, 3, H, W)."""
    a, _ = layer_and_gradient(net, x, c)
    slopes = [layer_and_gradient(net, noisy[s : s + 1], c)[1] for s in range(len(noisy))]
    channels, h, w = a.shape
    total = torch.zeros(h, w, dtype=a.dtype)
    for k in range(channels):
        mass, weight = float(a[k].sum()), 0.0
        for i in range(h):
            for j in range(w):
                d1, d2, d3 = (sum(float(g[k, i, j]) ** m for g in slopes) / len(slopes) for m in (1, 2, 3))
                denominator = 2 * d2 + mass * d3
                if denominator > 0:
                    weight += d2 / denominator * max(d1, 0.0)
        total = total + weight * a[k]
    return total.clamp(min=0)
