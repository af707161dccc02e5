"""Recipro-CAM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sightline.engine import Evidence
from sightline.errors import UnsupportedError
from sightline.methods.registry import register_method
from sightline.options import Count
from sightline.targets import Target

GAUSSIAN = ((1 / 16, 1 / 8, 1 / 16), (1 / 8, 1 / 4, 1 / 8), (1 / 16, 1 / 8, 1 / 16))


def position_masks(height: int, width: int, gaussian: bool = True) -> Tensor:
    """One mask per position (h·w, h, w): the 3×3 Gaussian around it, cropped at the border; or that position alone.

    >>> position_masks(1, 3)
    tensor([[[0.2500, 0.1250, 0.0000]],
    <BLANKLINE>
            [[0.1250, 0.2500, 0.1250]],
    <BLANKLINE>
            [[0.0000, 0.1250, 0.2500]]])
    """
    alone = torch.eye(height * width).view(-1, 1, height, width)
    if not gaussian:
        return alone[:, 0]
    return torch.nn.functional.conv2d(alone, torch.tensor([[GAUSSIAN]]), padding=1)[:, 0]


@register_method(
    "recipro_cam", paper="Byun & Lee, 2022 (CVPR workshop 2024)", needs=("activations",), joint=True
)
def recipro_cam(
    evidence: Evidence, targets: Sequence[Target], *, gaussian: bool = True, chunk: Count = 64
) -> Tensor:
    """M(p) = y^c of the target layer seen through a mask at p: y^c(A ⊙ m_p), min-max over the positions p.

    No gradient: only the part of the network after the layer is rerun, once per position, ``chunk`` at a
    time. m_p is the 3×3 Gaussian (1/4 at p, 1/8 next to it, 1/16 at the corners), cropped at the border;
    ``gaussian=False`` keeps only p. y^c is the pre-softmax score (the authors' code uses the probability: give
    `targets.Probability`). Returns (N, K, h, w) in [0, 1].

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                           torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="recipro_cam", layer="1").maps.shape
    torch.Size([1, 1, 6, 6])
    """
    if gaussian and len(evidence.grid) > 2:
        raise UnsupportedError(
            "recipro_cam's neighbourhood of 3 × 3 positions is for pictures; for volumes: recipro_cam:gaussian=false"
        )
    activations, rescore = evidence.activations, evidence.rescorer()
    n, _, h, w = activations.shape
    masks = position_masks(h, w, gaussian).to(activations)
    pairs = torch.arange(n * h * w, device=activations.device)
    scores = []
    for some in torch.split(pairs, chunk):
        rows, at = some // (h * w), some % (h * w)
        output = rescore(activations[rows] * masks[at][:, None], rows)
        scores.append(torch.stack([t.at(rows)(output) for t in targets]).to(activations.dtype))
    maps = torch.cat(scores, 1).view(len(targets), n, h, w).transpose(0, 1)
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).where(high > low, 1)
