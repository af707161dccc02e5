"""One forward pass, written down operation by operation: the record that `inspect_network` reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sightline.inspection.guard import eval_mode, own_thread

Key = tuple[int, int]  # (identity, version): what a tensor object held at one moment
Ref = tuple[Key, int]  # the same with the identity of the memory, which views share


@dataclass
class Op:
    """One torch function that returned a tensor, with what went in as it was at that moment."""

    index: int
    function: str
    module: str
    inputs: list[Tensor]
    input_keys: list[Key]
    output: Tensor
    output_key: Key
    arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    edge: Any = None  # where autograd can be asked for its gradient, in a record with gradients


@dataclass
class Flow:
    """What one torch function read and what it wrote, in place or not; ``op`` is its number, if it has one."""

    op: int | None
    function: str
    reads: list[Ref]
    writes: list[Ref]


@dataclass
class Call:
    """One call of a module, ``given`` these tensors: the operations first_op ≤ i < last_op ran inside."""

    module: str
    call: int
    first_op: int
    input: Tensor | None
    last_op: int = 0
    output: Tensor | None = None
    output_key: Key | None = None
    edge: Any = None
    given: list[tuple[Tensor, Key]] = field(default_factory=list)


def function_name(function: Any) -> str:
    """Its name; of an operation in an exported network that of the function, without the overload.

    >>> function_name(torch.relu), function_name(torch.ops.aten.relu.default)
    ('relu', 'relu')
    """
    return str(getattr(function, "__name__", function)).partition(".")[0]


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dictionaries, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in tensors_in(item)]
    return []


def output_tensor(output: Any) -> Tensor | None:
    """The tensor that a module returned: alone, or first in a tuple with no other of as many axes, as blocks return it.

    >>> output_tensor((torch.zeros(1, 5, 8), None)).shape, output_tensor((torch.zeros(1, 2), torch.zeros(1, 2)))
    (torch.Size([1, 5, 8]), None)
    """
    if isinstance(output, Tensor):
        return output
    if type(output) is not tuple or not output or not isinstance(output[0], Tensor):
        return None
    alone = all(tensor.ndim != output[0].ndim for tensor in tensors_in(list(output[1:])))
    return output[0] if alone else None


def with_tensor(output: Any, tensor: Tensor) -> Any:
    """What a module returned, with `output_tensor` replaced."""
    return tensor if isinstance(output, Tensor) else (tensor, *output[1:])


def key_of(tensor: Tensor) -> Key:
    return (id(tensor), 0 if tensor.is_inference() else tensor._version)


def ref_of(tensor: Tensor) -> Ref:
    try:
        memory = tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse tensors and the like
        memory = id(tensor)
    return (key_of(tensor), memory)


class OpCounter(TorchFunctionMode):
    """Numbers every torch function that returns a tensor, the same way in each pass of the same network.

    ``visit(index, name, args, output)`` may return another tensor to pass on. `pause` hides the caller's
    own operations (those of hooks) from the numbering. The numbering is of one thread: the mode is.
    """

    def __init__(self, visit: Callable[[int, str, Any, Tensor], Tensor | None]) -> None:
        super().__init__()
        self.visit, self.count, self.paused = visit, 0, False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = function_name(func)
        if self.paused or name == "__get__":
            return func(*args, **(kwargs or {}))
        if name == "_set_grad_enabled":
            self.switched()
            return func(*args, **(kwargs or {}))
        self.before(args, kwargs)
        output = func(*args, **(kwargs or {}))
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if not isinstance(first, Tensor):
            self.after(None, name, output)
            return output
        index, self.count = self.count, self.count + 1
        self.after(index, name, output)
        replaced = self.visit(index, name, (args, kwargs or {}), first)
        return replaced if replaced is not None and first is output else output

    def before(self, args: Any, kwargs: Any) -> None:
        """Called with the arguments before an in-place operation can change them."""

    def after(self, index: int | None, name: str, output: Any) -> None:
        """Called with what a function returned, a tensor or not."""

    def switched(self) -> None:
        """Called when the network switches gradients on or off."""

    @contextmanager
    def pause(self) -> Iterator[None]:
        was, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = was


class Recorder(OpCounter):
    """Writes down the operations, the calls of modules, and what every function read and wrote."""

    def __init__(self, gradients: bool, leaves: Leaves | None) -> None:
        super().__init__(self._write)
        self.gradients, self.leaves = gradients, leaves
        self.ops: list[Op] = []
        self.flows: list[Flow] = []
        self.calls: list[Call] = []
        self.stack: list[Call] = []
        self.counts: dict[str, int] = {}
        self.interrupts = False  # whether the network switches gradients off (or inference mode on) inside
        self._given: list[tuple[Tensor, Ref]] = []
        self._alive: list[Tensor] = []  # an identity is one only while its tensor lives

    def switched(self) -> None:
        self.interrupts = True

    def before(self, args: Any, kwargs: Any) -> None:
        self._given = [(t, ref_of(t)) for t in tensors_in([args, kwargs or {}])]
        if torch.is_inference_mode_enabled():
            self.interrupts = True

    def after(self, index: int | None, name: str, output: Any) -> None:
        made = tensors_in(output)
        changed = [t for t, ref in self._given if key_of(t) != ref[0] and all(t is not m for m in made)]
        writes = [ref_of(t) for t in (*made, *changed)]
        self._alive += made
        self.flows.append(Flow(index, name, [ref for _, ref in self._given], writes))

    def _write(self, index: int, name: str, args: Any, output: Tensor) -> None:
        module = self.stack[-1].module if self.stack else ""
        inputs, keys = [t for t, _ in self._given], [ref[0] for _, ref in self._given]
        op = Op(index, name, module, inputs, keys, output, key_of(output), args)
        if self.gradients:
            op.edge = _edge(output)
        self.ops.append(op)

    def enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            number = self.counts.get(name, 0)
            self.counts[name] = number + 1
            given = tensors_in(args)
            call = Call(name, number, self.count, given[0] if given else None)
            call.given = [(tensor, key_of(tensor)) for tensor in given]
            self.calls.append(call)
            self.stack.append(call)

        return hook

    def leave(self, name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            while self.stack[-1].module != name:  # a call that ended in an exception which the network caught
                self.stack.pop()
            call = self.stack.pop()
            call.last_op = self.count
            found = output_tensor(output)
            if found is None:
                return None
            with self.pause():
                made = None if self.leaves is None else self.leaves.at(name, call.call, found)
                found = found if made is None else made
                call.output, call.output_key = found, key_of(found)
                call.edge = _edge(found) if self.gradients else None
            return None if made is None else with_tensor(output, made)

        return hook


def _edge(tensor: Tensor) -> Any:
    return torch.autograd.graph.get_gradient_edge(tensor) if tensor.requires_grad else None


class GradientKeeper(TorchFunctionMode):
    """Runs what comes after ``start`` with gradient, whatever the network switches off inside its forward pass.

    For a trunk under `torch.no_grad` or `torch.inference_mode`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.started = False
        self._guards = ExitStack()

    @contextmanager
    def on(self) -> Iterator[GradientKeeper]:
        """The mode, from `start` on, until the end of the pass; inference mode is afterwards as before."""
        with torch.inference_mode(False), ExitStack() as stack:  # restores, whatever the guards inside leave
            self._guards = stack
            with self:
                yield self

    def start(self) -> None:
        self.started = True
        self._switch_on()

    def _switch_on(self) -> None:
        if torch.is_inference_mode_enabled():
            self._guards.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            torch._C._set_grad_enabled(True)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.started and function_name(func) != "_set_grad_enabled":
            self._switch_on()
        return func(*args, **(kwargs or {}))


