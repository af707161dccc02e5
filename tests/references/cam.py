"""Zhou et al., CVPR 2016: M_c = Σ_k w_k^c A^k, no ReLU, no bias, whether the head is linear or a class convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toynets import Toy, run


def cam(net: Toy, x: Tensor, c: int, nwc: bool = False) -> Tensor:
    before, _ = net.split()
    activations = run(before, x)[0].detach()
    (head,) = [m for m in net.modules() if isinstance(m, nn.Linear)] or [net.classifier[1]]
    total = torch.zeros_like(activations[0])
    for k in range(len(activations)):
        weight = head.weight[c, k].sum().item()  # of a 1×1 convolution one number too
        if nwc:  # Bae et al., ECCV 2020: negative weights are clamped to zero, in the map only
            weight = max(weight, 0.0)
        total = total + weight * activations[k]
    return total


def class_convolution(net: Toy, x: Tensor, c: int) -> Tensor:
    """What enters the last pooling in a network that ends in class convolution, (ReLU,) average pooling."""
    return run(net.program()[:-1], x)[0, c].detach()
