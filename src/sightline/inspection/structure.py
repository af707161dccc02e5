"""What a network computes, seen once: its target layer and its head, found without being told.

One forward pass of one image is written down operation by operation (`record`). From that record, and never from
module names, follow the tensor that enters the last spatial pooling, the kind of head behind it, and the
activation that belongs to each convolution.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from sightline.errors import InputError, unknown
from sightline.inspection.recording import Call, Key, Op, Recorder, is_spatial, record

ACTIVATIONS = frozenset(
    [
        "relu",
        "relu_",
        "relu6",
        "hardtanh",
        "hardtanh_",
        "leaky_relu",
        "leaky_relu_",
        "elu",
        "elu_",
        "selu",
        "selu_",
        "celu",
        "celu_",
        "gelu",
        "silu",
        "silu_",
        "hardswish",
        "hardswish_",
        "mish",
        "softplus",
        "softsign",
        "tanh",
        "tanh_",
        "sigmoid",
        "sigmoid_",
        "hardsigmoid",
        "prelu",
        "rrelu",
        "rrelu_",
        "threshold",
        "threshold_",
        "logsigmoid",
        "tanhshrink",
    ]
)
POOLINGS = frozenset(
    [
        "adaptive_avg_pool2d",
        "adaptive_max_pool2d",
        "adaptive_max_pool2d_with_indices",
        "_adaptive_max_pool2d",
        "avg_pool2d",
        "max_pool2d",
        "_max_pool2d",
        "max_pool2d_with_indices",
        "lp_pool2d",
        "fractional_max_pool2d",
    ]
)
REDUCTIONS = frozenset(["mean", "sum", "amax", "max", "logsumexp", "norm"])
FLATTENINGS = frozenset(["flatten", "view", "reshape", "squeeze", "view_as", "reshape_as"])
_BETWEEN = frozenset(  # what may stand between a convolution and "its" activation
    [
        "batch_norm",
        "instance_norm",
        "group_norm",
        "layer_norm",
        "add",
        "add_",
        "__add__",
        "__iadd__",
        "__radd__",
        "iadd",
        "mul",
        "mul_",
        "__mul__",
        "__imul__",
        "__rmul__",
        "dropout",
        "dropout2d",
        "dropout_",
        "permute",
        "contiguous",
        "stochastic_depth",
    ]
)


@dataclass(frozen=True)
class LayerRef:
    """One place in the network whose tensor can be observed.

    The output of a module (``call`` numbers its calls in one pass; None: it is called once), or of operation
    ``op``, which ran inside module ``name``.
    """

    name: str
    call: int | None = None
    op: int | None = None
    function: str = ""

    def __str__(self) -> str:
        if self.op is not None:
            return f"{self.name or 'network'}:{self.function}@{self.op}"
        return self.name if self.call is None else f"{self.name}#{self.call}"


@dataclass(frozen=True)
class Head:
    """How the scores come from the target layer A; ``module`` holds the weight W and the bias b.

    ``kind`` "linear": logits = W · pool(A) + b. ``kind`` "conv": logits = pool(W * A + b) with a 1×1
    convolution, and a ReLU before the pooling where ``relu`` is set.
    """

    kind: str
    module: str
    relu: bool = False


@dataclass(frozen=True)
class Structure:
    """What was recognised: the target layer, the head (or why `cam` cannot work), the convolutions."""

    target: LayerRef | None
    why_no_target: str
    head: Head | None
    why_no_head: str
    convs: tuple[LayerRef, ...]
    stages: tuple[LayerRef, ...]
    layers: tuple[LayerRow, ...]


@dataclass(frozen=True)
class LayerRow:
    """One module that may be named as a layer, with the shape (C, h, w) of its output."""

    name: str
    type: str
    shape: tuple[int, ...]
    chosen: bool = False


@dataclass
class _Reader:
    """Answers questions about one record."""

    recorder: Recorder
    output: Any
    producer: dict[Key, Op] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ops = self.recorder.ops
        for op in self.ops:
            self.producer.setdefault(op.output_key, op)

    def is_pooling(self, op: Op) -> bool:
        if not op.inputs or not is_spatial(op.inputs[0]) or not op.output.is_floating_point():
            return False
        if op.function in POOLINGS:
            return True
        n, c = op.inputs[0].shape[:2]
        return op.function in REDUCTIONS and op.output.shape in ((n, c), (n, c, 1, 1))

    def is_flattening(self, op: Op) -> bool:
        """A flattening before a linear layer, or a convolution as large as the map, which is the same."""
        if op.function == "conv2d":
            return is_spatial(op.inputs[0]) and op.inputs[1].shape[2:] == op.inputs[0].shape[2:]
        return op.function in FLATTENINGS and is_spatial(op.inputs[0]) and op.output.ndim == 2

    def last_spatial(self) -> tuple[Tensor, Key, Tensor] | str:
        """The tensor that enters the last run of poolings, with its key and the run's pooled output."""
        users = [op for op in self.ops if op.inputs and is_spatial(op.inputs[0])]
        if not users:
            return "it computes no spatial map (N, C, h, w)"
        last = users[-1]
        module = self._pooling_module(last)
        if module is not None and module.input is not None and module.output is not None:
            tensor, pooled = module.input, module.output
            key = (id(tensor), tensor._version)
        elif self.is_pooling(last) or self.is_flattening(last):
            tensor, key, pooled = last.inputs[0], last.input_keys[0], last.output
        elif (found := self._pooled_in_two(last)) is not None:
            tensor, key, pooled = last.inputs[0], last.input_keys[0], found
        elif last.function in FLATTENINGS or last.function in ("permute", "transpose"):
            return "it turns its maps into tokens, as transformers do"
        else:
            return (
                f"after {last.module or last.function!r} nothing pools a map of more than one position "
                "(is the image too small for this network?)"
            )
        if (
            pooled.numel() == tensor.shape[0] * tensor.shape[1]
        ):  # global: what it pools is the target, whatever came before
            return tensor, key, pooled
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
        after = next((o for o in self.ops[op.index + 1 :] if op.output_key in o.input_keys), None)
        pools = after is not None and after.function in REDUCTIONS and after.output.shape == shape
        return after.output if after is not None and pools else None

    def _pooling_module(self, last: Op) -> Call | None:
        """The outermost module without weights or activation that turns (N, C, h, w) into (N, C[, 1, 1])."""
        for call in self.recorder.calls:
            if not (call.first_op <= last.index < call.last_op) or not is_spatial(call.input):
                continue
            shape, out = cast(Tensor, call.input).shape, call.output
            if out is None or out.shape not in ((shape[0], shape[1]), (shape[0], shape[1], 1, 1)):
                continue
            inside = self.ops[call.first_op : call.last_op]
            if not any(o.function in ACTIVATIONS or o.function in ("conv2d", "linear") for o in inside):
                return call
        return None

    def site_of(self, key: Key) -> LayerRef:
        """The outermost module whose output is this tensor as it was at that moment, else the operation."""
        made = [c for c in self.recorder.calls if c.module and c.output_key == key]  # from the outside in
        once = [c for c in made if self.recorder.counts[c.module] == 1]
        if once:
            return LayerRef(once[0].module)
        return LayerRef(made[0].module, made[0].call) if made else self.op_site(self.producer[key])

    @staticmethod
    def op_site(op: Op) -> LayerRef:
        return LayerRef(op.module, op=op.index, function=op.function)

    def logits(self) -> Tensor | None:
        out = self.output if isinstance(self.output, Tensor) else getattr(self.output, "logits", None)
        return out if isinstance(out, Tensor) and out.ndim == 2 else None

    def linear_head(self, tensor: Tensor, pooled: Tensor, network: nn.Module) -> Head | None:
        """logits = W · pooled + b, by a linear layer or a 1×1 convolution on the pooled vector."""
        logits = self.logits()
        flat, mean = pooled.flatten(1), tensor.mean((2, 3))  # a mean may be spelled as a sum over the area
        for op in reversed(self.ops):
            if op.function not in ("linear", "conv2d") or not op.inputs or logits is None:
                continue
            x, out = op.inputs[0], op.output
            same = x.ndim >= 2 and x.numel() == flat.numel() and _equal(x.flatten(1), flat, mean)
            if same and out.numel() == logits.numel() and torch.equal(out.flatten(1), logits):
                weight = getattr(network.get_submodule(op.module), "weight", None)
                if isinstance(weight, Tensor) and weight.numel() == logits.shape[1] * flat.shape[1]:
                    return Head("linear", op.module)
        return None

    def conv_head(self, key: Key, pooled: Tensor, network: nn.Module) -> tuple[Head, Key] | None:
        """logits = pool(ReLU?(W * A + b)): the head, and the key of the class convolution's input."""
        logits = self.logits()
        if logits is None or pooled.numel() != logits.numel() or not torch.equal(pooled.flatten(1), logits):
            return None
        op = self.producer.get(key)
        relu = op is not None and op.function in ("relu", "relu_")
        if op is not None and relu:
            op = self.producer.get(op.input_keys[0])
        if op is None or op.function != "conv2d":
            return None
        weight = getattr(network.get_submodule(op.module), "weight", None)
        if not isinstance(weight, Tensor) or weight.shape[2:] != (1, 1):
            return None
        return Head("conv", op.module, relu), op.input_keys[0]

    def after_activation(self, conv: Op) -> Op:
        """Follow a convolution through norms and additions to its activation, or as far as that goes."""
        at = conv
        for op in self.ops[conv.index + 1 :]:
            if at.output_key not in op.input_keys:
                continue
            if op.function in ACTIVATIONS:
                return op
            if op.function not in _BETWEEN or op.output.shape != at.output.shape:
                return at
            at = op
        return at

    def convolutions(self) -> list[Op]:
        found: dict[Key, Op] = {}
        for op in self.ops:
            if op.function == "conv2d" and is_spatial(op.output):
                site = self.after_activation(op)
                found.setdefault(site.output_key, site)
        return sorted(found.values(), key=lambda op: op.index)

    def layer_rows(self, chosen: LayerRef | None) -> list[LayerRow]:
        types = {name: type(m).__name__ for name, m in self.network_modules}
        rows = []
        for call in self.recorder.calls:
            if call.module and call.output is not None and is_spatial(call.output):
                many = self.recorder.counts[call.module] > 1
                name = f"{call.module}#{call.call}" if many else call.module
                rows.append(
                    LayerRow(
                        name, types[call.module], tuple(call.output.shape[1:]), name == str(chosen or "")
                    )
                )
        if chosen is not None and chosen.op is not None:
            shape = tuple(self.ops[chosen.op].output.shape[1:])
            rows.append(LayerRow(str(chosen), "operation", shape, True))
        return rows

    network_modules: list[tuple[str, nn.Module]] = field(default_factory=list)


