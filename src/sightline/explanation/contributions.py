"""Which channels make a class map: Zhou et al. 2016, Figure 2."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sightline.errors import InputError, UnsupportedError
from sightline.heatmap import from_planes

if TYPE_CHECKING:
    from sightline.explanation import Explanation


class Contributions(NamedTuple):
    """The channel maps that sum to a class map, largest first.

    ``maps`` (N, K, top, h, w) = w_k^c A^k; ``channels`` (N, K, top) int64; ``weights`` (N, K, top).
    """

    maps: Tensor
    channels: Tensor
    weights: Tensor


def contributions_of(explanation: Explanation, top: int) -> Contributions:
    """The ``top`` largest maps w_k^c A^k of a `cam` explanation."""
    if explanation.method != "cam":
        raise UnsupportedError(
            f"contributions() splits a class map by channel; the method is {explanation.method!r}, not 'cam'"
        )
    if explanation._evidence is None:
        raise UnsupportedError(
            "contributions() needs the layer's activations, and a combined or unpickled explanation holds none; "
            "call it on what explain(…, method='cam') returns"
        )
    weight, _ = explanation._evidence.classifier_weights()
    activations = explanation._evidence.activations
    chosen = weight[explanation.classes]
    if explanation.options.get("nwc"):
        chosen = chosen.clamp(min=0)
    if not 1 <= top <= chosen.shape[2]:
        raise InputError(f"top={top}; expected 1 to {chosen.shape[2]} channels")
    share = chosen * activations.mean((2, 3))[:, None]
    channels = share.topk(top, dim=2).indices
    weights = chosen.gather(2, channels)
    n = torch.arange(len(activations), device=activations.device)[:, None, None]
    maps = weights[..., None, None] * activations[n, channels]
    maps = from_planes(maps, explanation._evidence.layer_grid())
    covers = explanation._evidence.sites[0].covers
    return Contributions(maps if covers is None else explanation._evidence.upsampled(maps), channels, weights)
