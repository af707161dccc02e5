"""What a network computes, seen once: its target layer and its head, found without being told.

One forward pass of one image is written down operation by operation (`record`). From that record, and never from
module names, follow the operations that depend on the image and lead to the score, the tensor among them that enters
the last spatial pooling (or the last map of tokens, `find_token_layers`), the kind of head behind it, and the
activation that belongs to each convolution.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from sightline.errors import InputError, network_error
from sightline.inspection.detectors import detects, late_maps
from sightline.inspection.displacement import reorders_tokens
from sightline.inspection.flow import asks_values
from sightline.inspection.functions import CONVOLUTIONS, POOLINGS
from sightline.inspection.guard import (
    eval_mode,
    network_lock,
    original,
    refuse_unobservable,
    state_of,
    unwrapped,
)
from sightline.inspection.inputs import for_first, held_values, spelling
from sightline.inspection.layers import DISORDERED
from sightline.inspection.layers import Head as Head
from sightline.inspection.layers import LayerRef as LayerRef
from sightline.inspection.layers import LayerRow as LayerRow
from sightline.inspection.layers import Structure as Structure
from sightline.inspection.layout import NCHW, Layout
from sightline.inspection.locating import located
from sightline.inspection.moves import moves_in
from sightline.inspection.probes import Place, fitting_layouts, probe_image
from sightline.inspection.reading import Reader
from sightline.inspection.recording import Call, Key, Record, key_of, record, tensors_in
from sightline.inspection.rows import may_move_rows
from sightline.inspection.tokens import directional, find_token_layers, may_be_named, place_of
from sightline.targets import ClassScore, OutputTarget, logits_of


def explained(target: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """What of an output is explained: the target's score, else the class scores, else all of it."""

    def score(output: Any) -> Any:
        logits = logits_of(output)
        if target is None or isinstance(target, ClassScore):
            return output if logits is None else logits
        try:
            given = target.settled(output) if isinstance(target, OutputTarget) else target
            scores = given(output)
        except Exception:  # it may be made for the whole batch; the network's whole output then counts
            return output
        return scores if tensors_in(scores) else output

    return score


def _inspect(
    network: nn.Module, images: Tensor, target: Callable[[Any], Any] | None, whole: bool
) -> Structure:
    score = explained(target)
    seen = record(network, images.detach(), score) if whole else _first_record(network, images, score)
    reader = Reader(network, seen)
    found = located(_structure(reader, network, target), reader, network)
    return replace(
        found,
        interrupts=seen.recorder.interrupts,
        rows=reader.n,
        moves_rows=may_move_rows(reader.ops, reader.n),
        moves=moves_in(reader.recorder.ops),
        reorders=reorders_tokens(reader),
        by_values=asks_values(reader.flows),
    )


def _first_record(network: nn.Module, images: Tensor, score: Callable[[Any], Any]) -> Record:
    """A pass of a probe image; of the user's own, or of the whole batch, where the network takes no other."""
    one = images[:1].detach()
    tries = [probe_image(images), one] + ([images.detach()] if len(images) > 1 else [])
    error: Exception | None = None
    for given in tries:
        try:
            return record(network, given, score)
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as failed:
            error = failed
    assert error is not None
    raise network_error(network, images.shape, error) from error


def _structure(reader: Reader, network: nn.Module, target: Callable[[Any], Any] | None) -> Structure:
    score, found = explained(target), reader.last_spatial()
    calls = [call for call in reader.live_calls() if call.output is not None]
    known = {place_of(c): layout for c in calls if (layout := reader.call_layout(c)) is not None}
    late = late_maps(reader, network, calls, score) if detects(reader.seen.output, target) else []
    if late:
        structure = _detector(late)
    elif isinstance(found, str):
        structure, placed_here = _of_tokens(reader, network, score, calls, known, found)
        known = {**known, **placed_here}
    else:
        structure = _convolutional(reader, network, score, *found)
    if structure.target is None:
        structure = replace(structure, why_no_head=structure.why_no_head or structure.why_no_target)
    elif structure.head is None and not structure.why_no_head:
        structure = replace(
            structure, why_no_head="its scores are not one linear layer on the pooled target layer"
        )
    return _with_layers(reader, structure, calls, known)


