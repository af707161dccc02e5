"""The layers that a user may name, and what is meant by a name."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from sightline.errors import InputError, UnsupportedError, unknown
from sightline.inspection.guard import plain_name, unwrapped
from sightline.inspection.inputs import for_first
from sightline.inspection.layers import DISORDERED, LayerRef, LayerRow, Structure, why_patchless
from sightline.inspection.layout import Layout
from sightline.inspection.locating import why_elsewhere
from sightline.inspection.probes import Place, placed, probe_image
from sightline.inspection.structure import inspect_network


def describe_layers(network: nn.Module, images: Tensor) -> tuple[LayerRow, ...]:
    """What may be named as ``layer``, with shapes; the one that is chosen automatically is marked.

    >>> [row.name for row in describe_layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.zeros(1, 3, 8, 8))]
    ['0', '1']
    """
    network = for_first(unwrapped(network))
    structure = inspect_network(network, images)
    if not structure.undecided:
        return structure.layers
    found = placed(network, probe_image(images), structure.undecided)
    rows = [*structure.layers]
    for (name, call), layout in found.items():
        many = (name, 1) in structure.shapes
        rows.append(
            LayerRow(
                f"{name}#{call}" if many else name,
                structure.types[name],
                _map_shape(structure.shapes[name, call], layout),
                layout=layout,
            )
        )
    order = {place: number for number, place in enumerate(structure.shapes)}
    return tuple(sorted(rows, key=lambda row: order.get(place_named(row.name), len(order))))


def _map_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    return tuple(layout.to_map(torch.empty(shape, device="meta")).shape[1:])


def place_named(name: str) -> Place:
    """The module and the number of its call that a layer's name means: 'relu#1' is the second."""
    module, _, number = name.partition("#")
    return (module, int(number) if number.isdecimal() else 0)


def named_layer(network: nn.Module, layer: str | nn.Module, images: Tensor) -> LayerRef:
    """The site a user means by a module or by a name: 'layer4', or 'layer1.0.relu#1' for its second call.

    Its layout is found as well. Raises `InputError` for a name that is none and for an output that is no map.
    """
    network = for_first(unwrapped(network))
    modules = dict(network.named_modules())
    if isinstance(layer, nn.Module):
        inner = unwrapped(layer)
        names = [name for name, module in modules.items() if module in (layer, inner)]
        if not names:
            raise InputError(f"layer {type(layer).__name__} is not a module of {type(network).__name__}")
        layer = names[0]
    layer = plain_name(str(layer), network)
    name, _, number = layer.partition("#")
    if name in modules and name and (not number or number.isdecimal()):
        return _with_layout(network, LayerRef(name, call=int(number) if number else None), images)
    structure = inspect_network(network, images)
    for site in (structure.target, *structure.levels, *structure.convs):
        if site is not None and str(site) == layer:
            return site
    valid = [row.name for row in structure.layers] or [n for n in modules if n]
    raise unknown("layer", layer, valid, hint="(`sightline layers MODEL` lists them)")


def _with_layout(network: nn.Module, site: LayerRef, images: Tensor) -> LayerRef:
    """The site with the layout of its tensor; a site without one has no tensor, or is called more than once."""
    structure = inspect_network(network, images)
    place = (site.name, site.call or 0)
    shape = structure.shapes.get(place)
    if shape is None or (site.call is None and (site.name, 1) in structure.shapes):
        return site  # observation says what is wrong
    for row in structure.layers:
        if place_named(row.name) == place:
            return _where_it_lies(network, replace(site, layout=row.layout), images, structure)
    if structure.displaced == DISORDERED and place in structure.undecided:
        raise UnsupportedError(f"layer '{site}' of this network is no map: {DISORDERED}")
    if place in structure.undecided and structure.rows == 1:
        fits = {place: structure.undecided[place]}
        layout = placed(network, probe_image(images), fits).get(place)
        if layout is not None:
            return replace(site, layout=layout)
    raise InputError(_why_no_layout(structure, site, place, shape))


def _where_it_lies(network: nn.Module, site: LayerRef, images: Tensor, structure: Structure) -> LayerRef:
    """The site with the part of the image that it covers; raises `UnsupportedError` if it lies elsewhere."""
    place = (site.name, site.call or 0)
    if place not in structure.lost:
        return replace(site, covers=structure.covers.get(place), unpadded=place in structure.unpadded)
    if why := why_elsewhere(network, images, site, structure):
        raise UnsupportedError(why)
    return site


def _why_no_layout(structure: Structure, site: LayerRef, place: Place, shape: tuple[int, ...]) -> str:
    if place in structure.patchless:
        return why_patchless(structure, site)
    rest = f"name one of {structure.suggestions()}" if structure.layers else "no other can be named"
    if shape[0] != structure.rows and len(shape) > 2:
        return (
            f"layer '{site}' returns {shape} for {structure.rows} image{'s' if structure.rows > 1 else ''}: its "
            f"first axis is not the batch; {rest}"
        )
    return (
        f"layer '{site}' has no spatial map that is known to be one: it returns {shape}; expected (N, C, h, w) "
        f"with more than one position, or tokens of a grid; {rest}, or say how it lies: layout='nhwc' or 'ntc:1+14x14'"
    )
