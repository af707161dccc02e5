"""RISE: randomised input sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from sightline.engine import Evidence
from sightline.heatmap import as_planes, upsample
from sightline.methods.registry import register_method
from sightline.options import Count, Range, Seed
from sightline.scores import ScoreRule
from sightline.targets import ClassTarget, Target, logits_of


def make_masks(
    n: int,
    grid: int,
    p: float,
    size_hw: Sequence[int],
    generator: torch.Generator,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``n`` smooth masks (n, 1, H, W) in [0, 1]: a random grid, upsampled bilinearly and shifted at random.

    The grid of s × s cells (1 with probability p) is upsampled to (s + 1)·⌈H/s⌉ and cropped at a random offset
    of up to one cell, as in the paper. A size of one or three numbers: masks for signals and volumes.

    >>> make_masks(3, 8, 0.5, (16, 16), torch.Generator().manual_seed(0)).shape
    torch.Size([3, 1, 16, 16])
    """
    return _enlarged(*_draw(n, grid, p, size_hw, generator), size_hw, device, dtype)


def _draw(
    n: int, grid: int, p: float, size_hw: Sequence[int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Everything random: the cells (n, 1, s, s) and the offsets (n, 2) in pixels."""
    axes = len(size_hw)
    cells = torch.rand(n, 1, *[grid] * axes, generator=generator) < p
    limits = torch.tensor([math.ceil(side / grid) for side in size_hw])
    return cells, (torch.rand(n, axes, generator=generator) * limits).long()


def _enlarged(
    cells: Tensor,
    offsets: Tensor,
    size_hw: Sequence[int],
    device: torch.device | None,
    dtype: torch.dtype,
) -> Tensor:
    grid = cells.shape[-1]
    size = [(grid + 1) * math.ceil(side / grid) for side in size_hw]
    large = upsample(cells.to(device, dtype), size).to(dtype)
    cuts = [
        tuple(slice(at, at + side) for at, side in zip(offset, size_hw, strict=True))
        for offset in offsets.tolist()
    ]
    return torch.stack([mask[(slice(None), *cut)] for mask, cut in zip(large, cuts, strict=True)])


@register_method("rise", paper="Petsiuk et al., BMVC 2018", needs=(), joint=True)
def rise(
    evidence: Evidence,
    targets: Sequence[Target],
    *,
    masks: Count = 4000,
    grid: Count = 8,
    p: Annotated[float, Range(0, 1, above=True)] = 0.5,
    seed: Seed = 0,
    chunk: Count = 32,
) -> Tensor:
    """(1/(N p)) Σ_m y^c(x ⊙ m) m over N = 4,000 random masks m; y^c is the probability of class c.

    Masks come from 8×8 grids with p = 0.5 and a random shift, the same for every image of the batch;
    probabilities follow the score rule of the unmasked images (softmax for several outputs, sigmoid for one); a
    callable target is used unchanged. At the border the upsampled grid repeats its outermost half-cell (bilinear,
    ``align_corners=False``), whereas the authors' resize mirrors it: the masks differ only there. Returns (N, K, H, W).

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="rise", masks=8).maps.shape
    torch.Size([1, 1, 8, 8])
    """
    generator = torch.Generator().manual_seed(seed)
    images = evidence.images.detach()
    n = len(images)
    total = images.new_zeros(n, len(targets), *evidence.size_hw)
    # Everything random is small and is drawn at once, so that the masks do not depend on the chunk size.
    cells, offsets = _draw(masks, grid, p, evidence.grid, generator)
    for some, at in zip(torch.split(cells, chunk), torch.split(offsets, chunk), strict=True):
        drawn = _enlarged(some, at, evidence.grid, images.device, images.dtype)
        drawn = as_planes(drawn, len(evidence.grid))
        for i in range(n):
            rows = torch.full((len(drawn),), i, device=images.device)
            output = evidence.rescore(images[i] * drawn, rows)
            scores = torch.stack([_probability(t.at(rows), output, evidence.score_rule) for t in targets])
            total[i] += torch.einsum("km,mhw->khw", scores.to(drawn.dtype), drawn[:, 0])
    return total / (masks * p)


def _probability(target: Target, output: object, rule: ScoreRule | None) -> Tensor:
    logits = logits_of(output)
    if isinstance(target, ClassTarget) and logits is not None and rule is not None:
        return target(rule.probabilities(logits))
    return target(output)