def _detector(late: Sequence[LayerRef]) -> Structure:
    """The one map that all detections are made from, or the levels that are fused."""
    if len(late) == 1:
        return Structure(target=late[0])
    names = ", ".join(repr(str(site)) for site in late)
    return Structure(levels=tuple(late), why_no_target=f"its detections are made from several maps, {names}")


def _with_layers(
    reader: Reader, structure: Structure, calls: list[Call], known: dict[Place, Layout]
) -> Structure:
    """The structure with the convolutions and all layers that can be named."""
    found = structure.levels or ((structure.target,) if structure.target is not None else ())
    target, chosen, rows = structure.target, {str(site) for site in found}, []
    for call in calls:
        if place_of(call) in known and place_of(call) not in structure.patchless:
            rows.append(reader.row(call, known[place_of(call)], chosen))
    for site in found:
        if site.op is not None:
            layout, op = site.layout or NCHW, reader.recorder.ops[site.op]
            shape = tuple(layout.to_map(op.output).shape[1:])
            rows.append(LayerRow(str(site), "operation", shape, True, layout))
    grids = reader.grids()
    undecided = {place_of(c): fitting_layouts(cast(Tensor, c.output), grids, reader.n) for c in calls}
    convs = reader.convolutions()
    if all(reader.cuts_patches(op) for op in reader.ops if op.function in CONVOLUTIONS):
        convs = []  # a patch embedding
    convs = convs if target is not None or structure.why_no_target != _IMAGE_ITSELF else []
    last_of_size = {tuple(op.output.shape[2:]): op for op in convs}
    outputs = [call for call in reader.recorder.calls if call.module and call.output is not None]
    return replace(
        structure,
        layers=tuple(rows),
        convs=tuple(reader.site_of(op.output_key) for op in convs),
        stages=tuple(reader.site_of(op.output_key) for op in last_of_size.values()),
        shapes={place_of(c): tuple(cast(Tensor, c.output).shape) for c in outputs},
        undecided={p: fits for p, fits in undecided.items() if fits and p not in known},
        types={name: type(module).__name__ for name, module in reader.modules.items()},
    )


_IMAGE_ITSELF = "it has no layer with a map, since what it pools or flattens is the image itself"


def _convolutional(
    reader: Reader, network: nn.Module, score: Callable[[Any], Any], tensor: Tensor, key: Key, pooled: Tensor
) -> Structure:
    """The target is the map that is pooled last; of several such maps side by side, the one with a gradient."""
    branches = [(tensor, key, pooled)]
    while len(branches) < 8:
        beside = reader.last_spatial(reader.beside({one[1] for one in branches}))
        if isinstance(beside, str) or beside[1] not in reader.producer:
            break
        branches.append(beside)
    if len(branches) > 1:
        branches = _with_gradient(reader, network, score, branches) or branches[:1]
    if len(branches) > 1:
        return Structure(why_no_target=_side_by_side(str(reader.site_of(key)) for _, key, _ in branches))
    return _pooled_target(reader, *branches[0])


def _side_by_side(names: Iterable[str]) -> str:
    return f"several layers lead to the score side by side, {', '.join(repr(name) for name in names)}; name one of them"


def _with_gradient(
    reader: Reader,
    network: nn.Module,
    score: Callable[[Any], Any],
    branches: list[tuple[Tensor, Key, Tensor]],
) -> list[tuple[Tensor, Key, Tensor]]:
    """Those branches at which the score has a gradient other than zero."""
    again = record(network, reader.seen.images.detach(), score, gradients=True)
    numbers = [reader.producer[key].index if key in reader.producer else None for _, key, _ in branches]
    ops = again.recorder.ops
    edges = [ops[i].edge if i is not None and i < len(ops) else None for i in numbers]
    asked = [edge for edge in edges if edge is not None]
    gradients = iter(directional(asked, tensors_in(again.score)))
    found = []
    for branch, edge in zip(branches, edges, strict=True):
        g = next(gradients) if edge is not None else None
        if g is not None and bool(g.any()):
            found.append(branch)
    return found


