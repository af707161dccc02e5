"""What must hold while a network is observed: one observer at a time, eval mode, no compiling, no checkpointing.

Observation puts hooks on modules, which every thread calls, and puts the modules into eval mode, which every thread
sees. Hooks therefore ignore calls from other threads (`own_thread`), and one observer at a time has a network
(`network_lock`). A thread that predicts with the same network meanwhile gets right answers without a graph; a
thread that *trains* it would run in eval mode for the length of a pass, so train a copy.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import fx, nn

from sightline.errors import UnsupportedError

FX_LOCK = threading.RLock()  # torch.fx patches nn.Module for all threads while it traces

ORIGINAL = (
    "_sightline_original"  # the attribute of a copy that holds inputs fixed: the network that it is a copy of
)

_LOCKS: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()
_OWN = "_sightline_own"  # the attribute of an observer's own hook
_PLAIN = frozenset([bool, int, float, str, type(None)])
_CHECKPOINTING = ("grad_checkpointing", "gradient_checkpointing")  # timm, transformers
_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
}


def own_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """The hook, for calls from the thread that is here now; other threads pass it by."""
    owner = threading.get_ident()

    def guarded(*args: Any) -> Any:
        return hook(*args) if threading.get_ident() == owner else None

    guarded.__dict__[_OWN] = True
    return guarded


def state_of(network: nn.Module, steady: bool = True) -> tuple[Any, ...]:
    """What a network is beside its weights: its modules, their classes and hooks; if ``steady``, also their attributes.

    An observer's own hooks do not count, nor does whether a module is in training mode.
    """
    found: list[Any] = []
    for module in network.modules():
        own = module.__dict__
        found += (id(module), module.__class__)
        if own["_forward_pre_hooks"] or own["_forward_hooks"]:
            hooks = (*own["_forward_pre_hooks"].items(), *own["_forward_hooks"].items())
            found += [key for key, hook in hooks if _OWN not in getattr(hook, "__dict__", ())]
        if steady:
            found += [v if v.__class__ in _PLAIN else id(v) for k, v in own.items() if k != "training"]
    return tuple(found)


def original(network: nn.Module) -> nn.Module:
    """The network that a copy with fixed inputs was made of; else the network itself."""
    found: nn.Module = network.__dict__.get(ORIGINAL, network)
    return found


def network_lock(network: nn.Module) -> Any:
    """The re-entrant lock of one network."""
    network = original(network)
    with _LOCKS_LOCK:
        if network not in _LOCKS:
            _LOCKS[network] = threading.RLock()
        return _LOCKS[network]


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Every submodule in eval mode inside, each as it was before afterwards, also after an exception.

    Inside, the network belongs to this thread's observation alone, runs as it is written (not compiled), and
    does not throw activations away to compute them again.
    """
    with network_lock(network), _eager():
        modules = dict.fromkeys([original(network), *network.modules()])
        training = [module for module in modules if module.training]
        saving = [
            (module, name)
            for module in modules
            for name in _CHECKPOINTING
            if getattr(module, name, None) is True
        ]
        try:
            for module in training:
                module.training = False
            for module, name in saving:
                setattr(module, name, False)
            yield
        finally:
            for module in training:
                module.training = True
            for module, name in saving:
                setattr(module, name, True)


class OwnTracer(fx.Tracer):
    """A tracer that leaves the modules of other threads alone: torch.fx patches `nn.Module` for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.owner = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self.owner:
            return forward(*args, **kwargs)
        return self.own_call(m, forward, args, kwargs)

    def own_call(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self.owner:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


class _Eager:
    """`torch.compiler.set_stance("force_eager")` while anybody observes; the stance is one for all threads."""

    def __init__(self) -> None:
        self.lock, self.depth, self.stack = threading.Lock(), 0, ExitStack()

    def enter(self) -> None:
        with self.lock:
            if self.depth == 0:
                self.stack.enter_context(torch.compiler.set_stance("force_eager"))
            self.depth += 1

    def leave(self) -> None:
        with self.lock:
            self.depth -= 1
            if self.depth == 0:
                self.stack.close()


_EAGER = _Eager()


@contextmanager
def _eager() -> Iterator[None]:
    """Hooks would make a compiled part compile anew, and never run compiled again."""
    unused = "torch._dynamo.eval_frame" not in sys.modules or not hasattr(torch.compiler, "set_stance")
    if unused or torch.compiler.is_compiling():
        yield
        return
    _EAGER.enter()
    try:
        yield
    finally:
        _EAGER.leave()


def unwrapped(network: nn.Module) -> nn.Module:
    """The network itself: out of torch.compile, DataParallel and their like. Its weights are the same.

    Raises `UnsupportedError` for what has no Python forward pass to look into.

    >>> unwrapped(nn.DataParallel(nn.ReLU()))
    ReLU()
    """
    while (inner := _WRAPPERS.get(type(network).__name__)) and hasattr(network, inner):
        network = getattr(network, inner)
    return network


def plain_name(name: str, network: nn.Module) -> str:
    """A layer's name without the names of the wrappers that `unwrapped` takes off.

    >>> plain_name("_orig_mod.layer4", nn.ReLU())
    'layer4'
    """
    children = dict(network.named_children())
    while (first := name.partition(".")[0]) in _WRAPPERS.values() and first not in children and "." in name:
        name = name.partition(".")[2]
    return name


def refuse_unobservable(network: nn.Module, *, layers: bool = True) -> None:
    """Raise `UnsupportedError` for quantised networks and, where ``layers`` are to be observed, for TorchScript."""
    for module in network.modules():
        if layers and isinstance(module, torch.jit.ScriptModule):
            what = "TorchScript, whose layers cannot be observed"
        elif ".quantized" in type(module).__module__:
            what = "quantised, and integers have no gradient"
        else:
            continue
        raise UnsupportedError(
            f"{type(network).__name__} is {what}; gradient methods need the Python network in floating point: "
            "give that, or use 'rise' or 'occlusion'"
        )
