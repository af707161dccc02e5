"""Receptive fields by kernel, stride and padding arithmetic through the network's graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sightline.errors import UnsupportedError
from sightline.inspection.guard import FX_LOCK, OwnTracer
from sightline.inspection.structure import LayerRef
from sightline.inspection.trunk import graph_until

Pair = tuple[int, int]

_POINTWISE_MODULES = (
    nn.Identity, nn.BatchNorm2d, nn.Dropout, nn.Dropout2d, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU,
    nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Tanh, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid,
    nn.Hardtanh,
)  # fmt: skip
_POINTWISE_FUNCTIONS: set[Any] = {
    operator.add, operator.iadd, operator.mul, operator.imul, operator.sub, operator.truediv, torch.add, torch.mul,
    torch.relu, torch.unsqueeze, torch.sigmoid, torch.tanh, torch.cat, F.relu, F.relu6, F.silu, F.gelu, F.hardswish,
    F.hardsigmoid, F.leaky_relu, F.dropout, F.batch_norm,
}  # fmt: skip
_POINTWISE_METHODS = {"contiguous", "relu", "relu_", "add", "add_", "mul", "mul_", "sigmoid", "tanh", "clone"}
_POOLS: set[Any] = {torch.max_pool2d, F.max_pool2d, F.avg_pool2d}


@dataclass(frozen=True)
class ReceptiveField:
    """The input pixels [start + i·jump, start + i·jump + size) that position i of a layer depends on, (h, w) each.

    For layers with kernel k, stride t, padding p and dilation d, k' = d(k − 1) + 1: start −= p·jump,
    size += (k' − 1)·jump, jump *= t; branches that meet see the union.
    """

    start: Pair
    jump: Pair
    size: Pair

    def centre(self, y: int, x: int) -> tuple[float, float]:
        """Centre (y, x), in network pixels, of the field of position (y, x).

        >>> ReceptiveField((-1, -1), (2, 2), (3, 3)).centre(1, 0)
        (2.5, 0.5)
        """
        at = [s + i * j + r / 2 for s, i, j, r in zip(self.start, (y, x), self.jump, self.size, strict=True)]
        return at[0], at[1]

    def box(self, y: int, x: int, input_hw: Pair) -> Tensor:
        """The field (4,) xyxy of position (y, x), half-open, clipped to the input.

        >>> ReceptiveField((-1, -1), (2, 2), (3, 3)).box(1, 0, (8, 8))
        tensor([0., 1., 2., 4.])
        """
        low = [s + i * j for s, i, j in zip(self.start, (y, x), self.jump, strict=True)]
        high = [min(a + r, side) for a, r, side in zip(low, self.size, input_hw, strict=True)]
        top, left = max(low[0], 0), max(low[1], 0)
        return torch.tensor([left, top, high[1], high[0]], dtype=torch.float32)

    def _after(self, kernel: Pair, stride: Pair, padding: Pair) -> ReceptiveField:
        def each(f: Callable[[int], int]) -> Pair:
            return (f(0), f(1))

        return ReceptiveField(
            each(lambda i: self.start[i] - padding[i] * self.jump[i]),
            each(lambda i: self.jump[i] * stride[i]),
            each(lambda i: self.size[i] + (kernel[i] - 1) * self.jump[i]),
        )

    def _union_with(self, other: ReceptiveField) -> ReceptiveField:
        if self.jump != other.jump:
            raise UnsupportedError(f"branches of strides {self.jump} and {other.jump} meet")
        start = (min(self.start[0], other.start[0]), min(self.start[1], other.start[1]))
        ends = [max(a.start[i] + a.size[i] for a in (self, other)) for i in (0, 1)]
        return ReceptiveField(start, self.jump, (ends[0] - start[0], ends[1] - start[1]))


PIXEL = ReceptiveField((0, 0), (1, 1), (1, 1))


def receptive_field(network: nn.Module, site: LayerRef | str) -> ReceptiveField:
    """The receptive field of a layer by arithmetic (see `ReceptiveField`), exact for local operations.

    Raises `UnsupportedError`, with the reason, if torch.fx cannot trace the network or an operation is not local:
    global pooling (squeeze and excitation), attention, normalisation over the image.

    >>> receptive_field(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)), "2")
    ReceptiveField(start=(-1, -1), jump=(2, 2), size=(4, 4))
    """
    return _field_of_graph(network, graph_until(network, site), PIXEL)


def _field_of_graph(root: nn.Module, graph: fx.Graph, given: ReceptiveField) -> ReceptiveField:
    """The field at the end of a graph."""
    fields: dict[fx.Node, ReceptiveField | None] = {}
    for node in graph.nodes:
        if node.op != "output":
            fields[node] = given if node.op == "placeholder" else _step(root, node, fields)
        elif any(fields.get(n) for n in node.all_input_nodes):
            return _union(node, fields)
    raise UnsupportedError(f"{type(root).__name__} has no output that depends on the image")


def _step(
    root: nn.Module, node: fx.Node, fields: dict[fx.Node, ReceptiveField | None]
) -> ReceptiveField | None:
    """The field of one node; None if it is not a map (a constant, a parameter)."""
    if not any(fields.get(n) for n in node.all_input_nodes):
        return None
    before = _union(node, fields)
    if node.op == "call_module":
        return _module(root.get_submodule(str(node.target)), before)
    if node.op == "call_method" and node.target in _POINTWISE_METHODS:
        return before
    if node.op == "call_function" and node.target in _POINTWISE_FUNCTIONS:
        return before
    if node.op == "call_function" and node.target in _POOLS:
        return _pooled(node, before)
    if node.target is operator.getitem and isinstance(node.args[1], tuple) and len(node.args[1]) <= 2:
        return before  # selects images and channels, not positions
    raise UnsupportedError(f"'{_called(node)}' is not known to be local: it may look at the whole map")


def _union(node: fx.Node, fields: dict[fx.Node, ReceptiveField | None]) -> ReceptiveField:
    """The union of the fields of the node's inputs."""
    found = [field for n in node.all_input_nodes if (field := fields.get(n)) is not None]
    return reduce(ReceptiveField._union_with, found)