def _pooled_target(reader: Reader, tensor: Tensor, key: Key, pooled: Tensor) -> Structure:
    layout = reader.map_layout(tensor, key) or NCHW
    if len(tensor) != reader.n:
        return Structure(why_no_target=_not_the_batch(tuple(tensor.shape), reader.n))
    head = None
    conv_head = reader.conv_head(key, pooled)
    if conv_head is not None:
        head, key = conv_head
    elif pooled.flatten(1).shape[1] == tensor.shape[layout.channel_axis]:
        head = reader.linear_head(layout.to_map(tensor), pooled)
    if key not in reader.producer:
        return Structure(why_no_target=_IMAGE_ITSELF)
    return Structure(target=reader.site_of(key, layout), head=head)


def _not_the_batch(shape: tuple[int, ...], n: int) -> str:
    return (
        f"its last map is {shape} for {n} image{'s' if n > 1 else ''}: the first axis is not the batch "
        "(frames or regions are folded into it)"
    )


def _of_tokens(
    reader: Reader,
    network: nn.Module,
    score: Callable[[Any], Any],
    calls: list[Call],
    known: dict[Place, Layout],
    why: str,
) -> tuple[Structure, dict[Place, Layout]]:
    """The target is the last map of a block or a normalisation whose positions have a gradient."""
    clear = _why_nothing(reader, network, score)
    if clear:
        return Structure(why_no_target=clear), {}
    whole = [call for call in calls if len(cast(Tensor, call.output)) == reader.n]
    nameable = [c for c in whole if may_be_named(c, reader.modules, reader.functions_in(c))]
    found = find_token_layers(
        network, reader.seen.images.detach(), score, known, whole, nameable, reader.grids()
    )
    if found.disordered:
        return Structure(why_no_target=DISORDERED, why_no_head=DISORDERED, displaced=DISORDERED), {}
    if not found.live:
        return Structure(why_no_target=why), {}
    last, beside = reader.last_of_line(found.live)
    structure = Structure(patchless=frozenset(found.patchless), tokens=True)
    if beside and not reader.share_a_trunk([last, *beside], whole):  # streams, and not scales of one trunk
        names = [reader.named(call) for call in (last, *beside)]
        return replace(structure, why_no_target=_side_by_side(names)), found.layouts
    layout, key = found.layouts[place_of(last)], reader.after_residual(cast(Key, last.output_key))
    made = reader.producer[key].output if key in reader.producer else cast(Tensor, last.output)
    maps = layout.to_map(made)
    head = reader.linear_head(maps, maps.flatten(2).mean(2))
    return replace(structure, target=reader.site_of(key, layout), head=head), found.layouts


_OUT_OF_SIGHT = "what it computes of the image is out of sight (in another thread, or under torch.vmap)"


def _why_unrelated(reader: Reader, network: nn.Module, score: Callable[[Any], Any]) -> str:
    """Why no operation leads from the image to the score, told by another image, darker to the left."""
    given = reader.seen.images
    with eval_mode(network), torch.no_grad():
        again = network(given * torch.linspace(0.2, 1, given.shape[-1]).to(given))
        if not _same_values(reader.seen.score, score(again)):
            return _OUT_OF_SIGHT
    unmoved = _same_values(reader.seen.output, again)
    return f"{'its output' if unmoved else 'the target'} does not depend on the image"


