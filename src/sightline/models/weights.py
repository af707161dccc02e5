"""Weights on disk: reading them without running code, loading them into a network, and their checksum."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from sightline.errors import InputError
from sightline.files import GIB, MIB, check_regular, check_size, parse_json, reading
from sightline.models.pickled import read_pickled

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")

State = dict[str, Tensor]

MOST_WRAPPINGS = 8  # a pickle can hold itself
MOST_WEIGHTS = 1024 * GIB
MOST_DESCRIPTION = 16 * MIB
# The keys that training scripts store a state dict under, averaged weights first as timm prefers them, and the prefixes
# that wrappers add to its names.
_WRAPPINGS = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model_state_dict",
    "model",
    "model_state",
    "network",
    "net",
)
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.")


def read_weights(path: str | Path) -> tuple[State, dict[str, Any]]:
    """The tensors of a weights file, floats in single precision, and the description in a sightline checkpoint.

    ``.safetensors``, or what `torch.save` wrote (`read_pickled`); a state dict inside ``{"state_dict": …}``,
    ``{"state_dict_ema": …}`` (preferred) or ``{"model": …}`` is unwrapped. The description is empty for any other
    file. Raises `InputError` for a file that is missing, damaged, or holds code or no tensors.
    """
    path = Path(path)
    if check_regular(path, MOST_WEIGHTS, f"a weights file ({', '.join(WEIGHT_SUFFIXES)})") == 0:
        raise InputError(f"{path} is empty (0 bytes)")
    with reading(path, "a weights file"):
        is_safe = path.suffix == ".safetensors"
        tensors, description = _read_safetensors(path) if is_safe else (_read_torch(path), {})
        return {name: _dense(tensor, name, path) for name, tensor in tensors.items()}, description


def _dense(tensor: Tensor, name: str, path: Path) -> Tensor:
    """A tensor as a network's weights may be: dense, on the CPU, floats in single precision."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex():
        kind = "quantised" if tensor.is_quantized else "without data" if tensor.is_meta else str(tensor.dtype)
        kind = str(tensor.layout).removeprefix("torch.") if tensor.layout != torch.strided else kind
        raise InputError(f"{path}: tensor {name!r} is {kind}; expected dense numbers")
    return tensor.float() if tensor.is_floating_point() else tensor


