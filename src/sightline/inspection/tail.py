"""What lies behind a layer, as a network of its own: perturbations of the layer need not run the trunk again."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from sightline.inspection.guard import FX_LOCK, OwnTracer, eval_mode, original
from sightline.inspection.structure import LayerRef

Tail = Callable[[Tensor, Tensor, Tensor], Any]  # (images, rows, activations) -> the network's output

_CACHE: weakref.WeakKeyDictionary[nn.Module, dict[Any, fx.GraphModule | None]] = weakref.WeakKeyDictionary()


class _Tracer(OwnTracer):
    """Keeps one module whole, so that its output is a node of the graph; and poolings that look at values."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaf = m is self.whole or getattr(m, "looks_at_values", False)
        return leaf or super().is_leaf_module(m, module_qualified_name)


def _cut(network: nn.Module, site: LayerRef) -> fx.GraphModule | None:
    """The graph behind ``site``; None where the network cannot be traced or is more than a graph of one input."""
    if site.op is not None:
        return None
    whole = network.get_submodule(site.name)
    try:
        with FX_LOCK:
            graph = _Tracer(whole).trace(network)
    except Exception:  # torch.fx raises many kinds for control flow; the caller then takes the slow road
        return None
    nodes = [n for n in graph.nodes if n.op == "call_module" and n.target == site.name]
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    if not nodes or len(inputs) != 1:
        return None
    node = nodes[site.call or 0]
    if any(user.target is operator.getitem and user.args[1] == 0 for user in node.users):
        return None  # it returns a tuple
    with graph.inserting_after(inputs[0]):
        given = graph.placeholder("activations")
    node.replace_all_uses_with(given)
    graph.erase_node(node)
    module = fx.GraphModule(network, graph)
    module.graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output"))
    module.recompile()
    return module


def _run(graph: fx.GraphModule, images: Tensor, rows: Tensor, activations: Tensor) -> Any:
    first = next(iter(graph.graph.nodes))  # the image; it has users where a connection passes the layer by
    return graph(images[rows] if first.users else images, activations)


def tail(network: nn.Module, site: LayerRef, images: Tensor, activations: Tensor, output: Any) -> Tail | None:
    """The part of ``network`` behind ``site``, or None where it cannot be had; checked against ``output``.

    Traced once and remembered. A tail that does not give back the network's own output for the activations
    that it observed is not used.
    """
    if original(network) is not network:  # it takes more than the image
        return None
    marker = (site, tuple(id(m) for m in network.modules()))
    with eval_mode(network):  # which also is the network's lock
        kept = _CACHE.setdefault(network, {})
        if marker not in kept:
            kept[marker] = _cut(network, site)
        graph = kept[marker]
    if graph is None or not isinstance(output, Tensor):
        return None
    with eval_mode(network), eval_mode(graph), torch.no_grad():
        again = graph(images[:1], activations[:1].clone())  # what follows may work in place
    if not isinstance(again, Tensor) or not torch.allclose(again, output[:1].detach(), rtol=1e-3, atol=1e-4):
        return None
    return partial(_run, graph)
