"""Ablation-CAM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sightline.engine import Evidence
from sightline.methods.registry import register_method
from sightline.options import Count
from sightline.targets import Target


@register_method("ablationcam", paper="Ramaswamy & Desai, WACV 2020", needs=("activations",), joint=True)
def ablationcam(
    evidence: Evidence, targets: Sequence[Target], *, nwc: bool = False, chunk: Count = 64
) -> Tensor:
    """w_k = (y^c − y^c with A^k = 0) / |y^c|; L = ReLU(Σ_k w_k A^k).

    Only the part of the network after the layer is rerun, ``chunk`` channels at a time (by `torch.fx`; if the
    network cannot be traced, all of it is rerun, with the same result). ``nwc`` clamps w at 0. A channel that
    is already zero has w = 0; there is no division by a score of exactly 0. The paper divides by y^c itself; dividing
    by its magnitude preserves the sign of the map of a negative score. Returns (N, K, h, w), ≥ 0.

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                           torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="ablationcam", layer="1").maps.shape
    torch.Size([1, 1, 6, 6])
    """
    activations, rescore = evidence.activations, evidence.rescorer()
    clean = torch.stack([evidence.score(t) for t in targets], 1)
    n, c = activations.shape[:2]
    weights = activations.new_zeros(n, len(targets), c)
    for i in range(n):
        used = activations[i].flatten(1).any(1).nonzero()[:, 0]
        for some in torch.split(used, chunk):
            ablated = activations[i].expand(len(some), -1, -1, -1).clone()
            ablated[torch.arange(len(some), device=some.device), some] = 0
            rows = torch.full_like(some, i)
            output = rescore(ablated, rows)
            for j, t in enumerate(targets):
                weights[i, j, some] = (clean[i, j] - t.at(rows)(output)).to(weights.dtype)
    scale = clean.abs().to(weights.dtype)[:, :, None]
    weights = weights / scale.where(scale > 0, 1)
    return torch.einsum("nkc,nchw->nkhw", weights.clamp(min=0) if nwc else weights, activations).relu()
