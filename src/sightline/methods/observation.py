"""The forward pass that a method needs: at which layers it looks, and what the pass must keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sightline.engine import Evidence, observe, refuse_inference_mode
from sightline.errors import InputError, UnsupportedError
from sightline.inspection.structure import LayerRef, Structure, inspect_network, named_layer
from sightline.methods.registry import Method

Layer = Any  # a name, a module, or a list of either


def observe_for(
    method: Method,
    network: nn.Module,
    images: Tensor,
    layer: Layer = None,
    options: dict[str, Any] | None = None,
) -> tuple[Evidence, list[LayerRef]]:
    """The forward pass that this method needs, at the layers that were named or found."""
    needs = method.needs
    if method.layers is None and isinstance(layer, (list, tuple)):
        if len(layer) != 1:
            raise InputError(
                f"method {method.name!r} explains one layer; got {len(layer)}; 'fullycam' fuses several"
            )
        layer = layer[0]
    if layer is not None and "activations" not in needs:
        raise InputError(
            f"method {method.name!r} explains the image's pixels and takes no layer; got {layer!r}"
        )
    structure: Structure | None = None
    sites: list[LayerRef] = []
    if "activations" in needs:
        refuse_inference_mode()
        structure = inspect_network(network, images) if layer is None or "classifier" in needs else None
        sites = _sites(network, images, method, layer, options or {}, structure)
    checked = [*sites]
    if "classifier" in needs and structure is not None:
        if structure.head is None or structure.target is None:
            raise UnsupportedError(
                f"{method.name} needs a head of pooling and one linear layer (or a 1×1 class convolution and "
                f"pooling); of this network {structure.why_no_head}; use 'gradcam'"
            )
        if sites[0] != structure.target:
            checked.append(structure.target)
    evidence = observe(
        network,
        images,
        checked,
        gradient="gradient" in needs,
        input_gradient="input_gradient" in needs,
        guided="guided" in needs,
    )
    if len(checked) > len(sites) and not _same(evidence.layers):
        raise UnsupportedError(
            f"{method.name} reads the layer before the pooling, '{checked[-1]}', not '{sites[0]}'; use 'gradcam'"
        )
    evidence.head = structure.head if structure else None
    return evidence, sites


def _same(layers: list[Tensor]) -> bool:
    return layers[0].shape == layers[-1].shape and torch.equal(layers[0], layers[-1])


def _sites(
    network: nn.Module,
    images: Tensor,
    method: Method,
    layer: Layer,
    options: dict[str, Any],
    structure: Structure | None,
) -> list[LayerRef]:
    if layer is None and method.layers is not None:
        layer = options.get("layers", method.layers)
        if layer in ("convs", "stages"):
            found = structure.convs if layer == "convs" else structure.stages  # type: ignore[union-attr]
            if not found:
                raise UnsupportedError(f"{method.name} fuses convolutions and this network has none")
            return list(found)
        if not layer:
            raise InputError(f"layers={layer!r}; expected 'convs', 'stages' or names")
    if layer is None:
        assert structure is not None
        if structure.target is None:
            raise InputError(
                f"no target layer was found: {structure.why_no_target}; give `layer=` "
                "(`sightline layers MODEL` lists what may be named)"
            )
        return [structure.target]
    named: Sequence[Any] = layer if isinstance(layer, (list, tuple)) else [layer]
    return [named_layer(network, one, images) for one in named]
