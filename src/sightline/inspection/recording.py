"""One forward pass, written down operation by operation: the record that `trace` reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Key = tuple[int, int]  # (identity, version): what a tensor object held at one moment


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


@dataclass
class Call:
    """One call of a module: the operations first_op ≤ i < last_op ran inside."""

    module: str
    call: int
    first_op: int
    input: Tensor | None
    last_op: int = 0
    output: Tensor | None = None
    output_key: Key | None = None


def function_name(function: Any) -> str:
    return str(getattr(function, "__name__", function))


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dictionaries, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in tensors_in(item)]
    return []


def _key(tensor: Tensor) -> Key:
    return (id(tensor), tensor._version)


def is_spatial(tensor: Tensor | None) -> bool:
    """True for a float map (N, C, h, w) with more than one position; not for a pooled (N, 1, 1, C)."""
    return (
        tensor is not None
        and tensor.ndim == 4
        and tensor.is_floating_point()
        and tensor.shape[2] * tensor.shape[3] > 1
        and tensor.shape[1] * tensor.shape[2] > 1
    )


class OpCounter(TorchFunctionMode):
    """Numbers every torch function that returns a tensor, the same way in each pass of the same network.

    ``visit(index, name, args, output)`` may return another tensor to pass on. `pause` hides the caller's
    own operations (those of hooks) from the numbering.
    """

    def __init__(self, visit: Callable[[int, str, Any, Tensor], Tensor | None]) -> None:
        super().__init__()
        self.visit, self.count, self.paused = visit, 0, False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = function_name(func)
        if self.paused or name in ("__get__", "_set_grad_enabled"):
            return func(*args, **(kwargs or {}))
        self.before(args, kwargs)
        output = func(*args, **(kwargs or {}))
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if not isinstance(first, Tensor):
            return output
        index, self.count = self.count, self.count + 1
        replaced = self.visit(index, name, (args, kwargs), first)
        return replaced if replaced is not None and first is output else output

    def before(self, args: Any, kwargs: Any) -> None:
        """Called with the arguments before an in-place operation can change them."""

    @contextmanager
    def pause(self) -> Iterator[None]:
        was, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = was


class Recorder(OpCounter):
    def __init__(self) -> None:
        super().__init__(self._write)
        self.ops: list[Op] = []
        self.calls: list[Call] = []
        self.stack: list[Call] = []
        self.counts: dict[str, int] = {}
        self._keys: list[tuple[Tensor, Key]] = []

    def before(self, args: Any, kwargs: Any) -> None:
        self._keys = [(t, _key(t)) for t in tensors_in([args, kwargs or {}])]

    def _write(self, index: int, name: str, args: Any, output: Tensor) -> None:
        module = self.stack[-1].module if self.stack else ""
        inputs, keys = [t for t, _ in self._keys], [k for _, k in self._keys]
        self.ops.append(Op(index, name, module, inputs, keys, output, _key(output)))

    def enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            number = self.counts.get(name, 0)
            self.counts[name] = number + 1
            given = tensors_in(args)
            call = Call(name, number, self.count, given[0] if given else None)
            self.calls.append(call)
            self.stack.append(call)

        return hook

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        call = self.stack.pop()
        call.last_op = self.count
        if isinstance(output, Tensor):
            call.output, call.output_key = output, _key(output)


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Every submodule in eval mode inside, each as it was before afterwards, also after an exception."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def record(network: nn.Module, images: Tensor) -> tuple[Recorder, Any]:
    recorder = Recorder()
    handles = []
    try:
        for name, module in network.named_modules():
            handles.append(module.register_forward_pre_hook(recorder.enter(name)))
            handles.append(module.register_forward_hook(recorder.leave))
        with eval_mode(network), torch.no_grad(), recorder:
            output = network(images)
    finally:
        for handle in handles:
            handle.remove()
    return recorder, output
