"""Where the layers' grids lie in the image: what `Coverage` found, written into a structure, or why it is refused."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from sightline.inspection.coverage import Coverage
from sightline.inspection.following import follows
from sightline.inspection.layers import LayerRef, Structure
from sightline.inspection.probes import Place
from sightline.inspection.reading import Reader
from sightline.inspection.recording import Key


def located(structure: Structure, reader: Reader, network: nn.Module) -> Structure:
    """The structure with the part of the image that each layer covers, and without a target that lies elsewhere."""
    coverage = Coverage(reader, network)
    keys = _keys(structure, reader)
    unpadded = {place: spans for place, key in keys.items() if (spans := coverage.unpadded(key))}
    known = all(key in coverage.spans and coverage.is_whole(coverage.spans[key]) for key in keys.values())
    if known and not unpadded:
        return structure
    covers = {p: s for p, key in keys.items() if (s := coverage.spans.get(key)) and not coverage.is_whole(s)}
    covers |= unpadded
    lost = {p: coverage.why_wrong(key) for p, key in keys.items() if key not in coverage.spans}

    def placed(site: LayerRef) -> LayerRef:
        return replace(site, covers=covers.get(_place(site)), unpadded=_place(site) in unpadded)

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
    )
    for site in structure.levels or ((target,) if target is not None else ()):
        if _place(site) not in structure.lost:
            continue
        why = structure.lost[_place(site)] or why_not_there(network, reader.seen.images, site, structure)
        if why:
            gone = replace(structure, target=None, head=None, levels=())
            return replace(gone, why_no_target=why, why_no_head=why, displaced=why)
    return structure


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


def _place(site: LayerRef) -> Place:
    return (str(site), 0) if site.op is not None else (site.name, site.call or 0)


def _keys(structure: Structure, reader: Reader) -> dict[Place, Key]:
    """The tensors of all layers that can be named, and of those that were found."""
    rows = {row.name for row in structure.layers}
    found = (structure.target, *structure.convs, *structure.stages, *structure.levels)
    sites = [site for site in found if site is not None]
    wanted = {_place(site) for site in sites}
    keys = {
        (call.module, call.call): call.output_key
        for call in reader.recorder.calls
        if call.output_key is not None and (reader.named(call) in rows or (call.module, call.call) in wanted)
    }
    for site in sites:
        if site.op is not None:
            keys[_place(site)] = reader.recorder.ops[site.op].output_key
    return keys
