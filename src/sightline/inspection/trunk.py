"""The graph of a network up to one of its layers; what follows it is not traced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from sightline.errors import UnsupportedError
from sightline.inspection.guard import FX_LOCK, OwnTracer, eval_mode
from sightline.inspection.structure import LayerRef


class _Reached(Exception):
    pass


class _Until(OwnTracer):
    """Traces up to a module, kept as a leaf: its call is the last node."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.last: fx.Node | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m is self.module or super().is_leaf_module(m, module_qualified_name)

    def own_call(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        proxy = super().own_call(m, forward, args, kwargs)
        if m is self.module:
            self.last = proxy.node
            raise _Reached
        return proxy


def graph_until(network: nn.Module, site: LayerRef | str) -> fx.Graph:
    """The torch.fx graph whose output is the output of layer ``site``, the layer being a single node.

    Raises `UnsupportedError`, with the reason, if torch.fx cannot trace the network that far.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
    >>> [node.op for node in graph_until(net, "1").nodes]
    ['placeholder', 'call_module', 'call_module', 'output']
    """
    if isinstance(site, LayerRef) and (site.op is not None or site.call):
        raise UnsupportedError(f"layer '{site}' is an operation, not a module")
    name = site if isinstance(site, str) else site.name
    tracer = _Until(network.get_submodule(name))
    try:
        with eval_mode(network), FX_LOCK:
            tracer.trace(network)
    except _Reached:
        pass
    except Exception as error:  # torch.fx raises many kinds for control flow
        raise UnsupportedError(f"{type(network).__name__} cannot be traced: {error}") from None
    if tracer.last is None:
        raise UnsupportedError(f"layer '{name}' is not reached")
    tracer.graph.output(tracer.last)
    tracer.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    return tracer.graph


def trunk_up_to(network: nn.Module, site: LayerRef, images: Tensor, activations: Tensor) -> nn.Module:
    """The network up to ``site``, sharing its layers; checked against its ``activations`` for ``images``.

    Raises `UnsupportedError` if it cannot be cut there.
    """
    trunk = fx.GraphModule(network, graph_until(network, site)).eval()
    with torch.no_grad():
        same = torch.allclose(trunk(images).float(), activations, rtol=1e-4, atol=1e-5)
    if not same:
        raise UnsupportedError(f"{type(network).__name__}, cut at '{site}', gives different activations")
    return trunk
