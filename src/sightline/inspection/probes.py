"""Images to look at a network with, and what is found by changing them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sightline.inspection.guard import eval_mode, own_thread
from sightline.inspection.layout import MAX_PREFIX, Layout
from sightline.inspection.recording import output_tensor

# Centres of the changed patches, in shares of the image's sides. A patch is an eighth of a side; none of these
# straddles a border between the cells of a grid of 2, 3 or 4.
_CENTRES = ((0.125, 0.583), (0.583, 0.125), (0.875, 0.417), (0.417, 0.875))
_HITS = 3  # of the four
_CLEARLY = 3  # times as far as where other cells are changed does a cell's token move


def probe_image(images: Tensor) -> Tensor:
    """The first image with noise as strong as itself added, the same noise each time; noise alone for a black one.

    What is recognised on it holds for the network and not for one image (zeros pool like their maximum).

    >>> probe_image(torch.zeros(2, 3, 4, 4)).std() > 0.5
    tensor(True)
    """
    one = images[:1].detach().clone()
    if not torch.isfinite(one).all():
        one = torch.zeros_like(one)
    scale = float(one.float().std()) if one.numel() > 1 else 0.0
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(one.shape, generator=generator, dtype=torch.float32)
    return one + noise.to(one) * (scale or 1.0)


def fitting_layouts(tensor: Tensor, grids: Sequence[tuple[int, int]], n: int) -> list[Layout]:
    """How a tensor could be a map of one of the grids, the likeliest first.

    >>> [str(layout) for layout in fitting_layouts(torch.zeros(1, 50, 8), [(7, 7), (4, 4)], 1)]
    ['ntc:1+7x7']
    """
    if tensor.shape[0] != n or not tensor.is_floating_point():
        return []
    shape = tuple(tensor.shape)
    if tensor.ndim == 4:
        found = [Layout("nchw")] if shape[2:] in grids else []
        return [*found, Layout("nhwc")] if shape[1:3] in grids else found
    if tensor.ndim != 3:
        return []
    tokens = [
        (order, shape[axis] - h * w, (h, w)) for axis, order in ((1, "ntc"), (2, "nct")) for h, w in grids
    ]
    fits = [one for one in tokens if 0 <= one[1] <= min(MAX_PREFIX, math.prod(one[2]) - 1)]
    return [Layout(*one) for one in sorted(fits, key=lambda one: (one[0] != "ntc", one[1]))]


Place = tuple[str, int]  # a module's name and the number of its call


def placed(
    network: nn.Module, image: Tensor, candidates: Mapping[Place, Sequence[Layout]]
) -> dict[Place, Layout]:
    """Of each candidate the first layout under which the right cells move; those without one are left out.

    One pass of five images: the image, and four copies with another patch changed each; five passes where the network
    takes one image at a time.
    """
    found: dict[Place, Layout] = {}
    parts: dict[Place, list[Tensor]] = {}
    counts: dict[str, int] = {}
    images = changed_patches(image)

    def hook(name: str) -> Callable[..., None]:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            place = (name, counts.get(name, 0))
            counts[name] = place[1] + 1
            tensor = output_tensor(output)
            if tensor is None or place not in candidates:
                return
            if len(tensor) == 1:
                parts.setdefault(place, []).append(tensor.clone())  # what follows may work in place
                tensor = torch.cat(parts[place])
            if len(tensor) != len(images):
                return
            for layout in candidates[place]:
                if not layout.mismatch(tensor) and moves_in_place(layout.to_map(tensor)):
                    found[place] = layout
                    break

        return look

    modules = dict(network.named_modules())
    names = {name for name, _ in candidates}
    handles = [modules[name].register_forward_hook(own_thread(hook(name))) for name in names]
    try:
        with eval_mode(network), torch.no_grad():
            try:
                network(images)
            except Exception:  # it takes one image at a time; else it fails again
                parts.clear()
                for one in torch.split(images, 1):
                    counts.clear()
                    network(one)
    finally:
        for handle in handles:
            handle.remove()
    return found


class _Seen(Exception):
    """What was to be seen of a pass has been seen; the rest need not run."""


def stands_row_by_row(network: nn.Module, image: Tensor, place: Place, layout: Layout) -> tuple[bool, bool]:
    """Whether tokens stand in their layout's order: the prefix first, then the cells of the grid row by row.

    The image (1, C, H, W) and a copy for each of up to ten cells at both ends of some neighbouring rows, with that cell
    changed, are run as far as that layer, one by one: the token that moves most, compared with how it moves where other
    cells are changed, must be the cell's or its neighbour's (a class token moves with every cell).
    `placed` looks at late layers, where tokens have mixed, and forgives more; this is for an early one. Tokens in
    columns, in a winding line or in another order, and special tokens behind or among the others, are not so.
    Also whether that is certain: what an attention returns is a mixture, and all its tokens move much alike.
    """
    assert layout.grid is not None
    if len(layout.grid) != 2 or image.ndim != 4:
        return True, True
    height, width = layout.grid
    rows = sorted({0, 1, height // 2, height // 2 + 1, height - 1} & set(range(height)))
    cells = [(row, column) for row in rows for column in sorted({0, width - 1})]
    images = noisy_copies(image, [_cell(cell, layout.grid, image.shape[2:]) for cell in cells])
    tensors = [_reached(network, one, place) for one in torch.split(images, 1)]
    if any(tensor is None or layout.mismatch(tensor) for tensor in tensors):
        return True, True  # it goes another way with another image, and nothing is known
    found = torch.cat([tensor for tensor in tensors if tensor is not None])
    moved = (found[1:] - found[:1]).float().norm(dim=layout.channel_axis)
    others = (moved.sum(0) - moved) / max(1, len(moved) - 1)
    slack, wrong = int(min(height, width) > 3), 0
    compared = moved / (others + 0.05 * moved.amax() + 1e-30)
    for change, cell in zip(compared, cells, strict=True):
        at = int(change.argmax()) - layout.prefix
        row, column = divmod(at, width)
        away = max(abs(row - cell[0]), abs(column - cell[1])) > slack
        wrong += bool(change.amax() > 0) and (at < 0 or away)
    return wrong < 2, float(compared.amax(1).median()) > _CLEARLY


def _reached(network: nn.Module, image: Tensor, place: Place) -> Tensor | None:
    """The tensor of a call for one image, without running what comes behind; None where it is not reached."""
    found: list[Tensor | None] = []
    calls = [0]

    def look(module: nn.Module, args: Any, output: Any) -> None:
        calls[0] += 1
        if calls[0] - 1 == place[1]:
            tensor = output_tensor(output)
            found.append(None if tensor is None else tensor.clone())
            raise _Seen

    handle = network.get_submodule(place[0]).register_forward_hook(own_thread(look))
    try:
        with eval_mode(network), torch.no_grad():
            network(image)
    except Exception:  # `_Seen`; or the network refuses such an image
        pass
    finally:
        handle.remove()
    return found[0] if found else None


def _cell(cell: tuple[int, int], grid: tuple[int, ...], sides: Sequence[int]) -> tuple[slice, ...]:
    """The pixels of a cell of the grid."""
    starts = [math.floor(k * side / count) for k, side, count in zip(cell, sides, grid, strict=True)]
    stops = [math.floor((k + 1) * side / count) for k, side, count in zip(cell, sides, grid, strict=True)]
    return tuple(slice(a, max(a + 1, b)) for a, b in zip(starts, stops, strict=True))


def noisy_copies(image: Tensor, places: Sequence[tuple[slice, ...]]) -> Tensor:
    """(1, C, *sides) -> (1 + places, C, *sides): the image, and for each place a copy with noise there.

    The noise is twice as strong as the image, and the same each time.
    """
    batch = image.repeat(1 + len(places), *[1] * (image.ndim - 1))
    generator = torch.Generator().manual_seed(1)
    scale = float(image.float().std()) or 1.0
    for copy, place in zip(batch[1:], places, strict=True):
        patch = copy[(..., *place)]
        patch += 2 * scale * torch.randn(patch.shape, generator=generator, dtype=torch.float32).to(patch)
    return batch


def changed_patches(image: Tensor) -> Tensor:
    """(1, C, H, W) -> (5, C, H, W): the image, and four copies with another patch each."""
    height, width = image.shape[-2:]
    places = []
    for y, x in _CENTRES:
        top, left = round((y - 1 / 16) * height), round((x - 1 / 16) * width)
        bottom, right = max(top + 1, round((y + 1 / 16) * height)), max(left + 1, round((x + 1 / 16) * width))
        places.append((slice(top, bottom), slice(left, right)))
    return noisy_copies(image, places)


def moves_in_place(maps: Tensor) -> bool:
    """Whether the maps (5, C, h, w) of `changed_patches` moved most where the patches were changed."""
    height, width = maps.shape[-2:]
    if height * width < 2 or maps.ndim != 4:
        return False
    moved = (maps[1:] - maps[:1]).float().norm(dim=1)
    hits = 0
    for change, (y, x) in zip(moved, _CENTRES, strict=True):
        row, column = divmod(int(change.flatten().argmax()), width)
        hits += bool(change.amax() > 0) and _near(row, y, height) and _near(column, x, width)
    return hits >= _HITS


def _near(cell: int, share: float, cells: int) -> bool:
    slack = cells / 16 + 1 if cells > 4 else 0.5
    return abs(cell + 0.5 - share * cells) <= slack
