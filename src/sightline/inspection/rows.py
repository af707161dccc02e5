"""Whether row i of a layer belongs to image i: networks that sort, mirror or roll the batch inside are refused.

The output may be right all the same, since such networks put its rows back into order. A network is tried only where
the record of its pass shows an operation that could move rows; others pay nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sightline.errors import UnsupportedError
from sightline.inspection.axes import bare, new_order
from sightline.inspection.following import shown
from sightline.inspection.guard import network_lock, original
from sightline.inspection.inputs import for_first
from sightline.inspection.layers import LayerRef
from sightline.inspection.probes import probe_image
from sightline.inspection.recording import Op

_MOVE_ROWS = frozenset(
    ["index_select", "gather", "take", "take_along_dim", "flip", "flipud", "roll", "rot90", "sort", "argsort", "topk",
     "scatter", "index_copy", "index_put", "index_add", "tensor_split", "unbind", "chunk", "split"]
)  # fmt: skip
_KEPT: weakref.WeakKeyDictionary[nn.Module, set[Any]] = weakref.WeakKeyDictionary()
_IMAGES = 4  # that are shown in one batch


def may_move_rows(ops: Sequence[Op], n: int) -> bool:
    """Whether an operation between the image and the score could move the rows of the batch, of ``n`` images."""
    for op in ops:
        name, axes = bare(op.function), op.output.ndim
        if name in _MOVE_ROWS or (name == "getitem" and _picks(op.arguments[0][1])):
            return True
        if name in ("permute", "transpose", "swapaxes", "movedim", "t"):
            order = new_order(op, axes) if op.inputs[0].ndim == axes else None
            if order is None or order[0] != 0:
                return True
        folded = axes > 0 and bool(op.inputs) and op.inputs[0].ndim > 0 and len(op.output) != n
        if folded and len(op.inputs[0]) == n:
            return True
    return False


def _picks(index: Any) -> bool:
    """Whether an index names positions one by one."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, (Tensor, list)) for part in parts)


def check_rows(
    network: nn.Module,
    images: Tensor,
    sites: Sequence[LayerRef],
    way_out: str = "explain one image at a time",
) -> None:
    """Raise `UnsupportedError` where row i of a layer is not that of image i; tried once for each network and size."""
    place = (tuple(sites), tuple(images.shape[1:]), images.dtype, images.device)
    with network_lock(network):
        kept = _KEPT.setdefault(original(network), set())
        if place in kept:
            return
        for site in sites:
            if not _keeps_rows(network, images, site):
                raise UnsupportedError(
                    f"the network puts the images of a batch into another order before layer '{site}', so that a map "
                    f"would be another image's; {way_out}"
                )
        kept.add(place)


def _keeps_rows(network: nn.Module, images: Tensor, site: LayerRef) -> bool:
    """Four images, brighter and brighter, in this order and the other way round, and the first two alone."""
    one = probe_image(images)
    scale = float(one.float().std())
    levels = torch.arange(_IMAGES, device=one.device, dtype=one.dtype) * scale
    noise = torch.randn((_IMAGES, *one.shape[1:]), generator=torch.Generator().manual_seed(4))
    batch = one + levels.view(-1, *[1] * (one.ndim - 1)) + (scale * noise).to(one)
    network = for_first(network)
    straight = shown(network, batch, site)
    turned = shown(network, batch.flip(0), site)
    if straight is None or turned is None or len(straight) != _IMAGES != len(turned):
        return True  # it takes no such batch
    if not _in_order(turned.flip(0), straight):
        return False
    alone = [shown(network, batch[i : i + 1], site) for i in range(2)]
    return all(
        found is None or found.shape[1:] != straight.shape[1:] or _in_order(found, straight, i)
        for i, found in enumerate(alone)
    )


def _in_order(rows: Tensor, others: Tensor, first: int = 0) -> bool:
    """Whether no row i is far from row ``first`` + i of the others and near to another one."""
    apart = torch.cdist(rows.detach().float().flatten(1), others.detach().float().flatten(1))
    own = apart.diagonal(first)
    nearest = apart.amin(1)
    size = others.detach().float().flatten(1).norm(dim=1).amax()
    return not bool(((own > 1e-3 * size) & (nearest < 0.5 * own)).any())
