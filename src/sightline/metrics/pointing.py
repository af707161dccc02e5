"""Is the heat on the object? Heatmaps against true boxes or masks, one number per image."""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.errors import InputError


def box_mask(boxes_xyxy: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """The pixels whose centre lies in any of the boxes (B, 4): (H, W) bool.

    >>> box_mask(torch.tensor([[0., 0., 2., 1.]]), (2, 3)).int()
    tensor([[1, 1, 0],
            [0, 0, 0]], dtype=torch.int32)
    """
    y = torch.arange(size_hw[0])[None, :, None] + 0.5
    x = torch.arange(size_hw[1])[None, None, :] + 0.5
    x0, y0, x1, y1 = (side[:, None, None] for side in boxes_xyxy.unbind(1))
    return ((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).any(0)


def pointing_game(heatmaps: Tensor, masks: Tensor, tolerance: int = 0) -> Tensor:
    """1 if the map's maximum lies on the object (Zhang et al., ECCV 2016): (N, H, W), bool (N, H, W) -> (N,).

    ``tolerance``: or within that many pixels of it (15 in the paper). The first of several maxima counts; a map
    without positive values is a miss.

    >>> pointing_game(torch.tensor([[[0., 1.], [0., 0.]]]), torch.tensor([[[False, True], [False, False]]]))
    tensor([1.])
    """
    _check(heatmaps, masks)
    _, height, width = heatmaps.shape
    peak, at = heatmaps.flatten(1).max(1)
    y, x = (at // width).view(-1, 1, 1), (at % width).view(-1, 1, 1)
    ys = torch.arange(height, device=at.device).view(1, -1, 1)
    xs = torch.arange(width, device=at.device).view(1, 1, -1)
    near = (ys - y) ** 2 + (xs - x) ** 2 <= tolerance**2
    return ((near & masks).flatten(1).any(1) & (peak > 0)).float()


def class_mean_weights(labels: Tensor) -> Tensor:
    """N / (C · N_c) for each of N images, C classes and N_c images of its class: (N,) -> (N,).

    The mean of the weighted scores is the mean over the classes of each class's mean.

    >>> class_mean_weights(torch.tensor([0, 0, 0, 7])) * torch.tensor([1.0, 1, 1, 0])
    tensor([0.6667, 0.6667, 0.6667, 0.0000])
    """
    classes, own, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    weights: Tensor = len(labels) / (len(classes) * counts[own]).to(torch.get_default_dtype())
    return weights


def energy_in_mask(heatmaps: Tensor, masks: Tensor) -> Tensor:
    """Σ_mask L / Σ L: energy pointing game (Wang et al. 2020) = relevance mass accuracy (Arras et al. 2022): (N,).

    heatmaps ≥ 0; a map without positive values scores 0.

    >>> energy_in_mask(torch.tensor([[[1., 3.]]]), torch.tensor([[[False, True]]]))
    tensor([0.7500])
    """
    _check(heatmaps, masks)
    total = heatmaps.flatten(1).sum(1)
    inside = (heatmaps * masks).flatten(1).sum(1)
    return torch.where(total > 0, inside / total.where(total > 0, torch.ones_like(total)), 0)


def relevance_rank_accuracy(heatmaps: Tensor, masks: Tensor) -> Tensor:
    """The share of the K most relevant pixels that lie on the object of K pixels (Arras et al. 2022): (N,).

    Ties at rank K share the remaining weight, so that a constant map scores the object's share of the area.

    >>> relevance_rank_accuracy(torch.tensor([[[5., 3., 4.]]]), torch.tensor([[[True, True, False]]]))
    tensor([0.5000])
    """
    _check(heatmaps, masks)
    found = []
    for values, mask in zip(heatmaps.flatten(1), masks.flatten(1), strict=True):
        k = int(mask.sum())
        if k == 0:
            raise InputError("a mask is empty; relevance rank accuracy needs an object")
        last = values.topk(k).values[-1]
        above, tied = values > last, values == last
        left = (k - above.sum()) / tied.sum()
        found.append(((above & mask).sum() + left * (tied & mask).sum()) / k)
    return torch.stack(found).to(heatmaps.dtype)


def _check(heatmaps: Tensor, masks: Tensor) -> None:
    if heatmaps.shape != masks.shape or heatmaps.ndim != 3:
        raise InputError(
            f"heatmaps have shape {tuple(heatmaps.shape)} and masks {tuple(masks.shape)}; expected (N, H, W) for both"
        )
    if masks.dtype != torch.bool:
        raise InputError(f"masks are {masks.dtype}; expected bool")
    if not bool(torch.isfinite(heatmaps).all()):
        raise InputError("heatmaps hold NaN or Inf")
