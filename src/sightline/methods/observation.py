"""The forward pass that a method needs: at which layers it looks, and what the pass must keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sightline.engine import Evidence, OtherPathError, observe, refuse_inference_mode
from sightline.errors import InputError, UnsupportedError
from sightline.inspection.guard import eval_mode, refuse_unobservable, unwrapped
from sightline.inspection.layers import Head, LayerRef, Structure, why_patchless
from sightline.inspection.layout import Layout
from sightline.inspection.locating import check_inputs, check_moves, to_be_proved, why_elsewhere
from sightline.inspection.moves import Moves
from sightline.inspection.naming import named_layer
from sightline.inspection.rows import check_rows
from sightline.inspection.structure import forget, inspect_network
from sightline.methods.registry import Method

Layer = Any  # a name, a module, or a list of either

MOST_SHARED = 4  # passes that are kept: the images, their mirror images, two scales
_shared: ContextVar[list[Evidence] | None] = ContextVar("shared", default=None)


@contextmanager
def shared_passes() -> Iterator[None]:
    """Methods that are run in here, on the same images at the same layers, share one forward pass.

    The weights of the network must stay as they are. What was observed is kept until the end of the block.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> from sightline.methods.registry import get_method
    >>> x, cam, gradcam = torch.rand(1, 3, 8, 8), get_method("cam"), get_method("gradcam")
    >>> with shared_passes():
    ...     observe_for(cam, net, x)[0] is observe_for(gradcam, net, x)[0]
    True
    """
    token = _shared.set([])
    try:
        yield
    finally:
        _shared.reset(token)


@contextmanager
def own_pass() -> Iterator[None]:
    """Within `shared_passes`: who watches the network during a pass needs one of its own."""
    token = _shared.set(None)
    try:
        yield
    finally:
        _shared.reset(token)


def shareable(method: Method) -> bool:
    """Whether a method looks at one layer only, so that it can share another's forward pass."""
    return method.layers is None and "activations" in method.needs and "input_gradient" not in method.needs


def observe_for(
    method: Method,
    network: nn.Module,
    images: Tensor,
    layer: Layer = None,
    options: dict[str, Any] | None = None,
    *,
    layout: Layout | str = "auto",
    target: Callable[[Any], Any] | None = None,
) -> tuple[Evidence, list[LayerRef]]:
    """The forward pass that this method needs, at the layers that were named or found, and verified.

    What an earlier pass showed of the network is checked against this one: each layer was reached once and is the
    map it was, the score depends on it, the head gives the logits. If not, the network is looked at again, once, and
    then once more with all of the images.
    """
    network = unwrapped(network)
    layer = _checked_layer(method, layer, layout)
    refuse_inference_mode()
    if "activations" not in method.needs:
        if "input_gradient" in method.needs:
            refuse_unobservable(network, layers=False)
        evidence, _ = _observed(method, network, images, [], False)
        if "input_gradient" in method.needs and not evidence.reaches(target):
            evidence, _ = _observed(method, network, images, [], True)  # gradients may be switched off inside
        return evidence, []
    how = (method, network, images, layer, options or {}, layout, target)
    try:
        return _found_and_observed(*how)
    except OtherPathError:
        forget(network)
    try:
        return _found_and_observed(*how)
    except OtherPathError as error:
        if len(images) == 1 or layer is not None:
            raise
        try:
            return _found_and_observed(*how, whole=True)
        except InputError:
            alone = "; or explain one image at a time" if _goes_alone(*how) else ""
            raise OtherPathError(f"{error}{alone}") from None


def _goes_alone(method: Method, network: nn.Module, images: Tensor, *how: Any) -> bool:
    """Whether the first image can be explained by itself, where the batch cannot."""
    try:
        _found_and_observed(method, network, images[:1], *how)
    except Exception:  # whatever it is, the advice would be wrong
        return False
    return True


