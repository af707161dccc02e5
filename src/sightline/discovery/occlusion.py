"""The part of the image a unit actually uses: its receptive field, estimated by sliding occlusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sightline.boxes import make_boxes
from sightline.engine import observe
from sightline.inspection.structure import LayerRef
from sightline.methods.occlusion import occlusion
from sightline.targets import CallableTarget
from sightline.types import BoxRule


@dataclass(frozen=True, eq=False)
class EstimatedField:
    """``drops`` (2H, 2W): the mean drop of a unit's peak per occluded pixel, centred on the peak.

    ``box`` (4,) xyxy bounds the pixels that matter, in network pixels relative to the peak's centre; None if none do.
    """

    drops: Tensor
    box: Tensor | None

    def at(self, centre: tuple[float, float]) -> Tensor | None:
        """The box (4,) around another peak with its centre at (y, x)."""
        if self.box is None:
            return None
        return self.box + self.box.new_tensor([centre[1], centre[0], centre[1], centre[0]])


class AtLayer(nn.Module):
    """A network that returns the activations (N, C, h, w) of one of its layers."""

    def __init__(self, network: nn.Module, layer: LayerRef) -> None:
        super().__init__()
        self.network, self.layer = network, layer

    def forward(self, images: Tensor) -> Tensor:
        return observe(self.network, images, [self.layer], gradient=False).activations


def occluded_drops(
    network: nn.Module,
    image: Tensor,
    peaks: Sequence[tuple[int, int, int]],
    *,
    window: int | None = None,
    stride: int | None = None,
    chunk: int = 32,
) -> Tensor:
    """How much each peak (unit, y, x) of one image (3, H, W) drops when a pixel is occluded: (P, H, W).

    ``network`` returns activations (`AtLayer`). A grey window slides over the image (`occlusion`; by default 1/7 of
    its side, stride half of that); a pixel's value is the mean drop over the windows that cover it.
    """
    targets = [CallableTarget(_unit_at(*peak)) for peak in peaks]
    evidence = observe(network, image[None], (), gradient=False)
    return occlusion(evidence, targets, window=window, stride=stride, chunk=chunk)[0]


def _unit_at(unit: int, y: int, x: int) -> Callable[[Tensor], Tensor]:
    return lambda activations: activations[:, unit, y, x]


def estimate_field(
    drops: Sequence[Tensor], centres: Sequence[tuple[float, float]], threshold: float = 0.2
) -> EstimatedField:
    """The mean of the drops (H, W) of several images, each shifted to centre its peak.

    After Zhou et al., "Object detectors emerge in deep scene CNNs", ICLR 2015, section 3.2: the discrepancy maps
    of a unit's top images are centred on the unit's position and averaged. The mean is 0 where fewer than half of
    them contribute. The field is the box of the largest region at or above ``threshold`` of the maximum drop.

    >>> one = torch.zeros(5, 5); one[1:3, 1:3] = 1.0
    >>> estimate_field([one], [(2.0, 2.0)]).box
    tensor([-1., -1.,  1.,  1.])
    """
    height, width = drops[0].shape
    total = torch.zeros(2 * height, 2 * width)
    count = torch.zeros(2 * height, 2 * width)
    for one, (y, x) in zip(drops, centres, strict=True):
        top, left = height - round(y), width - round(x)
        top, left = min(max(top, 0), height), min(max(left, 0), width)
        total[top : top + height, left : left + width] += one.float().cpu()
        count[top : top + height, left : left + width] += 1
    mean = torch.where(2 * count >= len(drops), total / count.clamp(min=1), torch.zeros_like(total))
    (found,) = make_boxes(mean.clamp(min=0)[None, None], BoxRule(threshold))[0]
    middle = torch.tensor([width, height, width, height], dtype=torch.float32)
    return EstimatedField(mean, found[0] - middle if len(found) else None)
