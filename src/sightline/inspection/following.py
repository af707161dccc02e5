"""Whether what moves in a layer follows the patch of the image that is changed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sightline.inspection.guard import eval_mode, own_thread
from sightline.inspection.layers import LayerRef, Spans
from sightline.inspection.layout import NCHW
from sightline.inspection.probes import noisy_copies
from sightline.inspection.recording import OpCounter, output_tensor

_SIDES = 3  # patches down and across
_FOLLOWS = 0.5  # the correlation of the centre of what moves with the patch's
_NEAR = 0.2  # of the map's sides: what is so near to a patch's centre is where the patch is
_THERE = 0.6  # of what moves
_ALIKE = 0.9  # the cosine between what different patches move
_SHIFTED = 0.1  # of the layer's side: so far may the centre of all that moves be from the patches'


def follows(network: nn.Module, image: Tensor, site: LayerRef) -> bool | None:
    """Whether the cells that move in a layer follow a patch of the image (1, C, H, W), down and across.

    One pass of ten images: the image, and nine copies with another patch changed each. None where nothing can be said:
    nothing moves, or the same everywhere; or the input is no picture.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    >>> follows(net, torch.randn(1, 3, 12, 12), LayerRef("1"))
    True
    """
    if image.ndim != 4:
        return None
    spans = site.covers or tuple((0.0, float(side)) for side in image.shape[2:])
    batch, centres = patches_within(image, spans)
    tensor = shown(network, batch, site)
    layout = site.layout or NCHW
    if tensor is None or layout.mismatch(tensor) or len(tensor) != len(batch):
        return None
    maps = layout.to_map(tensor).double()
    moved = (maps[1:] - maps[:1]).norm(dim=1)
    own = moved - moved.mean(0)
    if not torch.isfinite(moved).all() or float(own.norm()) <= 0.05 * float(moved.norm()) + 1e-12:
        return None
    return _is_there(moved, centres, spans) and _correlate(moved, centres, spans)


def _is_there(moved: Tensor, centres: Tensor, spans: Spans) -> bool:
    """Whether most of what moves (P, h, w) with a patch near a corner, and not with the others, is where the patch is.

    A map that is added to its mirror image, or tiled, shows each thing twice. True where every patch moves all cells
    alike (attention with random weights), which tells nothing.
    """
    patterns = torch.nn.functional.normalize(moved.flatten(1), dim=1)
    alike = (patterns @ patterns.T).fill_diagonal_(0).sum() / (len(moved) * (len(moved) - 1))
    if float(alike) > _ALIKE:
        return True
    own = (moved - (moved.sum(0) - moved) / (len(moved) - 1)).clamp(min=0)
    lines = [
        start + (stop - start) * (torch.arange(count, dtype=torch.float64) + 0.5) / count
        for (start, stop), count in zip(spans, moved.shape[1:], strict=True)
    ]
    shares = []
    for number in (0, _SIDES - 1, _SIDES * (_SIDES - 1), _SIDES**2 - 1):
        near = [
            (line - centre).abs() <= (stop - start) * (_NEAR + 1 / len(line))
            for line, centre, (start, stop) in zip(lines, centres[number].tolist(), spans, strict=True)
        ]
        inside = (near[0][:, None] & near[1]).to(own.device)
        shares.append(own[number][inside].sum() / own[number].sum().clamp(min=1e-30))
    return float(torch.stack(shares).mean()) > _THERE


def _correlate(moved: Tensor, centres: Tensor, spans: Spans) -> bool | None:
    """Whether the centres of what moved (P, h, w) correlate with those of the patches (P, 2), along each axis.

    Their mean must be where the patches' is, too: else the maps are shifted.
    """
    moved = moved - moved.amin((1, 2), keepdim=True)
    weight = moved.sum((1, 2)).clamp(min=1e-30)
    for axis in (0, 1):
        if moved.shape[axis + 1] < 3:
            continue
        line = moved.sum(2 - axis)
        places = torch.arange(line.shape[1], device=line.device)
        at = (line * places).sum(1) / weight
        found = torch.corrcoef(torch.stack([at.cpu(), centres[:, axis].to(at.dtype)]))[0, 1]
        if math.isfinite(float(found)) and float(found) < _FOLLOWS:
            return False
        start, stop = spans[axis]
        middle = (float(centres[:, axis].mean()) - start) / (stop - start) * line.shape[1] - 0.5
        if abs(float(at.mean()) - middle) > _SHIFTED * line.shape[1] + 0.5:
            return False
    return True


def patches_within(image: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """The image and its nine copies (10, C, H, W), and the centres (9, 2) of their patches, within the spans."""
    lows = [max(0.0, start) for start, _ in spans]
    highs = [min(float(side), stop) for side, (_, stop) in zip(image.shape[2:], spans, strict=True)]
    places, centres = [], []
    for number in range(_SIDES**2):
        cut: list[slice] = []
        centre: list[float] = []
        for low, high, part in zip(lows, highs, divmod(number, _SIDES), strict=True):
            middle = low + (high - low) * (part + 0.5) / _SIDES
            half = max(0.5, (high - low) / (4 * _SIDES))
            cut.append(slice(max(0, round(middle - half)), max(1, round(middle + half))))
            centre.append(middle)
        places.append(tuple(cut))
        centres.append(centre)
    return noisy_copies(image, places), torch.tensor(centres)


def shown(network: nn.Module, images: Tensor, site: LayerRef) -> Tensor | None:
    """The tensor of a layer for these images; None where the network takes no such batch or does not get there."""
    seen: list[Tensor] = []

    def at_op(index: int, name: str, args: Any, output: Tensor) -> None:
        if index == site.op and name == site.function:
            seen.append(output.clone())

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        output = output_tensor(output)
        if output is not None:
            seen.append(output.clone() if len(seen) == (site.call or 0) else output)

    counter = OpCounter(at_op)
    handles = []
    if site.op is None:
        handles.append(network.get_submodule(site.name).register_forward_hook(own_thread(hook)))
    try:
        with eval_mode(network), torch.no_grad():
            if site.op is None:
                network(images)
            else:
                with counter:
                    network(images)
    except Exception:  # a network that takes one image at a time
        return None
    finally:
        for handle in handles:
            handle.remove()
    place = 0 if site.op is not None else site.call or 0
    return seen[place] if len(seen) > place else None
