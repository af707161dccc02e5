"""Score-CAM."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    activations = evidence.activations[i]
    kept = varied_channels(activations, channels)
    if not len(kept):
        return activations.new_zeros(len(targets), *activations.shape[1:])
    alpha = masked_scores(evidence, targets, i, kept, chunk).to(activations.dtype).softmax(1)
    return torch.einsum("km,mhw->khw", alpha.clamp(min=0) if nwc else alpha, activations[kept]).relu()


def varied_channels(activations: Tensor, channels: int | None) -> Tensor:
    """The channels of (C, h, w) that are not constant; at most ``channels``, those of the largest standard deviation.

    >>> varied_channels(torch.tensor([[[1.0, 1.0]], [[0.0, 1.0]], [[0.0, 5.0]]]), 1)
    tensor([2])
    """
    flat = activations.flatten(1)
    kept = (flat.amax(1) > flat.amin(1)).nonzero()[:, 0]
    if channels is not None and channels < len(kept):
        kept = kept[flat[kept].std(1).topk(channels).indices]
    return kept


def masked_scores(
    evidence: Evidence,
    targets: Sequence[Target],
    i: int,
    kept: Tensor,
    chunk: int,
    change: Callable[[Tensor], Tensor] = lambda masks: masks,
) -> Tensor:
    """y^c(x ⊙ H_k) of image i for each kept channel k: (K, channels); ``change`` alters the masks H (M, H, W)."""
    activations, image, scores = evidence.activations[i], evidence.images[i].detach(), []
    for some in torch.split(kept, chunk):
        mask = evidence.upsampled(activations[some])
        low, high = mask.amin((1, 2), keepdim=True), mask.amax((1, 2), keepdim=True)
        mask = change((mask - low) / (high - low)).to(image.dtype)
        rows = torch.full_like(some, i)
        output = evidence.rescore(image * mask[:, None], rows)
        scores.append(torch.stack([t.at(rows)(output) for t in targets]))
    return torch.cat(scores, 1)
