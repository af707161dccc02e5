"""One method and one metric; importing this module registers them."""

from __future__ import annotations

import torch
from torch import Tensor

from sightline import register_method, register_metric
from sightline.engine import Evidence
from sightline.metrics.registry import MetricContext
from sightline.targets import Target


@register_method("energycam", paper="an example", needs=("activations",), class_specific=False)
def energycam(evidence: Evidence, target: Target, *, power: float = 2.0) -> Tensor:
    """M = Σ_k |A^k|^power: where the target layer is active at all, the same for every class. (N, h, w)."""
    return evidence.activations.abs().pow(power).sum(1)


@register_metric("spread", good="lower", says="share of the pixels that hold 90 % of the heat")
def spread(context: MetricContext, images: Tensor, heatmaps: Tensor) -> dict[str, Tensor]:
    """How large a share of the pixels, the hottest first, holds 90 % of the heat; NaN where there is no heat."""
    heat = heatmaps.flatten(1).sort(1, descending=True).values.cumsum(1)
    total = heat[:, -1:]
    needed = (heat < 0.9 * total).sum(1) + 1
    return {"spread": (needed / heat.shape[1]).where(total[:, 0] > 0, torch.nan)}
