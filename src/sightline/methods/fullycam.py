"""Fully-CAM: every convolution's own map, fused."""

from __future__ import annotations

from torch import Tensor

from sightline.engine import Evidence
from sightline.heatmap import fuse
from sightline.methods.registry import register_method
from sightline.targets import Target


@register_method("fullycam", paper="Song et al., IEEE Access 2022", layers="convs")
def fullycam(
    evidence: Evidence,
    target: Target,
    *,
    layers: str | list[str] = "convs",
    reduce: str = "sum",
    per_layer_norm: bool = True,
    relu_grad: bool = True,
) -> Tensor:
    """M^n = Σ_k ReLU(g^{nk}) ⊙ ReLU(A^{nk}) for every convolution n; fused: Σ_n up(M^n)/max, over its maximum.

    Song et al., "Rethinking CAM in weakly-supervised semantic segmentation": implemented from its description, since
    the paper's equations were not available. A is each convolution's output after its activation (in a
    residual block: after the addition). ``layers``: "convs", "stages" (the last convolution of each
    resolution) or names; a single name gives that layer's own map. ``reduce``: "sum" | "mean" | "max";
    ``per_layer_norm`` divides each map by its maximum before fusing; ``relu_grad=False`` keeps the gradient's
    sign, and M^n is then clamped at 0. Returns (N, H, W) at the image's size, in [0, 1].

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                           torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="fullycam").maps.shape
    torch.Size([1, 1, 8, 8])
    """
    maps = []
    for number, (g, activations) in enumerate(zip(evidence.gradients(target), evidence.layers, strict=True)):
        weight = g.relu() if relu_grad else g
        own = (weight * activations.relu()).sum(1).relu()
        maps.append(evidence.upsampled(own, number))
    return fuse(maps, evidence.size_hw, reduce=reduce, per_layer_norm=per_layer_norm)