def _read_safetensors(path: Path) -> tuple[State, dict[str, Any]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or not a safetensors file: {error}") from error
    text = metadata.get("sightline", "{}")
    check_size(f"{path}: its entry 'sightline'", len(text), MOST_DESCRIPTION)
    description = parse_json(text, f"{path}: its entry 'sightline'")
    if not isinstance(description, dict):
        raise InputError(
            f"{path}: its entry 'sightline' is a {type(description).__name__}; expected an object"
        )
    return tensors, description


def _read_torch(path: Path) -> State:
    found = read_pickled(path)
    for _ in range(MOST_WRAPPINGS):
        inside = found if isinstance(found, Mapping) else {}
        inner = next((inside[key] for key in _WRAPPINGS if isinstance(inside.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    else:
        raise InputError(f"{path} holds dictionaries in dictionaries without end; expected a state dict")
    if not isinstance(found, Mapping):
        raise InputError(f"{path} holds a {type(found).__name__}; expected a state dict: names and tensors")
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{path} holds no tensors, but {_some(map(str, found))}; expected a state dict")
    return tensors


def matched(state: State, names: Iterable[str]) -> State:
    """``state`` under a network's names: without the prefixes "module.", "model.", …, as many as fit best.

    >>> list(matched({"module.model.fc.bias": torch.zeros(1)}, ["fc.bias"]))
    ['fc.bias']
    >>> list(matched({"module.model.fc.bias": torch.zeros(1)}, ["model.fc.bias"]))
    ['model.fc.bias']
    """
    own = set(names)
    best = shorter = state
    while any(name.startswith(_PREFIXES) for name in shorter):
        shorter = {_without_prefix(name): tensor for name, tensor in shorter.items()}
        if len(own & shorter.keys()) > len(own & best.keys()):
            best = shorter
    return best


def _without_prefix(name: str) -> str:
    return name.removeprefix(next((prefix for prefix in _PREFIXES if name.startswith(prefix)), ""))


_DRAWS = {
    Tensor.normal_,
    Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_,
}


class _NothingDrawn(TorchFunctionMode):
    """Random values for tensors on the meta device are not drawn: torch would import its compiler to do nothing."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        tensor = args[0] if args else given.get("tensor")
        if func in _DRAWS and isinstance(tensor, Tensor) and tensor.is_meta:
            return tensor
        return func(*args, **given)


def hollow(build: Callable[[], nn.Module]) -> nn.Module:
    """The network that ``build`` makes, with parameters on the meta device: none is initialised or allocated.

    They stay there until `fill` assigns them; torch's random state does not change.

    >>> hollow(lambda: nn.Linear(3, 2)).weight
    Parameter containing:
    tensor(..., device='meta', size=(2, 3), requires_grad=True)
    """
    thread = threading.get_ident()

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> Any:
        if parameter is None or threading.get_ident() != thread:  # leave other threads' networks alone
            return None
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    hook = register_module_parameter_registration_hook(to_meta)
    try:
        with torch.random.fork_rng(devices=[]), _NothingDrawn():
            return build()
    except (
        NotImplementedError,
        RuntimeError,
    ) as error:  # a network that computes with its weights during construction
        if "allocate" in str(error):
            raise
        hook.remove()
        with torch.random.fork_rng(devices=[]):
            return build()
    finally:
        hook.remove()


def fill(
    network: nn.Module,
    state: State,
    source: str | Path,
    name: str,
    advice: Callable[[], str] = lambda: "",
) -> None:
    """Load every tensor of ``state`` into ``network``; raises `InputError` that says what does not fit.

    ``source`` and ``name`` are their names in the message; ``advice`` returns text to append.
    A missing batch normalisation counter is set to 0: it is not used after training.
    """
    own: State = network.state_dict()
    state = matched(state, own)
    counters = {n: torch.zeros(1, dtype=torch.long)[0] for n in own if n.endswith("num_batches_tracked")}
    state = {**counters, **state}
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    whole = [
        f"{key} {state[key].dtype} instead of {own[key].dtype}"
        for key in own
        if key in state and own[key].is_floating_point() and not state[key].is_floating_point()
    ]
    if missing or unexpected or reshaped or whole:
        wrong = [
            f"{len(missing)} of its {len(own)} tensors missing ({_some(missing)})" if missing else "",
            f"{len(unexpected)} unexpected ({_some(unexpected)})" if unexpected else "",
            f"{len(reshaped)} of another shape ({_some(reshaped, 1)})" if reshaped else "",
            f"{len(whole)} of another type ({_some(whole, 1)})" if whole else "",
        ]
        raise InputError(f"{source} does not fit {name}: {', '.join(filter(None, wrong))}{advice()}")
    ready = OrderedDict(state)
    # Layer versions, without which some layers reject a state dict that torch did not create.
    ready._metadata = getattr(own, "_metadata", None)  # type: ignore[attr-defined]
    on_meta = any(tensor.is_meta for tensor in own.values())
    network.load_state_dict(ready, assign=on_meta)


def _some(names: Iterable[str], count: int = 2) -> str:
    every = list(names)
    return ", ".join(every[:count]) + (", …" if len(every) > count else "")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, sorted by name.

    >>> tensors_sha256({"a": torch.ones(2)}) == tensors_sha256({"a": torch.ones(2)})
    True
    >>> tensors_sha256({"a": torch.ones(2)}) == tensors_sha256({"a": torch.ones(1, 2)})
    False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
