"""The part of the image a unit actually uses: its receptive field, estimated by sliding occlusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.boxes import make_boxes, make_masks
from sightline.engine import observe
from sightline.errors import unknown
from sightline.inspection.structure import LayerRef
from sightline.methods.occlusion import window_drops
from sightline.targets import CallableTarget
from sightline.types import BoxRule

FILLS = ("grey", "random")


@dataclass(frozen=True, eq=False)
class EstimatedField:
    """``drops`` (2H, 2W): the mean drop of a unit's peak per occluded pixel, centred on the peak.

    ``box`` (4,) xyxy bounds the pixels that matter, in network pixels relative to the peak's centre; None if none do.
    ``region`` (2H, 2W) bool: those pixels.
    """

    drops: Tensor
    box: Tensor | None
    region: Tensor

    def region_at(self, centre: tuple[float, float], size_hw: tuple[int, int]) -> Tensor:
        """The pixels that matter to a peak with its centre at (y, x), in an input of ``size_hw``: (H, W) bool.

        >>> region = torch.zeros(4, 4, dtype=torch.bool); region[2, 2] = True
        >>> EstimatedField(region.float(), None, region).region_at((1, 0), (2, 2)).int().tolist()
        [[0, 0], [1, 0]]
        """
        height, width = size_hw
        top, left = (side // 2 - round(at) for side, at in zip(self.region.shape, centre, strict=True))
        padded = F.pad(self.region, (width, width, height, height))
        return padded[top + height : top + 2 * height, left + width : left + 2 * width]

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
    fill: str = "grey",
    seed: int = 0,
    chunk: int = 32,
) -> Tensor:
    """How much each peak (unit, y, x) of one image (3, H, W) drops when a pixel is occluded: (P, H, W).

    ``network`` returns activations (`AtLayer`). A grey window slides over the image (`window_drops`; by default 1/7 of
    its side, stride half of that); a pixel's value is the mean drop over the windows that cover it. With
    ``fill="random"`` every window is noise of the photos' spread instead (Zhou et al., ICLR 2015: 11×11 at stride 3).
    """
    if fill not in FILLS:
        raise unknown("fill", fill, FILLS)
    generator = torch.Generator().manual_seed(seed)

    def filled(piece: Tensor) -> Tensor:
        if fill == "grey":
            return torch.zeros_like(piece)
        return torch.randn(piece.shape, generator=generator).to(piece)

    targets = [CallableTarget(_unit_at(*peak)) for peak in peaks]
    evidence = observe(network, image[None], (), gradient=False)
    return window_drops(evidence, targets, window, stride, filled, chunk)[0]


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
    rule, heatmap = BoxRule(threshold), mean.clamp(min=0)[None, None]
    (found,) = make_boxes(heatmap, rule)[0]
    middle = torch.tensor([width, height, width, height], dtype=torch.float32)
    return EstimatedField(mean, found[0] - middle if len(found) else None, make_masks(heatmap, rule)[0, 0])