def _equal(x: Tensor, pooled: Tensor, mean: Tensor) -> bool:
    return torch.equal(x, pooled) or torch.allclose(x, mean, rtol=1e-5, atol=1e-7)


def _study(network: nn.Module, images: Tensor) -> Structure:
    recorder, output = record(network, images)
    reader = _Reader(recorder, output, network_modules=list(network.named_modules()))
    convs = reader.convolutions()
    last_of_size = {tuple(op.output.shape[2:]): op for op in convs}
    found = reader.last_spatial()
    target: LayerRef | None = None
    head: Head | None = None
    why_target = why_head = ""
    if isinstance(found, str):
        why_target = why_head = found
    else:
        tensor, key, pooled = found
        conv_head = reader.conv_head(key, pooled, network)
        if conv_head is not None:
            head, key = conv_head
        elif pooled.flatten(1).shape[1] == tensor.shape[1]:
            head = reader.linear_head(tensor, pooled, network)
        if key not in reader.producer:
            why = "what it pools is the image itself"
            return Structure(None, why, None, why, (), (), tuple(reader.layer_rows(None)))
        target = reader.site_of(key)
        if head is None:
            why_head = "its scores are not one linear layer on the pooled target layer"
    return Structure(
        target=target,
        why_no_target=why_target,
        head=head,
        why_no_head=why_head,
        convs=tuple(reader.site_of(op.output_key) for op in convs),
        stages=tuple(reader.site_of(op.output_key) for op in last_of_size.values()),
        layers=tuple(reader.layer_rows(target)),
    )


