"""FEM, the feature explanation method."""

from __future__ import annotations

from torch import Tensor

from sightline.engine import Evidence
from sightline.methods.cam import class_map
from sightline.methods.registry import register_method
from sightline.targets import Target


@register_method("fem", paper="Fuad et al., IPTA 2020", needs=("activations",), class_specific=False)
def fem(evidence: Evidence, target: Target, *, k: float = 2.0) -> Tensor:
    """M = Σ_c μ_c · 1[A^c ≥ μ_c + k σ_c]: where channels are unusually strong, weighted by their means.

    μ_c and σ_c are the mean and the standard deviation of channel c over its positions (of all of them: divided by
    h·w); k = 2 as in the paper. A constant channel has no unusual place and is left out. The same map for every
    class, and no gradient. Returns (N, h, w).

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="fem", layer="0").maps.shape
    torch.Size([1, 1, 6, 6])
    """
    activations = evidence.activations
    mean = activations.mean((2, 3), keepdim=True)
    spread = activations.std((2, 3), correction=0, keepdim=True)
    strong = (activations >= mean + k * spread) & (
        activations.amax((2, 3), keepdim=True) > activations.amin((2, 3), keepdim=True)
    )
    return class_map(mean[:, :, 0, 0], strong.to(activations))