def _checked_layer(method: Method, layer: Layer, layout: Layout | str) -> Layer:
    if layer is not None and "activations" not in method.needs:
        raise InputError(
            f"method {method.name!r} explains the image's pixels and takes no layer; got {layer!r}"
        )
    if not isinstance(layout, (str, Layout)):
        raise InputError(
            f"layout={layout!r}; expected 'auto', a Layout, or its text, e.g. 'nhwc' or 'ntc:1+14x14'"
        )
    if layer is None and layout != "auto":
        raise InputError(
            f"layout={str(layout)!r} was given without a layer; name the layer that it describes"
        )
    if method.layers is None and isinstance(layer, (list, tuple)):
        if len(layer) != 1:
            raise InputError(
                f"method {method.name!r} explains one layer; got {len(layer)}; 'fullycam' fuses several"
            )
        return layer[0]
    return layer


def _found_and_observed(
    method: Method,
    network: nn.Module,
    images: Tensor,
    layer: Layer,
    options: dict[str, Any],
    layout: Layout | str,
    target: Callable[[Any], Any] | None,
    whole: bool = False,
) -> tuple[Evidence, list[LayerRef]]:
    structure = inspect_network(network, images, target, whole=whole)
    if not whole:
        check_inputs(structure, network, images, lambda one, image: inspect_network(one, image, target))
    sites = _sites(network, images, method, layer, options, structure)
    if layout != "auto":
        given = Layout.parse(layout) if isinstance(layout, str) else layout
        sites = [replace(site, layout=given) for site in sites]
    checked = [*sites]
    if "classifier" in method.needs:
        if structure.head is None or structure.target is None:
            raise UnsupportedError(
                f"{method.name} needs a head of pooling and one linear layer (or a 1×1 class convolution and "
                f"pooling); here {structure.why_no_head}; use 'gradcam'"
            )
        if sites[0] != structure.target:
            checked.append(structure.target)
    moves = to_be_proved(structure, network, checked, len(images))
    evidence, fresh = _observed(method, network, images, checked, structure.interrupts, moves)
    if fresh and moves is not None:
        check_moves(structure, checked, len(images), moves)
    if fresh:
        _share(method, evidence)
    if len(checked) > len(sites) and not _same(evidence.layers):
        raise UnsupportedError(
            f"{method.name} reads the layer before the pooling, '{checked[-1]}', not '{sites[0]}'; use 'gradcam'"
        )
    if len(images) > 1 and structure.moves_rows:
        check_rows(network, images, sites)
    evidence.head, evidence.moves_rows = structure.head, structure.moves_rows
    if "classifier" in method.needs:
        _verify_head(evidence, evidence.layers[-1])
    if "gradient" in method.needs and not evidence.reaches(target):
        raise OtherPathError(
            f"no gradient reaches layer '{sites[0]}' from the target: it does not depend on the layer, or the network "
            "computes it without gradient (in a torch.autograd.Function, by re-entrant checkpointing); name another "
            "layer, or use a method that needs none, such as 'recipro_cam' or 'occlusion'"
        )
    return evidence, sites


def _observed(
    method: Method,
    network: nn.Module,
    images: Tensor,
    sites: list[LayerRef],
    interrupts: bool,
    moves: Moves | None = None,
) -> tuple[Evidence, bool]:
    """The pass, and whether it was made now; one that was shared has been checked already."""
    shared = _shared.get() if shareable(method) else None
    for before in shared or []:
        if _serves(before, network, images, sites, interrupts):
            return before, False
    evidence = observe(
        network,
        images,
        sites,
        gradient="gradient" in method.needs or shared is not None,
        input_gradient="input_gradient" in method.needs,
        guided="guided" in method.needs,
        interrupts=interrupts,
        moves=moves,
    )
    return evidence, True


def _share(method: Method, evidence: Evidence) -> None:
    """Keep a pass, once it is checked, for the other methods of `shared_passes`."""
    shared = _shared.get() if shareable(method) else None
    if shared is not None:
        shared.append(evidence)
        del shared[:-MOST_SHARED]


def _serves(
    before: Evidence, network: nn.Module, images: Tensor, sites: list[LayerRef], interrupts: bool
) -> bool:
    """Whether a pass that was made for another method is the one that is asked for."""
    if before.network is not network or before.settings["interrupts"] != interrupts:
        return False
    if [(site, site.layout) for site in before.sites] != [(site, site.layout) for site in sites]:
        return False
    return before.inputs.shape == images.shape and torch.equal(before.inputs, images)


