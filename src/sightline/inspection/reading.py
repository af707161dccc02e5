"""Questions to the record of one pass: what is pooled last, by what head, which layer that is."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from sightline.inspection.axes import bare, layouts_of
from sightline.inspection.flow import dependent, leading
from sightline.inspection.functions import (
    ACTIVATIONS,
    BETWEEN,
    CONVOLUTIONS,
    FLATTENINGS,
    POOLINGS,
    REDUCTIONS,
)
from sightline.inspection.layers import Head, LayerRef, LayerRow
from sightline.inspection.layout import NCHW, Layout
from sightline.inspection.recording import Call, Key, Op, Record, key_of, ref_of, tensors_in
from sightline.inspection.tokens import possible_grids
from sightline.targets import logits_of

_RESIDUAL = frozenset(["add", "iadd", "radd", "mul", "imul", "rmul", "dropout"])
_EARLY = 40  # calls in which a common trunk is looked for


class Reader:
    """Answers questions about one record."""

    def __init__(self, network: nn.Module, seen: Record) -> None:
        self.network, self.seen = network, seen
        self.modules = dict(network.named_modules())
        self.recorder, self.flows = seen.recorder, seen.recorder.flows
        self.n = len(seen.images)
        self.assumed: set[Key] = set()
        self.layouts = layouts_of(seen.recorder.ops, seen.images, key_of(seen.images), self.assumed)
        self.source = [ref_of(seen.images)]
        self.sinks = [ref_of(t) for t in tensors_in(seen.score)]
        live = dependent(self.flows, self.source) & leading(self.flows, self.sinks)
        self.live = live
        self.ops = self._ops_of(live)
        self.producer: dict[Key, Op] = {}
        for op in self.recorder.ops:
            self.producer.setdefault(op.output_key, op)

    def _ops_of(self, positions: set[int]) -> list[Op]:
        numbers = (self.flows[i].op for i in sorted(positions))
        return [self.recorder.ops[number] for number in numbers if number is not None]

    def map_layout(self, tensor: Tensor, key: Key) -> Layout | None:
        """The layout of a float map of more than one position that is no row of tokens, where it is known."""
        layout = self.layouts.get(key)
        if layout is None or layout.order in ("ntc", "nct") or not tensor.is_floating_point():
            return None
        sides = [tensor.shape[axis] for axis in layout.spatial_axes]
        return layout if max(sides) > 1 else None

    def input_layout(self, op: Op) -> Layout | None:
        if not op.inputs:
            return None
        layout = self.map_layout(op.inputs[0], op.input_keys[0])
        if layout is None and self._averages_last_two(op):
            return NCHW
        return layout

    def _averages_last_two(self, op: Op) -> bool:
        """A mean over the last two of four axes, of a tensor whose axes could not be followed."""
        x = op.inputs[0]
        unknown = x.ndim == 4 and x.is_floating_point() and op.input_keys[0] not in self.layouts
        return unknown and x.shape[2] * x.shape[3] > 1 and self._reduced_axes(op) == (2, 3)

    def _reduced_axes(self, op: Op) -> tuple[int, ...] | None:
        if op.function not in REDUCTIONS:
            return None
        args, kwargs = op.arguments
        axes = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
        if op.function == "norm" and "dim" not in kwargs:
            axes = args[2] if len(args) > 2 else None
        if isinstance(axes, int):
            axes = (axes,)
        if not isinstance(axes, (tuple, list)) or not all(isinstance(axis, int) for axis in axes):
            return None
        return tuple(sorted(axis % op.inputs[0].ndim for axis in axes))

    def is_pooling(self, op: Op) -> bool:
        layout = self.input_layout(op)
        if layout is None or not op.output.is_floating_point():
            return False
        if op.function in POOLINGS:
            return layout.order != "nhwc"
        return self._reduced_axes(op) == layout.spatial_axes

    def is_flattening(self, op: Op) -> bool:
        """A flattening before a linear layer, or a convolution as large as the map, which is the same."""
        layout = self.input_layout(op)
        if layout is None:
            return False
        if op.function in CONVOLUTIONS:
            return op.inputs[1].shape[2:] == op.inputs[0].shape[2:]
        return op.function in FLATTENINGS and op.output.ndim == 2

    def last_spatial(self, ops: list[Op] | None = None) -> tuple[Tensor, Key, Tensor] | str:
        """The tensor that enters the last run of poolings, with its key and the run's pooled output."""
        ops = self.ops if ops is None else ops
        users = [op for op in ops if self.input_layout(op) is not None]
        if not users:
            return "it computes no spatial map (N, C, h, w)"
        last = users[-1]
        module = self._pooling_module(last)
        if module is not None and module.input is not None and module.output is not None:
            tensor, pooled = module.input, module.output
            key = key_of(tensor)
        elif self.is_pooling(last) or self.is_flattening(last):
            tensor, key, pooled = last.inputs[0], last.input_keys[0], last.output
        elif (found := self._pooled_in_two(last)) is not None:
            tensor, key, pooled = last.inputs[0], last.input_keys[0], found
        else:
            return (
                f"its last map, {' × '.join(map(str, last.inputs[0].shape[1:]))}, is not pooled "
                f"(it goes into {last.module or last.function!r}), and no block or norm behind it gives a map of tokens"
            )
        layout = self.map_layout(tensor, key) or NCHW
        if pooled.numel() == tensor.shape[0] * tensor.shape[layout.channel_axis]:
            return tensor, key, pooled  # global: what it pools is the target, whatever came before
        before = self.producer.get(key)
        while before is not None and self.is_pooling(before):
            tensor, key = before.inputs[0], before.input_keys[0]
            before = self.producer.get(key)
        return tensor, key, pooled

    def _pooled_in_two(self, op: Op) -> Tensor | None:
        """x.flatten(2).mean(-1), x.mean(3).mean(2): the pooled (N, C) of a map that is made (N, C, L) first."""
        shape = op.inputs[0].shape[:2]
        if op.output.ndim != 3 or op.output.shape[:2] != shape:
            return None
        after = next((o for o in self.ops if o.index > op.index and op.output_key in o.input_keys), None)
        pools = after is not None and after.function in REDUCTIONS and after.output.shape == shape
        return after.output if after is not None and pools else None

    def _pooling_module(self, last: Op) -> Call | None:
        """The outermost module without weights or activation that turns (N, C, h, w) into (N, C[, 1, 1])."""
        for call in self.recorder.calls:
            if not (call.first_op <= last.index < call.last_op) or call.input is None:
                continue
            layout = self.map_layout(call.input, key_of(call.input))
            if layout is None or call.output is None:
                continue
            n, c = call.input.shape[0], call.input.shape[layout.channel_axis]
            if call.output.shape not in ((n, c), (n, c, *[1] * (call.input.ndim - 2))):
                continue
            inside = self.recorder.ops[call.first_op : call.last_op]
            if not any(o.function in (*ACTIVATIONS, *CONVOLUTIONS, "linear") for o in inside):
                return call
        return None

    def site_of(self, key: Key, layout: Layout | None = None) -> LayerRef:
        """The outermost module whose output is this tensor as it was at that moment, else the operation."""
        layout = layout or self.layouts.get(key)
        made = [c for c in self.recorder.calls if c.module and c.output_key == key]  # from the outside in
        once = [c for c in made if self.recorder.counts[c.module] == 1]
        if once:
            return LayerRef(once[0].module, layout=layout)
        if made:
            return LayerRef(made[0].module, made[0].call, layout=layout)
        return replace(self.op_site(self.producer[key]), layout=layout)

    @staticmethod
    def op_site(op: Op) -> LayerRef:
        return LayerRef(op.module, op=op.index, function=op.function)

    def logits(self) -> Tensor | None:
        return logits_of(self.seen.output)

    def linear_head(self, maps: Tensor, pooled: Tensor) -> Head | None:
        """logits = W · pooled + b, by a linear layer or a 1×1 convolution on the pooled vector."""
        logits = self.logits()
        flat, mean = (
            pooled.flatten(1),
            maps.flatten(2).mean(2),
        )  # a mean may be spelled as a sum over the area
        for op in reversed(self.ops):
            if op.function not in (*CONVOLUTIONS, "linear") or not op.inputs or logits is None:
                continue
            x, out = op.inputs[0], op.output
            same = x.ndim >= 2 and x.numel() == flat.numel() and _equal(x.flatten(1), flat, mean)
            if same and out.numel() == logits.numel() and torch.equal(out.flatten(1), logits):
                module = self.owner(op)
                weight = getattr(self.modules[module], "weight", None)
                if isinstance(weight, Tensor) and weight.numel() == logits.shape[1] * flat.shape[1]:
                    return Head("linear", module, pooling=self.pooling(maps, x.flatten(1)))
        return None

    def owner(self, op: Op) -> str:
        """The module whose weight and bias an operation used: not the one that ran where it is a plain function."""
        given = [*op.inputs[1:3], None, None][:2]
        name: str
        for name, module in self.modules.items():
            held = [getattr(module, "weight", None), getattr(module, "bias", None)]
            if held[0] is not None and all(a is b for a, b in zip(held, given, strict=True)):
                return name
        return op.module

    def conv_head(self, key: Key, pooled: Tensor) -> tuple[Head, Key] | None:
        """logits = pool(ReLU?(W * A + b)): the head, and the key of the class convolution's input."""
        logits = self.logits()
        if logits is None or pooled.numel() != logits.numel() or not torch.equal(pooled.flatten(1), logits):
            return None
        op = self.producer.get(key)
        relu = op is not None and op.function in ("relu", "relu_")
        if op is not None and relu:
            op = self.producer.get(op.input_keys[0])
        if op is None or op.function not in CONVOLUTIONS:
            return None
        module = self.owner(op)
        weight = getattr(self.modules[module], "weight", None)
        if not isinstance(weight, Tensor) or weight.shape[2:].numel() != 1:
            return None
        scores = self.recorder.ops[self.producer[key].index].output
        return Head("conv", module, relu, self.pooling(scores, pooled.flatten(1))), op.input_keys[0]

    def pooling(self, maps: Tensor, pooled: Tensor) -> str:
        """By what (N, C, ...) becomes (N, C): "mean", "max", the name of a module, or ""."""
        flat = maps.flatten(2)
        if torch.allclose(pooled, flat.mean(2), rtol=1e-3, atol=1e-5):
            return "mean"
        if torch.equal(pooled, flat.amax(2)):
            return "max"
        for call in self.recorder.calls:
            same = call.input is not None and call.input.shape == maps.shape and torch.equal(call.input, maps)
            gives = same and call.output is not None and call.output.numel() == pooled.numel()
            if gives and torch.equal(cast(Tensor, call.output).flatten(1), pooled):
                return call.module
        return ""

    def after_activation(self, conv: Op) -> Op:
        """Follow a convolution through norms and additions to its activation, or as far as that goes."""
        at = conv
        for op in self.recorder.ops[conv.index + 1 :]:
            if at.output_key not in op.input_keys:
                continue
            if op.function in ACTIVATIONS:
                return op
            if op.function not in BETWEEN or op.output.shape != at.output.shape:
                return at
            at = op
        return at

    def after_residual(self, key: Key) -> Key:
        """Of a tensor that only goes into an addition, scaled or not, what comes out of it: a block's output."""
        found = at = key
        while True:
            users = [op for op in self.ops if at in op.input_keys]
            shape = self.producer[at].output.shape if at in self.producer else None
            if len(users) != 1 or users[0].output.shape != shape or bare(users[0].function) not in _RESIDUAL:
                return found
            at = users[0].output_key
            if "add" in users[0].function:
                found = at

    def convolutions(self) -> list[Op]:
        found: dict[Key, Op] = {}
        for op in self.ops:
            made = bare(op.function) in CONVOLUTIONS and len(op.output) == self.n
            if made and self.map_layout(op.output, op.output_key) is not None:
                site = self.after_activation(op)
                if self.map_layout(site.output, site.output_key) is not None:
                    found.setdefault(site.output_key, site)
        return sorted(found.values(), key=lambda op: op.index)

    @staticmethod
    def cuts_patches(conv: Op) -> bool:
        """A convolution that cuts the image into patches: its stride, of 4 or more, is its kernel's side."""
        sides = conv.inputs[1].shape[2:]
        out, given = conv.output.shape[2:], conv.inputs[0].shape[2:]
        return min(sides) >= 4 and all(g // k == o for g, k, o in zip(given, sides, out, strict=True))

    # Calls of modules

    def live_calls(self) -> Iterator[Call]:
        """The calls that return one float tensor on the way from the image to the score."""
        live = {key for i in self.live for key, _ in self.flows[i].writes} | {key for key, _ in self.source}
        for call in self.recorder.calls:
            one = call.module and call.output is not None and call.output.is_floating_point()
            if one and call.output_key in live:
                yield call

    def call_layout(self, call: Call) -> Layout | None:
        assert call.output is not None
        layout = self.layouts.get(cast(Key, call.output_key))
        if layout is None or layout.mismatch(call.output) or len(call.output) != self.n:
            return None
        maps = layout.to_map(call.output)
        return layout if maps.shape[2:].numel() > 1 else None

    def grids(self) -> list[tuple[int, int]]:
        """The grids that tokens of a picture may have; those of lines and volumes are only followed, not guessed."""
        if self.seen.images.ndim != 4:
            return []
        seen = [tuple(op.output.shape[2:]) for op in self.ops if op.function == "conv2d"]
        seen += [layout.grid for layout in self.layouts.values() if layout.grid and len(layout.grid) == 2]
        return possible_grids([(h, w) for h, w in seen], self.seen.images)

    def functions_in(self, call: Call) -> list[str]:
        return [op.function for op in self.recorder.ops[call.first_op : call.last_op]]

    def named(self, call: Call) -> str:
        return f"{call.module}#{call.call}" if self.recorder.counts[call.module] > 1 else call.module

    def row(self, call: Call, layout: Layout, chosen: Collection[str]) -> LayerRow:
        assert call.output is not None
        name, kind = self.named(call), type(self.modules[call.module]).__name__
        return LayerRow(name, kind, tuple(layout.to_map(call.output).shape[1:]), name in chosen, layout)

    # Branches

    def beside(self, keys: set[Key]) -> list[Op]:
        """The operations between image and score on paths that pass the tensors by, and do not lead to them."""
        around = dependent(self.flows, self.source, keys) & leading(self.flows, self.sinks, keys)
        before = leading(self.flows, [(key, -1) for key in keys])
        return self._ops_of(around - before)

    def share_a_trunk(self, calls: list[Call], trunk: list[Call]) -> bool:
        """Whether all of the calls depend on the image through one and the same call of ``trunk``."""
        made = {key: i for i, flow in enumerate(self.flows) for key, _ in flow.writes}
        ends = {made[cast(Key, call.output_key)] for call in calls}
        for call in trunk[:_EARLY]:
            if call not in calls and not ends & dependent(
                self.flows, self.source, {cast(Key, call.output_key)}
            ):
                return True
        return False

    def last_of_line(self, calls: list[Call]) -> tuple[Call, list[Call]]:
        """The last of the calls, and those beside it; of several that were given the same tensor, what came before.

        Such are the projections to keys and values inside a block (CvT's are modules of their own): its norm is meant.
        """
        while True:
            last, beside = calls[-1], self.calls_beside(calls[-1], calls)
            given = [key for _, key in last.given[:1]]
            twins = [call for call in beside if given and [key for _, key in call.given[:1]] == given]
            start = min(call.first_op for call in (last, *twins))
            before = [call for call in calls if call.last_op <= start]
            if not twins or not before:
                return last, beside
            calls = before

    def calls_beside(self, last: Call, calls: list[Call]) -> list[Call]:
        """Of the calls those that neither lead to ``last`` nor come from it; of each line of them the last."""
        made = {key: i for i, flow in enumerate(self.flows) for key, _ in flow.writes}
        found: list[Call] = []
        related = self._related(last)
        for call in reversed(calls):
            position = made[cast(Key, call.output_key)]
            if position not in related:
                found.append(call)
                related |= self._related(call)
        return found

    def _related(self, call: Call) -> set[int]:
        """The numbers of the flows that lead to what a call returned, come from it, or made it."""
        key = cast(Key, call.output_key)
        made = {i for i, flow in enumerate(self.flows) if any(written == key for written, _ in flow.writes)}
        return made | leading(self.flows, [(key, -1)]) | dependent(self.flows, [(key, -1)])


def _equal(x: Tensor, pooled: Tensor, mean: Tensor) -> bool:
    return torch.equal(x, pooled) or torch.allclose(x, mean, rtol=1e-5, atol=1e-7)