def _same_values(first: Any, second: Any) -> bool:
    pairs = zip(tensors_in(first), tensors_in(second), strict=False)
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def _why_nothing(reader: Reader, network: nn.Module, score: Callable[[Any], Any]) -> str:
    """Why there can be no target layer, where that is clear; else ""."""
    if not reader.live:
        return _why_unrelated(reader, network, score)
    made = [*tensors_in(reader.seen.score), *tensors_in(reader.seen.output)]
    dense = [t for t in made if t.ndim > 3 and t.shape[2:].numel() > 1]
    if dense:
        return f"its output is a map itself, {tuple(dense[0].shape)}"
    users = [op for op in reader.ops if reader.input_layout(op) is not None]
    after = users[-1].index if users else -1
    later = [op for op in reader.ops if op.index > after and op.function in POOLINGS]
    if any(op.inputs[0].ndim > 2 and op.inputs[0].shape[2:].numel() == 1 for op in later):
        return "its last map has one position: the image is too small for this network"
    return ""


def inspect_network(
    network: nn.Module,
    images: Tensor,
    target: Callable[[Any], Any] | None = None,
    *,
    whole: bool = False,
) -> Structure:
    """The structure of ``network`` as one forward pass of one image shows it; remembered per size.

    ``target``: what is explained of its output, where that is not a class score. ``whole``: as a pass of all of the
    images shows it, for networks that go another way with several (detectors resize one after the other). Raises
    nothing of its own but `UnsupportedError` for TorchScript and quantised networks: what is missing (no target layer,
    another head) stands in the result.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> structure = inspect_network(net, torch.zeros(1, 3, 8, 8))
    >>> str(structure.target), structure.head.kind
    ('1', 'linear')
    """
    network = unwrapped(network) if whole else for_first(unwrapped(network))
    marker = (*_marker(network, images, target), len(images) if whole else 1)
    with network_lock(network):
        kept = _CACHE.setdefault(original(network), {})
        found = kept.get(marker)
        if found is not None and found.measured and ("values", _values(network)) not in found.proved:
            del kept[marker]  # it may lie elsewhere with these weights or inputs
        if marker not in kept:
            refuse_unobservable(network)
            for stale in [k for k in kept if k[0] != marker[0]] or list(kept)[:-_KEPT]:
                del kept[stale]
            with eval_mode(network):  # to read a spectral norm's weight in training mode is to change it
                kept[marker] = _inspect(network, images, target, whole)
            kept[marker].proved.add(("values", _values(network) if kept[marker].measured else ()))
            if _marker(network, images, target)[0] != marker[0]:  # it counts its calls, say
                _UNSTEADY.add(original(network))
                marker = (*_marker(network, images, target), marker[-1])
                kept[marker] = kept.popitem()[1]
        return kept[marker]


def _values(network: nn.Module) -> tuple[Any, ...]:
    """What the place of the maps may depend on: the versions of weights and buffers, and the inputs held fixed."""
    held = itertools.chain(network.parameters(), network.buffers())
    return (tuple(key_of(tensor) for tensor in held), held_values(network))


_UNSTEADY: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # networks whose options change as they run
_KEPT = 64  # sizes and targets of a network that are remembered
_CACHE: weakref.WeakKeyDictionary[nn.Module, dict[Any, Structure]] = weakref.WeakKeyDictionary()


def _marker(network: nn.Module, images: Tensor, target: Callable[[Any], Any] | None) -> tuple[Any, ...]:
    state = state_of(original(network), original(network) not in _UNSTEADY)
    place = (tuple(images.shape[1:]), images.dtype, images.device)
    return (state, *place, _spelling(target), spelling(network))


def _spelling(target: Any) -> Any:
    """What tells two targets apart: the code of a function and what it closes over, else the object."""
    if target is None or isinstance(target, OutputTarget):
        return target if target is None else (type(target), repr(target))
    code = getattr(target, "__code__", None)
    if code is None:
        return (type(target), id(target))
    closed = [cell.cell_contents for cell in target.__closure__ or ()]
    plain = tuple(c if isinstance(c, (int, str, float, type(None))) else id(c) for c in closed)
    return (code, plain, repr(target.__defaults__))


def forget(network: nn.Module) -> None:
    """What was found of a network is looked for again the next time: it did not prove true."""
    network = original(unwrapped(network))
    with network_lock(network):
        _CACHE.pop(network, None)