def _module(module: nn.Module, before: ReceptiveField) -> ReceptiveField:
    if isinstance(module, nn.Conv2d):
        kernel = _pair(module.kernel_size)
        reach = tuple(d * (k - 1) + 1 for d, k in zip(_pair(module.dilation), kernel, strict=True))
        padding = module.padding
        if isinstance(padding, str):
            padding = tuple((r - 1) // 2 if padding == "same" else 0 for r in reach)
        return before._after((reach[0], reach[1]), _pair(module.stride), _pair(padding))
    if isinstance(module, nn.MaxPool2d):
        reach = tuple(
            d * (k - 1) + 1 for d, k in zip(_pair(module.dilation), _pair(module.kernel_size), strict=True)
        )
        return before._after((reach[0], reach[1]), _pair(module.stride), _pair(module.padding))
    if isinstance(module, nn.AvgPool2d):
        return before._after(_pair(module.kernel_size), _pair(module.stride), _pair(module.padding))
    if isinstance(module, _POINTWISE_MODULES):
        return before
    if type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential):
        raise UnsupportedError(f"a {type(module).__name__} is not known to be local")
    try:
        with FX_LOCK:
            graph = OwnTracer().trace(module)  # the layer itself, if it has several parts
    except Exception as error:  # torch.fx raises many kinds for control flow
        raise UnsupportedError(f"{type(module).__name__} cannot be traced: {error}") from None
    return _field_of_graph(module, graph, before)


def _pooled(node: fx.Node, before: ReceptiveField) -> ReceptiveField:
    names = ("input", "kernel_size", "stride", "padding")
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    kernel: Any = given["kernel_size"]
    stride: Any = given.get("stride") or kernel
    padding: Any = given.get("padding", 0)
    if given.get("dilation", 1) not in (1, (1, 1)):
        raise UnsupportedError(f"'{_called(node)}' with dilation")
    return before._after(_pair(kernel), _pair(stride), _pair(padding))


def _called(node: fx.Node) -> str:
    if node.target is getattr:  # reading x.shape, say
        return f".{node.args[1]}"
    return str(getattr(node.target, "__name__", node.target))


def _pair(value: Any) -> Pair:
    return (int(value[0]), int(value[1])) if isinstance(value, (tuple, list)) else (int(value), int(value))
