"""Where the layers' grids lie in the image: what `Coverage` found, written into a structure, or why it is refused.

It was found by one pass; `to_be_proved` and `check_moves` see to it that it holds for another.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from sightline.errors import UnsupportedError
from sightline.inspection.checks import OtherPathError
from sightline.inspection.coverage import Coverage
from sightline.inspection.following import follows
from sightline.inspection.inputs import for_first, for_rows, held_names, held_rows
from sightline.inspection.layers import LayerRef, Structure
from sightline.inspection.moves import Moves, same_moves
from sightline.inspection.probes import Place, probe_image
from sightline.inspection.reading import Reader
from sightline.inspection.recording import Key

Inspect = Callable[[nn.Module, Tensor], Structure]


def located(structure: Structure, reader: Reader, network: nn.Module) -> Structure:
    """The structure with the part of the image that each layer covers, and without a target that lies elsewhere."""
    coverage = Coverage(reader, network)
    keys = _keys(structure, reader)
    unpadded = {place: spans for place, key in keys.items() if (spans := coverage.unpadded(key))}
    structure = replace(structure, ends=_ends(structure, reader), measured=coverage.measured)
    known = all(key in coverage.spans and coverage.is_whole(coverage.spans[key]) for key in keys.values())
    if known and not unpadded:
        return structure
    covers = {p: s for p, key in keys.items() if (s := coverage.spans.get(key)) and not coverage.is_whole(s)}
    covers |= unpadded
    lost = {p: coverage.why_wrong(key) for p, key in keys.items() if key not in coverage.spans}

    def placed(site: LayerRef) -> LayerRef:
        return replace(site, covers=covers.get(place_of_site(site)), unpadded=place_of_site(site) in unpadded)

    target = None if structure.target is None else placed(structure.target)
    structure = replace(
        structure,
        target=target,
        convs=tuple(map(placed, structure.convs)),
        stages=tuple(map(placed, structure.stages)),
        levels=tuple(map(placed, structure.levels)),
        covers=covers,
        unpadded=frozenset(unpadded),
        lost={place: _elsewhere(reason) if reason else "" for place, reason in lost.items()},
        measured=coverage.measured or bool(lost),
    )
    for site in structure.levels or ((target,) if target is not None else ()):
        if place_of_site(site) not in structure.lost:
            continue
        why = structure.lost[place_of_site(site)] or why_not_there(
            network, reader.seen.images, site, structure
        )
        if why:
            gone = replace(structure, target=None, head=None, levels=())
            return replace(gone, why_no_target=why, why_no_head=why, displaced=why)
    return structure


def _ends(structure: Structure, reader: Reader) -> dict[Place, int]:
    calls = {(call.module, call.call): call.last_op for call in reader.recorder.calls}
    found = (structure.target, *structure.convs, *structure.stages, *structure.levels)
    return calls | {
        place_of_site(site): site.op + 1 for site in found if site is not None and site.op is not None
    }


def to_be_proved(structure: Structure, network: nn.Module, sites: Sequence[LayerRef], n: int) -> Moves | None:
    """What counts the moves of a pass that may move positions otherwise than the inspected one; None for the others.

    Without a way that depends on values, a pass of as many images at the same layers goes as the one before did.
    """
    if torch.compiler.is_compiling():
        return None
    by_values = structure.by_values or bool(held_names(network))
    return Moves() if by_values or (n, *map(str, sites)) not in structure.proved else None


def check_moves(structure: Structure, sites: Sequence[LayerRef], n: int, moves: Moves) -> None:
    """Raise `OtherPathError` if a pass moved positions otherwise than the one by which the maps were placed."""
    ends = [structure.ends.get(place_of_site(site), math.inf) for site in sites]
    last = max(ends, default=math.inf)
    before = Counter(move for index, move in structure.moves if index < last)
    if not same_moves(before, moves.counts, n == structure.rows):
        where = f"before layer '{sites[-1]}' " if sites else ""
        raise OtherPathError(
            f"{where}the network crops, pads, resizes or turns these images otherwise than others: where its maps lie "
            "depends on the images or on a state of the network; do that to the images before, and explain the rest of "
            "the network (or use 'saliency' or 'occlusion', which explain pixels)"
        )
    structure.proved.add((n, *map(str, sites)))


def check_inputs(structure: Structure, network: nn.Module, images: Tensor, inspect: Inspect) -> None:
    """Raise `UnsupportedError` where inputs of their own put the maps of the images of a batch in different places."""
    rows = held_rows(network)
    if not structure.measured or rows == 1:
        return
    for i in range(1, rows):
        other = inspect(for_rows(network, torch.tensor([i])), images[:1])
        if (other.covers, other.lost, other.displaced) != (
            structure.covers,
            structure.lost,
            structure.displaced,
        ):
            raise UnsupportedError(
                f"where the network's maps lie depends on its inputs {held_names(network)}, which differ from image to "
                "image; explain one image at a time"
            )


def why_elsewhere(network: nn.Module, images: Tensor, site: LayerRef, structure: Structure) -> str:
    """Why a layer's maps do not lie on the image, or not where they would be drawn; "" for a layer that does."""
    place = place_of_site(site)
    if place not in structure.lost or ("lies", place) in structure.proved:
        return ""
    if why := structure.lost[place] or why_not_there(
        for_first(network), probe_image(images), site, structure
    ):
        return why
    structure.proved.add(("lies", place))
    return ""


def why_not_there(network: nn.Module, image: Tensor, site: LayerRef, structure: Structure) -> str:
    """Why a layer of which it is not known where it lies is refused; "" where it follows the image, or is silent."""
    if structure.tokens and site.layout is not None and site.layout.order != "nchw":
        return ""  # its layout was found by changing patches
    if len(image) > 1 or follows(network, image.detach(), site) is not False:
        return ""
    return (
        f"what moves in layer '{site}' does not follow the patch of the image that is changed: the network turns, "
        "rolls or cuts its maps inside; name an earlier layer, or use 'saliency' or 'occlusion', which explain pixels"
    )


def _elsewhere(reason: str) -> str:
    return (
        f"the network {reason}, so that its maps do not lie on the image; do that to the images before, and explain "
        "the rest of the network (or use 'saliency' or 'occlusion', which explain pixels)"
    )


def place_of_site(site: LayerRef) -> Place:
    """Where a structure keeps what it knows of a layer."""
    return (str(site), 0) if site.op is not None else (site.name, site.call or 0)


def _keys(structure: Structure, reader: Reader) -> dict[Place, Key]:
    """The tensors of all layers that can be named, and of those that were found."""
    rows = {row.name for row in structure.layers}
    found = (structure.target, *structure.convs, *structure.stages, *structure.levels)
    sites = [site for site in found if site is not None]
    wanted = {place_of_site(site) for site in sites}
    keys = {
        (call.module, call.call): call.output_key
        for call in reader.recorder.calls
        if call.output_key is not None and (reader.named(call) in rows or (call.module, call.call) in wanted)
    }
    for site in sites:
        if site.op is not None:
            keys[place_of_site(site)] = reader.recorder.ops[site.op].output_key
    return keys
