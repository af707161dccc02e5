"""Grad-CAM."""

from __future__ import annotations

from torch import Tensor

from sightline.engine import Evidence
from sightline.methods.cam import class_map
from sightline.methods.registry import register_method
from sightline.targets import Target


@register_method("gradcam", paper="Selvaraju et al., ICCV 2017")
def gradcam(evidence: Evidence, target: Target, *, nwc: bool = False) -> Tensor:
    """α_k = (1/Z) Σ_ij g^k_ij; L = ReLU(Σ_k α_k A^k).

    On a pooling + linear head this is ReLU(CAM)/Z. ``nwc`` clamps α at 0 (Bae et al., ECCV 2020).
    Returns (N, h, w), ≥ 0.

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="gradcam", layer="0").maps.shape
    torch.Size([1, 1, 6, 6])
    """
    alpha = evidence.gradient(target).mean((2, 3))
    return class_map(alpha.clamp(min=0) if nwc else alpha, evidence.activations).relu()
