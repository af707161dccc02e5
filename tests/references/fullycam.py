"""Song et al., IEEE Access 2022: one map from every convolution, brought to one size and fused."""

from __future__ import annotations

import torch
from torch import Tensor

from references.plain import layer_and_gradient, upsample
from toynets import Toy


def activations_of_convolutions(net: Toy) -> list[str]:
    """For each convolution, the name of the step that gives its output after norm and activation."""
    steps = net.program()
    names = []
    for n, step in enumerate(steps):
        if step.kind != "conv":
            continue
        last = n
        if steps[last + 1].kind == "norm":
            last += 1
        if steps[last + 1].kind in ("relu", "relu6", "other"):
            last += 1
        names.append(steps[last].name)
    return names


def one_layer(net: Toy, x: Tensor, c: int, layer: str, relu_grad: bool = True) -> Tensor:
    """M^n = ReLU(Σ_k ReLU(g^{nk}) ⊙ ReLU(A^{nk})); the outer ReLU acts only without the one on the gradient."""
    a, g = layer_and_gradient(net, x, c, layer)
    channels, h, w = a.shape
    out = torch.zeros(h, w, dtype=a.dtype)
    for k in range(channels):
        for i in range(h):
            for slope, active, j in zip(g[k, i].tolist(), a[k, i].tolist(), range(w), strict=True):
                out[i, j] += (max(slope, 0.0) if relu_grad else slope) * max(active, 0.0)
    return out.clamp(min=0)


def fullycam(
    net: Toy, x: Tensor, c: int, layers: list[str] | None = None, reduce: str = "sum",
    per_layer_norm: bool = True, relu_grad: bool = True,
) -> Tensor:  # fmt: skip
    """up(M^n) / max, reduced over the layers n, divided by the maximum; a map without one > 0 is zero."""
    maps = []
    for layer in activations_of_convolutions(net) if layers is None else layers:
        m = upsample(one_layer(net, x, c, layer, relu_grad), *x.shape[2:])
        if per_layer_norm:
            m = m / m.max() if m.max() > 0 else torch.zeros_like(m)
        maps.append(m)
    stack = torch.stack(maps)
    fused = {"sum": stack.sum(0), "mean": stack.mean(0), "max": stack.amax(0)}[reduce]
    return fused / fused.max() if fused.max() > 0 else torch.zeros_like(fused)
