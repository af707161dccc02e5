"""The process that everything runs in: how it gets memory, the network's memory format, what an import pulls in.

glibc gives every large tensor fresh pages from the kernel and hands them back when it is freed; the kernel clears them
again for the next one. On a CPU this is most of a forward pass of a small network (docs/performance.md). `tune_cpu`
makes glibc keep what it has. The command line and the worker processes of batch runs call it; the library does not,
since the setting holds for the whole process: call `sightline.tune_cpu()` yourself.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from sightline.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    Network = TypeVar("Network", bound=nn.Module)

VARIABLE = "SIGHTLINE_MALLOC"
ON, OFF = ("1", "on", "true", "yes"), ("0", "off", "false", "no")
# malloc.h: no allocation by mmap, never give the top of the heap back, grow it by 64 MiB at a time.
_MMAP_MAX, _TRIM_THRESHOLD, _TOP_PAD = -4, -1, -2
MALLOPT = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 64 * 2**20))
_tuned: bool | None = None


def tune_cpu() -> bool:
    """Let this process keep freed memory instead of returning it to the kernel; returns whether it does.

    ``mallopt(M_MMAP_MAX, 0)``, ``M_TRIM_THRESHOLD`` -1 and ``M_TOP_PAD`` 64 MiB. Results do not change by a bit. The
    process's memory stays at its peak, which the batch size bounds. Without glibc (musl, macOS, Windows) nothing
    happens. ``SIGHTLINE_MALLOC=0`` in the environment switches it off; `InputError` for any other value but 1.

    >>> tune_cpu() in (True, False)
    True
    """
    global _tuned
    if not wanted():
        return False
    if _tuned is None:
        library = _glibc()
        _tuned = library is not None and all(library.mallopt(*pair) == 1 for pair in MALLOPT)
    return _tuned


def wanted() -> bool:
    """What ``SIGHTLINE_MALLOC`` says; True if it is not set."""
    said = os.environ.get(VARIABLE, "").strip().lower()
    if said in OFF:
        return False
    if said and said not in ON:
        raise InputError(f"{VARIABLE}={os.environ[VARIABLE]!r}; expected 1 (keep freed memory) or 0 (do not)")
    return True


def tune_worker(_: int = 0) -> None:
    """`tune_cpu` in a worker process that this package started: ``worker_init_fn`` of a `DataLoader`."""
    tune_cpu()


def _glibc() -> Any:
    """The C library of this process if it is glibc, else None."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        _ = library.gnu_get_libc_version, library.mallopt  # other C libraries lack one or the other
    except (OSError, AttributeError, TypeError):
        return None
    return library


def in_fast_format(network: Network) -> Network:
    """The same network with its convolutions' weights channels last, if it has any that are wider than a pixel.

    The usual CPU kernels are faster in this format, and their outputs follow the weights; results differ from the
    contiguous format's by rounding, about 1e-6. A network of tokens, whose only convolution cuts the patches, is left.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3))
    >>> in_fast_format(net)[1].weight.is_contiguous(memory_format=torch.channels_last)
    True
    """
    import torch

    wide = [weight for weight in network.parameters() if weight.ndim == 4 and weight[0, 0].numel() > 1]
    return network.to(memory_format=torch.channels_last) if len(wide) > 1 else network


_DYNAMO = "torch._dynamo"


@contextmanager
def without_compiler() -> Iterator[None]:
    """Importing torchvision in here does not import torch's compiler.

    torchvision and timm name two functions of `torch._dynamo` when they are imported, and need them only when a network
    is compiled; importing it costs as much as torch itself. Stand-ins import it when they are called. Nothing is done
    if the compiler is loaded already.
    """
    if _DYNAMO in sys.modules:
        yield
        return
    package, utils = ModuleType(_DYNAMO), ModuleType(f"{_DYNAMO}.utils")
    package.__dict__.update(utils=utils, disable=_disable, __path__=[])
    utils.__dict__["is_compile_supported"] = _is_compile_supported
    stand_ins = {_DYNAMO: package, f"{_DYNAMO}.utils": utils}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _is_compile_supported(device_type: str) -> bool:
    real: Any = importlib.import_module(f"{_DYNAMO}.utils")
    return bool(real.is_compile_supported(device_type))


def _disable(function: Callable[..., Any] | None = None, recursive: bool = True, **options: Any) -> Any:
    """`torch._dynamo.disable`, once a compiler is there that could be disabled; until then the function itself."""
    if function is None:
        return functools.partial(_disable, recursive=recursive, **options)

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        compiler: Any = sys.modules.get(_DYNAMO)
        if compiler is None or not hasattr(compiler, "eval_frame"):
            return function(*arguments, **named)
        return compiler.disable(function, recursive, **options)(*arguments, **named)

    return call


def import_light(name: str) -> Any:
    """Import torchvision, timm or a part of them without torch's compiler, if that is possible.

    >>> import_light("torchvision.models").resnet18.__name__
    'resnet18'
    """
    if name in sys.modules:
        return sys.modules[name]
    try:
        with without_compiler():
            return importlib.import_module(name)
    except (ImportError, AttributeError):  # a version that needs more of the compiler
        return importlib.import_module(name)
