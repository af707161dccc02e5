"""Attention rollout, its gradient variant, Chefer et al.'s relevance, LeGrad: maps for vision transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from sightline.engine import Evidence, refuse_inference_mode
from sightline.inspection.attention import AttentionPass, attend, over_heads
from sightline.inspection.blocks import answer_to
from sightline.inspection.guard import unwrapped
from sightline.inspection.inputs import for_rows
from sightline.methods.registry import register_method
from sightline.options import Count, Range
from sightline.targets import Target

Part = Annotated[float, Range(0, 1, below=True, noun="a share")]
Combine = Callable[[Sequence[Tensor]], Tensor]


@register_method(
    "attention_rollout",
    paper="Abnar & Zuidema, ACL 2020",
    needs=("attention",),
    class_specific=False,
)
def attention_rollout(evidence: Evidence, target: Target, *, discard: Part = 0.0) -> Tensor:
    """R = Π_l (½ I + ½ mean over heads of A_l), later blocks on the left; the class token's row of R.

    Class-agnostic: where information flows, for any class. Without a class token, the mean of the rows that the
    output depends on (found from what the network computes).
    ``discard``: the share of each mean map's smallest values that is set to 0 first, except in the first column (0.9
    is common; the paper discards none); rows are then divided by their sums. Returns (N, h, w), ≥ 0.
    """
    seen = _attend(evidence)
    return seen.shown(rollout([_discarded(over_heads(a.detach()), discard) for a in seen.maps]))


@register_method(
    "gradient_rollout",
    paper="Abnar & Zuidema, ACL 2020, weighted by its gradient",
    needs=("attention",),
    joint=True,
)
def gradient_rollout(evidence: Evidence, targets: Sequence[Target]) -> Tensor:
    """Rollout of E_l = mean over heads of ReLU(A_l ⊙ ∂y^c/∂A_l): R = Π_l (I + E_l), rows divided by their sums.

    Mapped to the grid as in `attention_rollout`. Returns (N, K, h, w), ≥ 0.
    """
    return _for_each(evidence, targets, rollout)


@register_method("chefer", paper="Chefer et al., ICCV 2021", needs=("attention",), joint=True)
def chefer(evidence: Evidence, targets: Sequence[Target]) -> Tensor:
    """R ← R + E_l R from R = I, block by block, E_l = mean over heads of ReLU(A_l ⊙ ∂y^c/∂A_l).

    The paper's rules for self-attention, in the gradient-only form without LRP. Mapped to the grid as in
    `attention_rollout` (in a class token's row, the identity falls on no patch). Returns (N, K, h, w), ≥ 0.
    """
    return _for_each(evidence, targets, relevance)


@register_method("legrad", paper="Bousselham et al., ICCV 2025", needs=("attention",), joint=True)
def legrad(evidence: Evidence, targets: Sequence[Target], *, blocks: Count | None = None) -> Tensor:
    """M = Σ_l mean over heads and queries of ReLU(∂s_l/∂A_l), s_l the score of block l's tokens.

    s_l = y^c of the mean of the tokens that block l returns, read by the network's own head as if every token were
    that mean (for CLIP: its final norm and projection): as in the authors' code. The prefix tokens are left out of the
    map, not of the mean. ``blocks``: only the last so many (their code takes 2 by default, the paper all). Returns
    (N, K, h, w), ≥ 0. Raises `UnsupportedError` as `attend` does, and where blocks cannot be told apart.
    """
    refuse_inference_mode()
    return _layerwise(evidence.network, evidence.inputs.detach(), targets, blocks)


def _layerwise(network: nn.Module, images: Tensor, targets: Sequence[Target], count: int | None) -> Tensor:
    seen, n = attend(network, images, blocks=True), len(images)
    if n > 1 and n == seen.maps[0].shape[-1]:  # (N, T, C) and (T, N, C) look alike: one image at a time
        rows = torch.split(torch.arange(n), 1)
        alone = [(for_rows(network, i), images[i], [t.at(i) for t in targets]) for i in rows]
        return torch.cat([_layerwise(*one, count) for one in alone])
    network, totals = unwrapped(network), [torch.zeros(())] * len(targets)
    for weights, block in list(zip(seen.maps, seen.blocks, strict=True))[-(count or 0) :]:
        with torch.enable_grad():
            tokens = block.tokens
            mean = tokens.mean(1 if len(tokens) == n else 0, keepdim=True).expand_as(tokens).clone()
        output = answer_to(network, images, seen.blocks[-1], mean)
        for k, target in enumerate(targets):
            with torch.enable_grad():
                (slope,) = seen.gradients(target(output), [weights])
            totals[k] = totals[k].to(slope) + over_heads(slope.relu()).mean(1)
    return torch.stack([seen.on_grid(total) for total in totals], 1)


def rollout(maps: Sequence[Tensor]) -> Tensor:
    """Π_l (I + E_l), each with rows over their sums, later maps on the left: (N, T, T) each -> (N, T, T).

    >>> rollout([torch.tensor([[[0.0, 1.0], [0.5, 0.5]]])])
    tensor([[[0.5000, 0.5000],
             [0.2500, 0.7500]]])
    """
    total: Tensor | None = None
    for one in maps:
        step = one + torch.eye(one.shape[-1], dtype=one.dtype, device=one.device)
        step = step / step.sum(-1, keepdim=True)
        total = step if total is None else step @ total
    assert total is not None  # a pass holds at least one map
    return total


def relevance(maps: Sequence[Tensor]) -> Tensor:
    """R ← R + E_l R from the identity: (N, T, T) each -> (N, T, T).

    >>> relevance([torch.tensor([[[0.0, 1.0], [0.5, 0.5]]])])
    tensor([[[1.0000, 1.0000],
             [0.5000, 1.5000]]])
    """
    total = torch.eye(maps[0].shape[-1], dtype=maps[0].dtype, device=maps[0].device).expand_as(maps[0])
    for one in maps:
        total = total + one @ total
    return total


def _attend(evidence: Evidence) -> AttentionPass:
    refuse_inference_mode()
    return attend(evidence.network, evidence.inputs)


def _for_each(evidence: Evidence, targets: Sequence[Target], combine: Combine) -> Tensor:
    seen = _attend(evidence)
    found = []
    for target in targets:
        with torch.enable_grad():
            gradients = seen.gradients(target(seen.output))
        weighted = [over_heads((a.detach() * g).relu()) for a, g in zip(seen.maps, gradients, strict=True)]
        found.append(seen.shown(combine(weighted)))
    return torch.stack(found, 1)


def _discarded(mean: Tensor, share: float) -> Tensor:
    """The mean map (N, T, T) without its smallest values; the column of the first token stays."""
    count = int(share * mean[0].numel())
    if not count:
        return mean
    smallest = mean.flatten(1).topk(count, 1, largest=False).indices
    kept = torch.ones_like(mean.flatten(1)).scatter(1, smallest, 0).view_as(mean)
    kept[:, :, 0] = 1
    return mean * kept
