"""The maps on both sides of the last step down in resolution, and their features: what an affinity walk needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sightline.errors import InputError, UnsupportedError, unknown
from sightline.inspection.guard import own_thread
from sightline.inspection.layers import Spans
from sightline.inspection.layout import NCHW
from sightline.inspection.naming import place_named
from sightline.inspection.recording import output_tensor
from sightline.inspection.structure import LayerRow, Structure, inspect_network


def last_stages(network: nn.Module, images: Tensor, count: int = 1) -> tuple[str, ...]:
    """The layers that an affinity walk uses, finest first; found by the sizes of the maps, not by names.

    ``count=1``: the last map before the resolution falls for the last time on the way to the target layer (ResNet's
    ``layer3``, EfficientNet's ``blocks.4``); 2: also what comes out of the module that lowers it (``layer4``,
    ``blocks.5``); 3 and more: also the last map before each earlier fall (``layer2``, ``blocks.2``), as far as there
    are any. A network with one resolution has one stage, its target layer. Raises `UnsupportedError` where no module
    returns such a map.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU(),
    ...                     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    >>> last_stages(net, torch.zeros(1, 3, 32, 32), count=2)
    ('1', '2')
    """
    structure = inspect_network(network, images)
    rows = _towards_target(structure)
    if structure.target is None or not rows:
        raise UnsupportedError(
            f"no stage was found for the affinity walk: {structure.why_no_target or 'no module returns a map'}; "
            "name one: affinity.stages=LAYER"
        )
    found = _lowering(rows, _target_size(structure, rows), str(structure.target))
    if found is None:
        return (str(structure.target) if structure.target.op is None else rows[-1].name,)
    if count < 3:
        return found[-2:] if count > 1 else found[:1]
    return (*_earlier(rows, found[0], count - 2), *found)


def _earlier(rows: Sequence[LayerRow], stage: str, count: int) -> tuple[str, ...]:
    """The last map before each of at most ``count`` falls in resolution before ``stage``, finest first."""
    names: list[str] = []
    while len(names) < count:
        place = [row.name for row in rows].index(stage)
        rows = [*rows[: place + 1], *(row for row in rows[place + 1 :] if row.name.startswith(f"{stage}."))]
        found = _lowering(rows, rows[place].shape[1:], stage)
        if found is None:
            break
        stage = found[0]
        names.insert(0, stage)
    return tuple(names)


def _towards_target(structure: Structure) -> list[LayerRow]:
    """The modules with one map that run before the target layer, or are it, or are inside it; outer ones first."""
    names = [row.name for row in structure.layers]
    target = str(structure.target or "")
    end = names.index(target) if target in names else len(names)
    return [
        row
        for place, row in enumerate(structure.layers)
        if "#" not in row.name
        and row.type != "operation"
        and (place <= end or row.name.startswith(f"{target}."))
    ]


def _target_size(structure: Structure, rows: Sequence[LayerRow]) -> tuple[int, ...]:
    chosen = [row.shape[1:] for row in structure.layers if row.chosen]
    return chosen[0] if chosen else rows[-1].shape[1:]


def _lowering(rows: Sequence[LayerRow], size: tuple[int, ...], target: str) -> tuple[str, str] | None:
    """(what enters, what lowers) at the last step down to ``size``; None where nothing is larger.

    A module that takes several steps is looked into; so is one that holds the target layer, and one before which
    there is nothing.
    """
    inside, before = "", None
    while True:
        children = list(_children(rows, inside))
        holds = [target.startswith(f"{row.name}.") for row in children]
        place = next((i for i, row in enumerate(children) if holds[i] or row.shape[1:] == size), None)
        if place is None:
            return None
        name = children[place].name
        before = children[place - 1].name if place else before
        if holds[place]:
            inside = name
            continue
        larger = {
            row.shape[1:]
            for row in rows
            if row.name.startswith(f"{name}.") and _area(row.shape[1:]) > _area(size)
        }
        if len(larger) <= (before is not None):
            return None if before is None else (before, name)
        inside = name


def _children(rows: Sequence[LayerRow], inside: str) -> Iterator[LayerRow]:
    """The outermost listed modules inside one."""
    within = [row for row in rows if not inside or row.name.startswith(f"{inside}.")]
    names = {row.name for row in within}
    for row in within:
        parts = row.name.split(".")
        outer = {".".join(parts[:i]) for i in range(1, len(parts))}
        if not outer & names:
            yield row


def _area(size: Sequence[int]) -> int:
    return size[0] * size[1] if len(size) == 2 else 0


def covered(network: nn.Module, layers: Sequence[str], images: Tensor) -> list[Spans | None]:
    """The part of the image that each layer covers; None for all of it."""
    covers = inspect_network(network, images).covers
    return [covers.get(place_named(name)) for name in layers]


@contextmanager
def watched(
    network: nn.Module, layers: Sequence[str], images: Tensor
) -> Iterator[Callable[[], list[Tensor]]]:
    """What layers show while something else runs the network: called afterwards, their maps (N, C, h, w), detached.

    Kept is each layer's first output with as many images, of this thread; the passes themselves are not touched. Raises
    `InputError` for a layer that is not there, was not reached, or shows no map.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    >>> images = torch.zeros(2, 3, 8, 8)
    >>> with watched(net, ["0"], images) as seen:
    ...     _ = net(images)
    >>> seen()[0].shape
    torch.Size([2, 4, 6, 6])
    """
    n, kept, counts = len(images), dict[str, Tensor](), dict[str, int]()
    layouts = {row.name: row.layout for row in inspect_network(network, images).layers}
    shown = [
        True
    ]  # whether the images themselves pass through, and not those that the network is looked at with

    def enter(module: nn.Module, args: Any) -> None:
        if args and isinstance(args[0], Tensor):
            shown[0] = args[0].shape == images.shape and torch.equal(args[0], images)
            counts.clear()

    def keep(name: str) -> Callable[..., None]:
        layout, call = layouts.get(name, NCHW), place_named(name)[1]

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not shown[0]:
                return
            counts[name] = counts.get(name, 0) + 1
            first, output = name not in kept and counts[name] == call + 1, output_tensor(output)
            if first and output is not None and len(output) == n and not layout.mismatch(output):
                with torch._C.DisableTorchFunction():  # the engine counts the network's operations
                    found = layout.to_map(output.detach())
                    if found.ndim == 4 and found[0, 0].numel() > 1:
                        kept[name] = found.clone()  # what follows may work in place

        return hook

    def maps() -> list[Tensor]:
        for name in layers:
            if name not in kept:
                raise InputError(
                    f"layer '{name}' showed no map (N, C, h, w) of {n} images; name one that does"
                )
        return [kept[name].to(torch.promote_types(kept[name].dtype, torch.float32)) for name in layers]

    modules = dict(network.named_modules())
    for name in layers:
        if place_named(name)[0] not in modules:
            raise unknown("layer", name, [name for name in modules if name])
    handles: list[Any] = [network.register_forward_pre_hook(own_thread(enter))]
    handles += [
        modules[place_named(name)[0]].register_forward_hook(own_thread(keep(name))) for name in layers
    ]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()