@dataclass
class Record:
    """One pass: what the network was given, what it returned, and what was explained of that."""

    recorder: Recorder
    images: Tensor
    output: Any
    score: Any


class Leaves:
    """Calls of modules from whose outputs on a graph is kept: nothing before ``start`` needs one."""

    def __init__(self, places: Collection[tuple[str, int]], start: tuple[str, int]) -> None:
        self.places, self.start, self.keeper = places, start, GradientKeeper()

    def at(self, name: str, call: int, output: Tensor) -> Tensor | None:
        """What is passed on instead of the output of a call, if anything is."""
        if (name, call) == self.start:
            self.keeper.start()
        if not self.keeper.started or (name, call) not in self.places or output.requires_grad:
            return None
        return output.detach().requires_grad_().clone() if output.is_floating_point() else None


def record(
    network: nn.Module,
    images: Tensor,
    score: Callable[[Any], Any] | None = None,
    *,
    gradients: bool = False,
    leaves: Leaves | None = None,
) -> Record:
    """One pass of ``images`` in eval mode, written down together with ``score`` of the output.

    ``gradients``: with a graph from the images on, or from ``leaves`` on, and an edge for each operation and call.
    """
    recorder = Recorder(gradients, leaves)
    keeper = leaves.keeper if leaves is not None else GradientKeeper() if gradients else None
    handles = []
    try:
        for name, module in network.named_modules():
            handles.append(module.register_forward_pre_hook(own_thread(recorder.enter(name))))
            handles.append(module.register_forward_hook(own_thread(recorder.leave(name))))
        with eval_mode(network), torch.set_grad_enabled(False), keeper.on() if keeper else ExitStack():
            if keeper is not None and leaves is None:
                keeper.start()
            given = (
                images.detach().requires_grad_(gradients and leaves is None).clone()
            )  # may be worked on in place
            with recorder:
                output = network(given)
                scored = output if score is None else score(output)
    finally:
        for handle in handles:
            handle.remove()
    return Record(recorder, given, output, scored)
