"""XGrad-CAM."""

from __future__ import annotations

from torch import Tensor

from sightline.engine import Evidence
from sightline.methods.cam import class_map
from sightline.methods.registry import register_method
from sightline.targets import Target


@register_method("xgradcam", paper="Fu et al., BMVC 2020")
def xgradcam(evidence: Evidence, target: Target, *, nwc: bool = False) -> Tensor:
    """α_k = Σ_ij g^k_ij A^k_ij / Σ_ij A^k_ij; L = ReLU(Σ_k α_k A^k).

    A channel whose activations sum to 0 gets α = 0. ``nwc`` clamps α at 0. Returns (N, h, w), ≥ 0.

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                           torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="xgradcam", layer="1").maps.shape
    torch.Size([1, 1, 6, 6])
    """
    activations = evidence.activations
    total = activations.sum((2, 3))
    weighted = (evidence.gradient(target) * activations).sum((2, 3))
    alpha = weighted / total.where(total != 0, 1) * (total != 0)
    return class_map(alpha.clamp(min=0) if nwc else alpha, activations).relu()
