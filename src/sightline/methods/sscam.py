"""SS-CAM: Score-CAM with noise in its masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sightline.engine import Evidence
from sightline.methods.registry import register_method
from sightline.methods.scorecam import masked_scores, varied_channels
from sightline.options import Count, NotNegative, Seed
from sightline.targets import Target


@register_method("sscam", paper="Wang et al., 2020 (arXiv:2006.14255)", needs=("activations",), joint=True)
def sscam(
    evidence: Evidence,
    targets: Sequence[Target],
    *,
    samples: Count = 35,
    sigma: NotNegative = 2.0,
    channels: Count | None = None,
    chunk: Count = 16,
    seed: Seed = 0,
) -> Tensor:
    """α = softmax_k (1/N) Σ_n y^c(x ⊙ (H_k + ε_n)), ε_n ~ N(0, σ²) at every pixel; L = ReLU(Σ_k α_k A^k).

    H_k is Score-CAM's mask (`scorecam`, as are ``channels`` and ``chunk``); σ = 0 is Score-CAM. The paper's form with
    noise in the masks, as TorchCAM documents and computes it: N = ``samples`` = 35 and σ = 2. It costs N times
    Score-CAM, so ``channels`` matters. Each image's map is the same in any batch. Returns (N, K, h, w), ≥ 0.

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                           torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="sscam", layer="1", samples=2).maps.shape
    torch.Size([1, 1, 6, 6])
    """
    maps = []
    for i in range(len(evidence.images)):
        activations, noise = evidence.activations[i], _Noise(sigma, seed)
        kept = varied_channels(activations, channels)
        if not len(kept):
            maps.append(activations.new_zeros(len(targets), *activations.shape[1:]))
            continue
        drawn = [masked_scores(evidence, targets, i, kept, chunk, noise) for _ in range(samples)]
        alpha = torch.stack(drawn).mean(0).to(activations.dtype).softmax(1)
        maps.append(torch.einsum("km,mhw->khw", alpha, activations[kept]).relu())
    return torch.stack(maps)


class _Noise:
    """Adds noise to masks (M, H, W): one draw for each mask, in order, whatever the chunks."""

    def __init__(self, sigma: float, seed: int) -> None:
        self.sigma, self.generator = sigma, torch.Generator().manual_seed(seed)

    def __call__(self, masks: Tensor) -> Tensor:
        drawn = [torch.randn(masks.shape[1:], generator=self.generator) for _ in range(len(masks))]
        return masks + self.sigma * torch.stack(drawn).to(masks)