def _same(layers: list[Tensor]) -> bool:
    return layers[0].shape == layers[-1].shape and torch.equal(layers[0], layers[-1])


def _verify_head(evidence: Evidence, maps: Tensor) -> None:
    """Raise `OtherPathError` unless W · pool(A) + b is what the network returned."""
    head, logits = evidence.head, evidence.logits
    assert head is not None
    if logits is None:
        raise OtherPathError("the network returned no class scores this time")
    again = _by_the_head(evidence, head, maps)
    low = logits.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(maps.device.type)
    slack = (5e-2 if low else 5e-3) * float(logits.float().abs().amax())
    if again is None:
        return
    if again.shape != logits.shape or float((again - logits).float().abs().amax()) > slack + 1e-6:
        raise OtherPathError(f"the scores are not those of the head '{head.module}' this time")


def _by_the_head(evidence: Evidence, head: Head, maps: Tensor) -> Tensor | None:
    """The logits from the target layer's maps by the head that was found; None where its pooling has no name."""
    weight, bias = evidence.classifier_weights()
    flat = maps.flatten(2)
    if head.kind == "conv":
        flat = torch.einsum("kc,ncl->nkl", weight, flat) + bias[:, None]
        flat = flat.relu() if head.relu else flat
        return flat.amax(2) if head.pooling == "max" else flat.mean(2) if head.pooling == "mean" else None
    if head.pooling in ("mean", "max"):
        pooled = flat.mean(2) if head.pooling == "mean" else flat.amax(2)
    elif head.pooling:
        with eval_mode(evidence.network), torch.no_grad():
            pooled = evidence.network.get_submodule(head.pooling)(maps).flatten(1)
    else:
        return None
    return pooled @ weight.T.to(pooled.dtype) + bias


def _sites(
    network: nn.Module,
    images: Tensor,
    method: Method,
    layer: Layer,
    options: dict[str, Any],
    structure: Structure,
) -> list[LayerRef]:
    if layer is None and method.layers is not None:
        layer = options.get("layers", method.layers)
        if layer in ("convs", "stages") and structure.displaced:
            raise UnsupportedError(structure.displaced)
        if layer in ("convs", "stages"):
            found = structure.convs if layer == "convs" else structure.stages
            if not found:
                raise UnsupportedError(
                    f"{method.name} fuses convolutions and this network has none (but for cutting the image into "
                    + (
                        f"patches); name layers, e.g. {structure.suggestions()}, or use 'layercam'"
                        if structure.layers
                        else "patches), and no layer that can be named; use 'rise' or 'occlusion'"
                    )
                )
            if layer == "stages" and structure.target is None and not structure.levels:
                raise _no_target(structure)  # of each size, the last layer is one of several side by side
            for site in found:
                if why := why_elsewhere(network, images, site, structure):
                    raise UnsupportedError(why)
            return list(found)
        if not layer:
            raise InputError(f"layers={layer!r}; expected 'convs', 'stages' or names")
    if layer is None:
        if structure.levels:
            return list(structure.levels)
        if structure.displaced:
            raise UnsupportedError(structure.displaced)
        if structure.target is None:
            raise _no_target(structure)
        return [structure.target]
    named: Sequence[Any] = layer if isinstance(layer, (list, tuple)) else [layer]
    sites = [named_layer(network, one, images) for one in named]
    for site in sites if method.class_specific else ():
        if (site.name, site.call or 0) in structure.patchless:
            raise UnsupportedError(why_patchless(structure, site))
    return sites


def _no_target(structure: Structure) -> InputError:
    way_out = (
        f"give `layer=` ({_offered(structure)}`sightline layers MODEL` lists what may be named)"
        if structure.layers
        else "use a method that needs no layer, such as 'rise' or 'occlusion'"
    )
    return InputError(f"no target layer was found: {structure.why_no_target}; {way_out}")


def _offered(structure: Structure) -> str:
    return f"e.g. {structure.suggestions(shapes=True)}; " if structure.layers else ""