_CACHE: weakref.WeakKeyDictionary[nn.Module, dict[Any, Structure]] = weakref.WeakKeyDictionary()


def inspect_network(network: nn.Module, images: Tensor) -> Structure:
    """The structure of ``network`` as one forward pass of the first image shows it; remembered per size.

    Raises nothing of its own: what is missing (no target layer, another head) stands in the result.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> structure = inspect_network(net, torch.zeros(1, 3, 8, 8))
    >>> str(structure.target), structure.head.kind
    ('1', 'linear')
    """
    one = images[:1].detach()
    marker = (tuple(id(m) for m in network.modules()), tuple(one.shape), one.dtype, one.device)
    kept = _CACHE.setdefault(network, {})
    if marker not in kept:
        for stale in [k for k in kept if k[0] != marker[0]]:
            del kept[stale]
        kept[marker] = _study(network, one)
    return kept[marker]


def describe_layers(network: nn.Module, images: Tensor) -> tuple[LayerRow, ...]:
    """What may be named as ``layer``, with shapes; the one that is taken by itself is marked.

    >>> [row.name for row in describe_layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.zeros(1, 3, 8, 8))]
    ['0', '1']
    """
    return inspect_network(network, images).layers


def named_layer(network: nn.Module, layer: str | nn.Module, images: Tensor) -> LayerRef:
    """The site a user means by a module or by a name: 'layer4', or 'layer1.0.relu#1' for its second call."""
    if isinstance(layer, nn.Module):
        for name, module in network.named_modules():
            if module is layer:
                return LayerRef(name)
        raise InputError(f"layer {type(layer).__name__} is not a module of {type(network).__name__}")
    name, _, number = layer.partition("#")
    modules = dict(network.named_modules())
    if name in modules and name and (not number or number.isdecimal()):
        return LayerRef(name, call=int(number) if number else None)
    structure = inspect_network(network, images)
    for site in (structure.target, *structure.convs):
        if site is not None and str(site) == layer:
            return site
    valid = [row.name for row in structure.layers] or [n for n in modules if n]
    raise unknown("layer", layer, valid, hint="(`sightline layers MODEL` lists them)")
