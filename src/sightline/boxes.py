"""From heatmaps to boxes: thresholds, connected components, masks, boxes, the ILSVRC five guesses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.components import find_components, keep_largest
from sightline.errors import InputError, unknown
from sightline.heatmap import quantile
from sightline.types import BoxRule

PAPER = BoxRule()  # Zhou et al. 2016, section 3.2
GUESSES = ("plain", "heuristics")
HEURISTIC_CUTS = (20, 100, 110)  # of 255: the authors' generator


def cutoffs(heatmaps: Tensor, rule: BoxRule = PAPER) -> Tensor:
    """The cutoff t of each heatmap (..., H, W) -> (...).

    ``max``: t = threshold · max (Zhou et al. 2016 use 0.2); ``percentile``: t = threshold · percentile_i,
    PaS (Bae et al. 2020: i = 90, threshold 0.35).

    >>> cutoffs(torch.tensor([[0.0, 0.5], [0.5, 1.0]]))
    tensor(0.2000)
    """
    if rule.relative_to == "max":
        return heatmaps.amax((-2, -1)) * rule.threshold
    return quantile(heatmaps, rule.percentile / 100) * rule.threshold


def make_masks(heatmaps: Tensor, rule: BoxRule = PAPER) -> Tensor:
    """The region above the threshold in each heatmap: (N, K, H, W) -> bool (N, K, H, W), on the heatmaps' device.

    A pixel is kept if its value is ≥ t (see `cutoffs`) and > 0. ``largest`` keeps the largest 8-connected
    component by area (ties: the first in reading order), ``all`` keeps every component.

    >>> make_masks(torch.tensor([[[[1.0, 1.0, 0.0, 1.0]]]])).int()
    tensor([[[[1, 1, 0, 0]]]], dtype=torch.int32)
    """
    kept = _kept(heatmaps, rule)
    if rule.select == "all":
        return kept
    return torch.from_numpy(keep_largest(_flat_on_cpu(kept))).view(kept.shape).to(kept.device)


def make_boxes(heatmaps: Tensor, rule: BoxRule = PAPER) -> list[list[Tensor]]:
    """The boxes of each heatmap of (N, K, H, W): N lists of K float32 tensors (B, 4), xyxy, half-open.

    The paper's rule (Zhou et al. 2016, section 3.2): keep the values ≥ t (see `cutoffs`) and > 0, take the
    largest 8-connected component by area and return its bounding box in heatmap pixels. ``select="all"`` returns
    one box per component, largest first; ties are in reading order. A heatmap with nothing above the threshold
    gives (0, 4). The boxes are on the CPU: one copy for the whole batch. The heatmaps are already normalised,
    so ``rule.normalise`` is not used here.

    >>> make_boxes(torch.tensor([[[[0.0, 1.0, 0.9], [0.0, 0.1, 0.0]]]]))
    [[tensor([[1., 0., 3., 1.]])]]
    """
    kept = _kept(heatmaps, rule)
    flat = _component_boxes(_flat_on_cpu(kept), rule.select)
    classes = kept.shape[1]
    return [flat[i * classes : (i + 1) * classes] for i in range(kept.shape[0])]


class Guesses(NamedTuple):
    """Five boxes (5, 4) and the rank (0: most probable) of the class that each one stands for."""

    boxes_xyxy: Tensor
    class_ranks: Tensor


def five_guesses(heatmaps_of_top5: Tensor, how: str = "plain") -> Guesses:
    """The five guesses of ILSVRC localisation from the heatmaps (5, H, W) of the five most probable classes.

    ``plain``: one box per class, by the paper's rule. ``heuristics`` (Zhou et al. 2016, the 37.1 %):
    loose₁, tight₁, loose₂, tight₂, loose₃. Each heatmap is truncated to 8 bits and cut at 20, 100 and
    110 of 255 (strictly above, as in OpenCV); every 8-connected component of the three masks gives a box.
    The boxes are sorted by area, and a box that covers more than half of a larger one already kept is dropped.
    The first box left is loose, the second tight; if there is no second, the first is repeated. Heatmaps are in
    [0, 1]; an all-zero one gives the box [0, 0, 0, 0], which overlaps nothing.

    >>> five_guesses(torch.eye(5).view(5, 1, 5)).boxes_xyxy[3]
    tensor([3., 0., 4., 1.])
    """
    if how not in GUESSES:
        raise unknown("way of making five guesses", how, GUESSES)
    if heatmaps_of_top5.ndim != 3 or heatmaps_of_top5.shape[0] != 5:
        raise InputError(f"heatmaps have shape {tuple(heatmaps_of_top5.shape)}; expected (5, H, W)")
    if how == "plain":
        found = make_boxes(heatmaps_of_top5[None])[0]
        boxes = [box[0] if len(box) else torch.zeros(4) for box in found]
        return Guesses(torch.stack(boxes), torch.arange(5))
    levels = (heatmaps_of_top5[:3].detach() * 255).clamp(0, 255).to(torch.uint8).cpu().numpy()
    (loose1, tight1), (loose2, tight2), (loose3, _) = (_loose_and_tight(level) for level in levels)
    return Guesses(torch.stack([loose1, tight1, loose2, tight2, loose3]), torch.tensor([0, 0, 1, 1, 2]))


def areas(boxes_xyxy: Tensor) -> Tensor:
    """The area of each box (..., 4) -> (...); 0 if its corners are the wrong way round.

    >>> areas(torch.tensor([[0.0, 0.0, 2.0, 3.0], [2.0, 0.0, 1.0, 1.0]]))
    tensor([6., 0.])
    """
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0).prod(-1)


def shared_areas(a: Tensor, b: Tensor) -> Tensor:
    """The intersection area of boxes (..., 4) and (..., 4), broadcast together -> (...).

    >>> shared_areas(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([[1.0, 1.0, 3.0, 3.0]]))
    tensor([1.])
    """
    corner0, corner1 = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    return (corner1 - corner0).clamp(min=0).prod(-1)


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of half-open boxes (..., 4) and (..., 4), broadcast together; 0 if one has no area.

    >>> paired_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
    tensor([0.3333])
    """
    shared = shared_areas(a, b)
    union = areas(a) + areas(b) - shared
    return torch.where(shared > 0, shared / union, torch.zeros_like(shared))


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Pairwise intersection over union of half-open boxes: (A, 4), (B, 4) -> (A, B).

    >>> iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
    tensor([[0.3333]])
    """
    a, b = _as_boxes(a), _as_boxes(b)
    return paired_iou(a[:, None], b[None])


def best_ious(boxes: Tensor, truth: Sequence[Tensor]) -> Tensor:
    """The best IoU (N,) of each image's box, (N, 4), with one of its true boxes; 0 for no box (NaN).

    ``truth``: each image's true boxes (B, 4), on the same scale.

    >>> best_ious(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), [torch.tensor([[0.0, 0.0, 2.0, 1.0]])])
    tensor([0.5000], dtype=torch.float64)
    """
    owner = torch.cat([torch.full((len(true),), i) for i, true in enumerate(truth)])
    fits = paired_iou(boxes.double().nan_to_num()[owner], torch.cat(list(truth)).double())
    return torch.zeros(len(boxes)).double().scatter_reduce(0, owner, fits, "amax")


def xywh_to_xyxy(boxes_xywh: Tensor) -> Tensor:
    """Top-left corner and size (..., 4) -> half-open corners (..., 4).

    >>> xywh_to_xyxy(torch.tensor([[10, 20, 3, 4]]))
    tensor([[10, 20, 13, 24]])
    """
    return torch.cat([boxes_xywh[..., :2], boxes_xywh[..., :2] + boxes_xywh[..., 2:]], -1)


def centre_box(size_hw: tuple[int, int], margin: float) -> Tensor:
    """The box (1, 4) that leaves a margin of ``margin`` pixels on every side: the baseline to beat.

    >>> centre_box((64, 64), 8)
    tensor([[ 8.,  8., 56., 56.]])
    """
    height, width = size_hw
    if margin < 0 or 2 * margin >= min(size_hw):
        raise InputError(f"a margin of {margin} leaves no box in {height}×{width}")
    return torch.tensor([[margin, margin, width - margin, height - margin]], dtype=torch.float32)


def _kept(heatmaps: Tensor, rule: BoxRule) -> Tensor:
    if heatmaps.ndim != 4:
        raise InputError(f"heatmaps have shape {tuple(heatmaps.shape)}; expected (N, K, H, W)")
    if heatmaps.numel() == 0:
        return heatmaps > 0
    at = cutoffs(heatmaps, rule)[..., None, None]
    return (heatmaps >= at) & (heatmaps > 0)


def _flat_on_cpu(kept: Tensor) -> NDArray[np.uint8]:
    maps: NDArray[np.uint8] = kept.detach().to(torch.uint8).flatten(0, 1).cpu().numpy()
    return maps


def _component_boxes(masks: NDArray[np.uint8], select: str) -> list[Tensor]:
    """The boxes (B, 4) of each mask of (M, H, W): its largest component's, or every component's, largest first."""
    found = find_components(masks)
    boxes_xyxy = torch.from_numpy(found.boxes_xyxy).float()
    first = np.searchsorted(found.mask_index, np.arange(len(masks) + 1))
    per_mask = [boxes_xyxy[start:stop].clone() for start, stop in pairwise(first)]
    return [boxes[:1] for boxes in per_mask] if select == "largest" else per_mask


def _loose_and_tight(level: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """The loose and the tight box of one 8-bit heatmap (H, W)."""
    masks = np.stack([(level > cut).astype(np.uint8) for cut in HEURISTIC_CUTS])
    boxes = torch.cat(_component_boxes(masks, "all"))
    if len(boxes) == 0:
        return torch.zeros(4), torch.zeros(4)
    loose, *smaller = boxes[torch.argsort(-areas(boxes), stable=True)]
    for box in smaller:
        if shared_areas(box, loose) <= 0.5 * areas(loose):
            return loose, box
    return loose, loose


def _as_boxes(boxes: Tensor) -> Tensor:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"boxes have shape {tuple(boxes.shape)}; expected (B, 4): x0, y0, x1, y1")
    return boxes if boxes.is_floating_point() else boxes.float()
