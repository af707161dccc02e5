"""Grad-CAM++."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from sightline.engine import Evidence
from sightline.methods.cam import class_map
from sightline.methods.registry import register_method
from sightline.targets import Target


@register_method("gradcam_pp", paper="Chattopadhyay et al., WACV 2018")
def gradcam_pp(evidence: Evidence, target: Target, *, nwc: bool = False) -> Tensor:
    """a^k_ij = 1[g≠0] / (2 + g^k_ij · Σ_ab A^k_ab); w_k = Σ_ij a^k_ij ReLU(g^k_ij); L = ReLU(Σ_k w_k A^k).

    The paper's g²/(2g² + ΣA·g³) with g² cancelled, so that half precision cannot underflow. If the
    denominator is not positive, a is 0, with a warning. ``nwc`` clamps w at 0, which changes nothing, as
    w ≥ 0. Returns (N, h, w), ≥ 0.

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                           torch.nn.Linear(144, 2))
    >>> bool((sightline.explain(net, torch.rand(1, 3, 8, 8), method="gradcam_pp", layer="1").maps >= 0).all())
    True
    """
    return plus_plus(evidence.gradient(target), evidence.activations, nwc)


def plus_plus(g: Tensor, activations: Tensor, nwc: bool = False) -> Tensor:
    """Grad-CAM++ from g and A (N, C, h, w): (N, h, w).

    >>> plus_plus(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[1.0, 3.0]]]]))
    tensor([[[0.1667, 0.5000]]])
    """
    denominator = 2 + g * activations.sum((2, 3), keepdim=True)
    usable = (g != 0) & (denominator > 0)
    if bool(((g > 0) & (denominator <= 0)).any()):
        warnings.warn("gradcam_pp: a denominator is not positive; its weight was set to 0", stacklevel=2)
    a = torch.where(usable, 1 / torch.where(usable, denominator, 1), 0)
    w = (a * g.relu()).sum((2, 3))
    return class_map(w.clamp(min=0) if nwc else w, activations).relu()
