"""Score-CAM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sightline.engine import Evidence
from sightline.methods.registry import register_method
from sightline.options import Count
from sightline.targets import Target


@register_method("scorecam", paper="Wang et al., CVPR workshop 2020", needs=("activations",), joint=True)
def scorecam(
    evidence: Evidence,
    targets: Sequence[Target],
    *,
    channels: Count | None = None,
    chunk: Count = 16,
    nwc: bool = False,
) -> Tensor:
    """H_k = min-max(up(A^k)); α = softmax_k y^c(x ⊙ H_k); L = ReLU(Σ_k α_k A^k).

    Constant channels are skipped. ``channels=n`` keeps the n channels with the largest standard deviation; ``chunk``
    masked images run at a time. ``nwc`` clamps α at 0, which changes nothing after a softmax.
    Returns (N, K, h, w), ≥ 0.

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                           torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="scorecam", layer="1").maps.shape
    torch.Size([1, 1, 6, 6])
    """
    maps = [_one_image(evidence, targets, i, channels, chunk, nwc) for i in range(len(evidence.images))]
    return torch.stack(maps)


def _one_image(
    evidence: Evidence, targets: Sequence[Target], i: int, channels: int | None, chunk: int, nwc: bool
) -> Tensor:
    activations, image = evidence.activations[i], evidence.images[i].detach()
    flat = activations.flatten(1)
    kept = (flat.amax(1) > flat.amin(1)).nonzero()[:, 0]
    if channels is not None and channels < len(kept):
        kept = kept[flat[kept].std(1).topk(channels).indices]
    if not len(kept):
        return activations.new_zeros(len(targets), *activations.shape[1:])
    scores = []
    for some in torch.split(kept, chunk):
        mask = evidence.upsampled(activations[some])
        low, high = mask.amin((1, 2), keepdim=True), mask.amax((1, 2), keepdim=True)
        mask = ((mask - low) / (high - low)).to(image.dtype)
        rows = torch.full_like(some, i)
        output = evidence.rescore(image * mask[:, None], rows)
        scores.append(torch.stack([t.at(rows)(output) for t in targets]))
    alpha = torch.cat(scores, 1).to(activations.dtype).softmax(1)
    return torch.einsum("km,mhw->khw", alpha.clamp(min=0) if nwc else alpha, activations[kept]).relu()
