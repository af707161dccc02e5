"""LayerCAM."""

from __future__ import annotations

from torch import Tensor

from sightline.engine import Evidence
from sightline.methods.registry import register_method
from sightline.targets import Target


@register_method("layercam", paper="Jiang et al., IEEE TIP 2021")
def layercam(evidence: Evidence, target: Target) -> Tensor:
    """M = ReLU(Σ_k ReLU(g^k) ⊙ A^k): sharp at early layers too. Returns (N, h, w), ≥ 0.

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="layercam", layer="0").maps.shape
    torch.Size([1, 1, 6, 6])
    """
    return (evidence.gradient(target).relu() * evidence.activations).sum(1).relu()
