"""The late maps of a detector: what its heads read of the image, found by what the network computes.

A detector has no single last map. Its heads read several together (the levels of a feature pyramid), or one that
everything goes through (a backbone without a pyramid, the encoder of a DETR). Taken are the last such maps that let
nothing of the image by: with them blocked, the detections no longer depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, cast

from torch import Tensor, nn

from sightline.inspection.flow import dependent
from sightline.inspection.layers import LayerRef
from sightline.inspection.layout import Layout
from sightline.inspection.reading import Reader
from sightline.inspection.recording import Call, Key, record, tensors_in
from sightline.inspection.tokens import directional
from sightline.targets import Detection


def detects(output: Any, target: Any) -> bool:
    """Whether what is explained are detections: boxes in the output, or a target that reads them.

    >>> import torch
    >>> detects([{"boxes": torch.zeros(1, 4)}], None), detects(torch.zeros(1, 3), None)
    (True, False)
    """
    first = output[0] if isinstance(output, (list, tuple)) and output else output
    found = [first.get(name) for name in ("boxes", "pred_boxes")] if isinstance(first, dict) else []
    found.append(getattr(first, "pred_boxes", None))
    return isinstance(target, Detection) or any(isinstance(one, Tensor) for one in found)


def late_maps(
    reader: Reader, network: nn.Module, calls: Collection[Call], score: Callable[[Any], Any]
) -> list[LayerRef]:
    """The maps that all detections are made from, the finest first; none where there are no such.

    Several are maps of different sizes that one module is given together. Those that no gradient reaches are left out
    (what only proposes regions, as the coarsest level of Faster R-CNN does).
    """
    for call in reversed(reader.recorder.calls):
        maps = _maps_given(reader, call)
        if len({area for area, _ in maps.values()}) > 1 and _lets_nothing_by(reader, set(maps)):
            ordered = sorted(maps, key=lambda key: maps[key][0], reverse=True)
            kept = _with_gradient(reader, network, ordered, score) or ordered
            return [reader.site_of(key, maps[key][1]) for key in kept]
    for call in sorted(calls, key=lambda one: (one.last_op, -one.first_op), reverse=True):
        layout, key = reader.call_layout(call), cast(Key, call.output_key)
        if layout is not None and _lets_nothing_by(reader, {key}):
            made = reader.producer.get(key)
            patches = made is not None and made.function == "conv2d" and reader.cuts_patches(made)
            return [] if patches else [reader.site_of(key, layout)]
    return []


def _with_gradient(
    reader: Reader, network: nn.Module, keys: list[Key], score: Callable[[Any], Any]
) -> list[Key]:
    """Those of the tensors that a gradient of the score comes back to."""
    again = record(network, reader.seen.images.detach(), score, gradients=True)
    ops, numbers = again.recorder.ops, [reader.producer[key].index for key in keys]
    edges = {key: ops[i].edge for key, i in zip(keys, numbers, strict=True) if i < len(ops) and ops[i].edge}
    found = directional(list(edges.values()), tensors_in(again.score)) if edges else []
    return [key for key, gradient in zip(edges, found, strict=True) if gradient is not None]


def _maps_given(reader: Reader, call: Call) -> dict[Key, tuple[int, Layout]]:
    """The maps of the image among what a module was given: their areas and layouts."""
    found = {}
    for tensor, key in call.given:
        layout = reader.map_layout(tensor, key)
        if layout is not None and len(tensor) == reader.n and key in reader.producer:
            found[key] = (layout.to_map(tensor).shape[2:].numel(), layout)
    return found


def _lets_nothing_by(reader: Reader, keys: set[Key]) -> bool:
    """Whether the score depends on the image through these tensors only."""
    around = dependent(reader.flows, reader.source, keys)
    written = {key for i in around for key, _ in reader.flows[i].writes}
    return not any(key in written - keys for key, _ in reader.sinks)
