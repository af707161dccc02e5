"""The target layer of a network whose last map is tokens, or channels last: transformers, mixers, Swin.

It is the last output of a normalisation or of a block that is a map of the image and of whose positions more than 90 %
have a gradient. Where a class token is pooled that is the first norm of the last block (behind its attention only the
class token goes on), where tokens are averaged it is the final norm, and so on: nothing depends on names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sightline.inspection.layout import Layout
from sightline.inspection.probes import Place, fitting_layouts, placed, stands_row_by_row
from sightline.inspection.recording import Call, Leaves, Record, record, tensors_in

_ENOUGH = 0.9  # of the positions must have a gradient
_FIRST = 4  # layers that are asked whether tokens stand row by row
_LATE = 12  # so many of the last layers are looked at first
_PATCHES = (4, 14)  # where the image is cut up by reshaping; 8, 16 and 32 are halvings of 4
_NORMS = frozenset(["layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm"])


@dataclass
class TokenLayers:
    """What was found: ``live`` calls in the order they end, and those whose patches have no gradient at all.

    ``disordered``: the tokens do not stand row by row behind their prefix, so that none can be read.
    """

    live: list[Call] = field(default_factory=list)
    layouts: dict[Place, Layout] = field(default_factory=dict)
    patchless: set[Place] = field(default_factory=set)
    disordered: bool = False


def place_of(call: Call) -> Place:
    return (call.module, call.call)


def possible_grids(seen: Iterable[tuple[int, int]], image: Tensor) -> list[tuple[int, int]]:
    """The grids of the convolutions' outputs and their halvings, those about as wide as the image, largest first.

    >>> possible_grids([(14, 14), (1, 1), (3, 40)], torch.zeros(1, 3, 224, 224))
    [(14, 14), (7, 7), (4, 4), (2, 2)]
    """
    height, width = image.shape[-2:]
    whole = height / width
    fit = {(h, w) for h, w in seen if h * w > 1 and h <= height and abs(h / w - whole) < whole / 3} - {
        (height, width)
    }
    if not fit:
        fit = {(height // p, width // p) for p in _PATCHES if height % p == 0 == width % p}
    halved = {(math.ceil(h / 2**k), math.ceil(w / 2**k)) for h, w in fit for k in range(4)}
    return sorted((grid for grid in halved if grid[0] * grid[1] > 1), reverse=True)


def may_be_named(call: Call, modules: Mapping[str, nn.Module], functions: Sequence[str]) -> bool:
    """A block, or a normalisation: not one of the projections inside attention."""
    module = modules[call.module]
    if any(True for _ in module.children()):
        return True
    return "norm" in type(module).__name__.lower() or any(name in _NORMS for name in functions)


def find_token_layers(
    network: nn.Module,
    image: Tensor,
    score: Callable[[Any], Any],
    known: Mapping[Place, Layout],
    calls: Sequence[Call],
    nameable: Sequence[Call],
    grids: Sequence[tuple[int, int]],
) -> TokenLayers:
    """The layers among the ``nameable`` calls that lead to the score; of all ``calls``, which are patchless."""
    layouts = {place_of(call): known[place_of(call)] for call in calls if place_of(call) in known}
    unknown: dict[Place, list[Layout]] = {}
    for call in nameable:
        assert call.output is not None
        fits = fitting_layouts(call.output, grids, len(image))
        if place_of(call) not in layouts and fits:
            unknown[place_of(call)] = fits
    if unknown and len(image) == 1:
        layouts |= placed(network, image, unknown)
    found = TokenLayers(layouts=layouts)
    fitting = {place: fits[0] for place, fits in unknown.items() if place not in layouts}
    if not layouts:
        return found
    ordered = sorted(calls, key=lambda call: (call.last_op, -call.first_op))
    if len(image) == 1 and not _in_order(network, image, ordered, layouts):
        return TokenLayers(disordered=True)
    wanted = {place_of(call) for call in nameable}
    placed_ones = [place_of(call) for call in ordered if place_of(call) in {*layouts, *fitting}]
    nameable_ones = [place for place in placed_ones if place in wanted and place in layouts]
    for start in (nameable_ones[-_LATE:][:1], []):  # late ones first: less of the network needs a graph
        gradients = _gradients(network, image, score, placed_ones, start[0] if start else None)
        _sort_out(found, ordered, gradients, wanted, fitting)
        if found.live or len(nameable_ones) <= _LATE:
            break
    return found


def _in_order(
    network: nn.Module, image: Tensor, ordered: Sequence[Call], layouts: Mapping[Place, Layout]
) -> bool:
    """Whether tokens stand row by row in the first layer that has them, and in the first that has special ones.

    More precisely in the first that shows it, for in what an attention returns the tokens are mixed.
    """
    tokens = [p for p in map(place_of, ordered) if p in layouts and layouts[p].order in ("ntc", "nct")]
    special = [place for place in tokens if layouts[place].prefix]
    for places in (tokens[:_FIRST], special[:_FIRST]):
        verdicts = []
        for place in places:
            verdicts.append(stands_row_by_row(network, image, place, layouts[place]))
            if verdicts[-1][1]:
                break
        if verdicts and not (verdicts[-1] if verdicts[-1][1] else verdicts[0])[0]:
            return False
    return True


def _sort_out(
    found: TokenLayers,
    ordered: Sequence[Call],
    gradients: Mapping[Place, Tensor],
    wanted: set[Place],
    fitting: Mapping[Place, Layout],
) -> None:
    """Which calls are live, and of which the patches have no gradient."""
    for call in ordered:
        place = place_of(call)
        if place not in gradients:
            continue
        layout = found.layouts.get(place) or fitting[place]
        moved = layout.to_map(gradients[place]).abs().amax(1) > 0
        share = float(moved.float().mean())
        if share > _ENOUGH and place in wanted and place in found.layouts:
            found.live.append(call)
        elif share == 0 and layout.prefix:
            found.patchless.add(place)


def _gradients(
    network: nn.Module,
    image: Tensor,
    score: Callable[[Any], Any],
    places: Sequence[Place],
    start: Place | None,
) -> dict[Place, Tensor]:
    """∂/∂A of a random direction of the score, for each of the calls from ``start`` on that lead to it."""
    leaves = Leaves(frozenset(places), start) if start is not None else None
    again = record(network, image, score, gradients=True, leaves=leaves)
    calls = {place_of(call): call for call in again.recorder.calls if call.edge is not None}
    known = [place for place in places if place in calls]
    for outputs in (tensors_in(again.score), before_zero_heads(again, network)):
        found = directional([calls[place].edge for place in known], outputs)
        if any(g is not None and bool(g.any()) for g in found):
            return {place: g for place, g in zip(known, found, strict=True) if g is not None}
    return {}


def directional(edges: Sequence[Any], outputs: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradient at each edge of the outputs in a random direction, the same one each time."""
    generator = torch.Generator().manual_seed(2)
    total: Any = 0
    for output in outputs:
        if output.requires_grad and output.is_floating_point():
            weight = torch.randn(output.shape, generator=generator, dtype=torch.float32)
            with torch.enable_grad():  # the caller may have switched it off
                total = total + (output.float() * weight.to(output.device)).sum()
    if not isinstance(total, Tensor):
        return [None] * len(edges)
    return list(torch.autograd.grad(total, list(edges), allow_unused=True, retain_graph=True))


def before_zero_heads(again: Record, network: nn.Module) -> list[Tensor]:
    """What enters the linear layers whose weights are still all zero, as some heads are when they are made."""
    widths = {t.shape[-1] for t in tensors_in(again.score) if t.ndim}
    found = []
    for op in again.recorder.ops:
        if op.function != "linear" or op.output.ndim != 2 or op.output.shape[1] not in widths:
            continue
        if len(op.inputs) > 1 and not bool(op.inputs[1].any()):
            found.append(op.inputs[0])
    return found
