"""The localisation metrics as `torchmetrics.Metric`: ``update`` in a training loop, ``compute`` at its end.

Their states are sums, so any number of devices can share the work. Extra ``[train]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sightline.boxes import iou, make_boxes
from sightline.errors import InputError
from sightline.heatmap import make_heatmaps
from sightline.metrics.complexity import border_share
from sightline.metrics.localisation import BoxAccuracy
from sightline.metrics.pointing import energy_in_mask
from sightline.types import BoxRule, Geometry

try:
    from torchmetrics import Metric
except ImportError:
    from sightline.errors import missing_extra

    raise missing_extra("torchmetrics", "train") from None


class GTKnownLocalisation(Metric):
    """The share of images whose map's box has IoU ≥ ``delta`` with a true box (GT-known, Choe et al., CVPR 2020).

    ``update(maps, boxes)``: raw maps (N, h, w) of the true classes, at any size; true boxes: N tensors (B, 4), xyxy,
    half-open, in pixels of an input of ``input_hw``.

    >>> metric = GTKnownLocalisation((8, 8))
    >>> metric.update(torch.ones(1, 4, 4).tril(), [torch.tensor([[0.0, 0, 8, 8]])])
    >>> metric.compute()
    tensor(1.)
    """

    full_state_update = False
    higher_is_better = True
    hits: Tensor
    images: Tensor

    def __init__(
        self, input_hw: tuple[int, int], rule: BoxRule | None = None, delta: float = 0.5, **options: Any
    ) -> None:
        super().__init__(**options)
        self.input_hw, self.rule, self.delta = input_hw, rule or BoxRule(), delta
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, maps: Tensor, boxes: Sequence[Tensor]) -> None:
        """Count N images."""
        _check(maps, boxes)
        heatmaps = make_heatmaps(maps[:, None], self.input_hw, self.rule.normalise, self.rule.percentile)
        found = make_boxes(heatmaps, self.rule)
        for (own,), true in zip(found, boxes, strict=True):
            if len(own) and len(true):
                self.hits += int(iou(own.cpu(), true.float().cpu()).max() >= self.delta)
        self.images += len(maps)

    def compute(self) -> Tensor:
        """The share, from 0 to 1."""
        return self.hits / self.images


class MaxBoxAccuracy(Metric):
    """MaxBoxAcc and MaxBoxAccV2 (Choe et al. 2020): the accuracy at the best of 1,000 thresholds, mean over ``deltas``.

    The best threshold is chosen on the images it is reported on: an upper bound. ``update`` as in
    `GTKnownLocalisation`; ``protocol``: "exact", "wsol-v1" or "wsol-v2".

    >>> metric = MaxBoxAccuracy((8, 8), deltas=(0.3, 0.5, 0.7))
    >>> metric.update(torch.eye(8)[None], [torch.tensor([[0.0, 0, 8, 8]])])
    >>> metric.compute()
    tensor(1.)
    """

    full_state_update = False
    higher_is_better = True
    hits: Tensor
    images: Tensor

    def __init__(
        self,
        input_hw: tuple[int, int],
        deltas: Sequence[float] = (0.5,),
        protocol: str = "exact",
        rule: BoxRule | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.input_hw, self.deltas, self.protocol, self.rule = input_hw, tuple(deltas), protocol, rule
        empty = BoxAccuracy(protocol, self.deltas, rule or BoxRule())
        self.add_state("hits", torch.from_numpy(empty.hits), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, maps: Tensor, boxes: Sequence[Tensor]) -> None:
        """Count N images."""
        _check(maps, boxes)
        counted = BoxAccuracy(self.protocol, self.deltas, self.rule or BoxRule())
        truth = [true.float().cpu() for true in boxes]
        counted.update(
            list(maps.detach().float().cpu()), truth, [Geometry.identity(self.input_hw)] * len(maps)
        )
        self.hits += torch.from_numpy(counted.hits).to(self.hits.device)
        self.images += len(maps)

    def compute(self) -> Tensor:
        """The accuracy, from 0 to 1."""
        return (self.hits / self.images).amax(1).mean()


class _MeanShare(Metric):
    """The mean over images of a share of their heat."""

    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self, input_hw: tuple[int, int], **options: Any) -> None:
        super().__init__(**options)
        self.input_hw = input_hw
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """The mean share, from 0 to 1."""
        return self.total / self.images


class HeatInBox(_MeanShare):
    """The mean share of heat inside the true boxes (energy pointing game, Wang et al. 2020); maps without heat count 0.

    ``update`` as in `GTKnownLocalisation`.

    >>> metric = HeatInBox((2, 2))
    >>> metric.update(torch.tensor([[[1.0, 3.0], [0.0, 0.0]]]), [torch.tensor([[1.0, 0.0, 2.0, 1.0]])])
    >>> metric.compute()
    tensor(0.7500)
    """

    higher_is_better = True

    def update(self, maps: Tensor, boxes: Sequence[Tensor]) -> None:
        """Count N images."""
        _check(maps, boxes)
        heat = make_heatmaps(maps[:, None], self.input_hw, "max")[:, 0].float()
        masks = torch.zeros(heat.shape, dtype=torch.bool, device=heat.device)
        for mask, true in zip(masks, boxes, strict=True):
            for x0, y0, x1, y1 in true.round().long().clamp(min=0).tolist():
                mask[y0:y1, x0:x1] = True
        self.total += energy_in_mask(heat, masks).sum().to(self.total.device)
        self.images += len(maps)


class HeatOnBorder(_MeanShare):
    """The mean share of heat in a frame of 5 % of the side, 19 % of the area: high for shortcuts at the border.

    ``update(maps)``: raw maps (N, h, w); those without heat do not count.

    >>> metric = HeatOnBorder((20, 20))
    >>> metric.update(torch.eye(20)[None])
    >>> metric.compute()
    tensor(0.1000)
    """

    higher_is_better = False

    def update(self, maps: Tensor, boxes: Sequence[Tensor] = ()) -> None:
        """Count N images; true boxes are not used."""
        shares = border_share(make_heatmaps(maps[:, None], self.input_hw, "max")[:, 0])
        known = shares.isfinite()
        self.total += shares[known].sum().to(self.total.device)
        self.images += known.sum().to(self.images.device)


def _check(maps: Tensor, boxes: Sequence[Tensor]) -> None:
    if maps.ndim != 3 or len(maps) != len(boxes):
        raise InputError(
            f"maps have shape {tuple(maps.shape)} and there are boxes for {len(boxes)} images; "
            "expected (N, h, w) and one tensor (B, 4) per image"
        )
