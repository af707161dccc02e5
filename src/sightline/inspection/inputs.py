"""Further inputs of a network, held fixed while the image is explained: masks, a text, a task flag.

The network then takes images only, as everything else here expects. What belongs to an image goes with it: where a
method shows changed copies of an image, each copy has that image's inputs.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sightline.errors import InputError, UnsupportedError, unknown
from sightline.inspection.guard import ORIGINAL, original, unwrapped

_IMAGE = "pixel_values"  # what the image is called where it need not come first: Hugging Face
_HELD = "_sightline_held"
_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_POSITIONAL = {
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
}


@dataclass(frozen=True)
class _Held:
    """``values`` by argument; ``image``: the argument that takes the images; ``n``: for so many, 1 for any number."""

    values: dict[str, Any]
    n: int
    image: str


def holding(network: nn.Module, inputs: Mapping[str, Any], n: int = 1) -> nn.Module:
    """The network with further arguments held fixed: the same modules and weights, but it takes images only.

    ``inputs``: values by the names of arguments of its ``forward``; the images go to the first that is not among them
    (to ``pixel_values`` where there is one). Tensors have a row for each of the ``n`` images, or one row for all;
    other values are handed on as they are. What the network holds already it goes on holding. Raises `InputError` for
    an unknown name and for other numbers of rows.

    >>> class Masked(nn.Module):
    ...     def forward(self, x, mask):
    ...         return (x * mask).sum((2, 3))
    >>> net = holding(Masked(), {"mask": torch.tensor([[[[0.0, 1.0]]]])}, 1)
    >>> net(torch.ones(4, 3, 1, 2)).shape
    torch.Size([4, 3])
    """
    network = unwrapped(network)
    if isinstance(network, torch.jit.ScriptModule):
        raise UnsupportedError(
            f"{type(network).__name__} is TorchScript, and inputs= needs the Python network"
        )
    before: _Held | None = network.__dict__.get(_HELD)
    if before is not None:
        network, inputs = original(network), {**before.values, **inputs}
    image, own = _image_argument(network, inputs), 1
    for name, value in inputs.items():
        for tensor in _tensors(value):
            own = n if tensor.ndim and len(tensor) > 1 else own
            if tensor.ndim and len(tensor) not in (1, n):
                rows = f"{len(tensor)} rows, {tuple(tensor.shape)},"
                raise InputError(
                    f"inputs[{name!r}] has {rows} for {n} image{'s' if n > 1 else ''}; expected one row for each, or "
                    "one for all (what has no rows is held by a module of your own whose forward takes the images)"
                )
    return _made(network, _Held(dict(inputs), own, image))


def for_rows(network: nn.Module, rows: Tensor) -> nn.Module:
    """The network for a batch whose row i shows image ``rows[i]``, changed or not; itself if it holds no inputs."""
    held: _Held | None = network.__dict__.get(_HELD)
    if held is None or held.n == 1:
        return network
    return _made(original(network), _Held(rows_of(held.values, rows), len(rows), held.image))


def for_first(network: nn.Module) -> nn.Module:
    """The network for the first image, however often it is shown."""
    return for_rows(network, torch.zeros(1, dtype=torch.long))


def held_names(network: nn.Module) -> list[str]:
    """The names of the inputs that a network holds fixed.

    >>> held_names(nn.ReLU())
    []
    """
    held: _Held | None = network.__dict__.get(_HELD)
    return list(held.values) if held else []


def held_rows(network: nn.Module) -> int:
    """For how many images a network holds inputs of their own; 1 where they are the same for all."""
    held: _Held | None = network.__dict__.get(_HELD)
    return held.n if held else 1


def held_values(network: nn.Module) -> tuple[Any, ...]:
    """The values of the tensors that a network holds fixed, to be compared."""
    held: _Held | None = network.__dict__.get(_HELD)
    found = [t for value in held.values.values() for t in _tensors(value)] if held else []
    return tuple(tuple(t.detach().flatten().tolist()) for t in found)


def lying_on(network: nn.Module, size_hw: tuple[int, ...]) -> str | None:
    """The first held input that lies on the image: its last two axes are the image's."""
    held: _Held | None = network.__dict__.get(_HELD)
    for name, value in held.values.items() if held else ():
        if any(t.ndim > 2 and tuple(t.shape[-2:]) == size_hw for t in _tensors(value)):
            return name
    return None


def spelling(network: nn.Module) -> Any:
    """What tells the held inputs of two passes apart: shapes, and the values of what is no tensor."""
    held: _Held | None = network.__dict__.get(_HELD)
    if held is None:
        return None
    return tuple((name, _spelled(value)) for name, value in sorted(held.values.items()))


def _made(network: nn.Module, held: _Held) -> nn.Module:
    """A shallow copy of the network whose ``forward`` takes images and adds what is held."""
    twin = copy.copy(network)
    forward = _Forward(network, held)
    twin.__dict__.update({"forward": forward, "training": False, _HELD: held, ORIGINAL: network})
    return twin


@dataclass(frozen=True)
class _Forward:
    """The ``forward`` of a network with inputs held fixed; it can be pickled with the network."""

    network: nn.Module
    held: _Held

    def __call__(self, images: Tensor) -> Any:
        held = self.held
        if held.n > 1 and len(images) != held.n:
            raise InputError(
                f"a batch of {len(images)} was made of {held.n} images with inputs of their own; a method says which "
                "image each row shows: evidence.rescore(images, rows)"
            )
        with torch._C.DisableTorchFunction():  # the engine counts the network's operations
            given = {name: _at(value, images) for name, value in held.values.items()}
        return self.network.forward(**given, **{held.image: images})


def takes_by_name(network: nn.Module) -> bool:
    """Whether a network's ``forward`` takes nothing but by name, so that the image must be handed on by its name.

    >>> class Named(nn.Module):
    ...     def forward(self, *, image):
    ...         return image
    >>> takes_by_name(Named()), takes_by_name(nn.ReLU())
    (True, False)
    """
    if isinstance(network, torch.jit.ScriptModule):
        return False
    try:
        kinds = {p.kind for p in _parameters(network)}
    except (TypeError, ValueError):  # a built-in function, which has no signature
        return False
    return inspect.Parameter.KEYWORD_ONLY in kinds and not kinds & _POSITIONAL


def arguments(network: nn.Module) -> list[str]:
    """The names of what a network's ``forward`` takes, in order.

    >>> arguments(nn.Linear(2, 2))
    ['input']
    """
    return [p.name for p in _parameters(original(unwrapped(network))) if p.kind not in _ANY]


def _parameters(network: nn.Module) -> list[inspect.Parameter]:
    function = network.__dict__.get("forward") or type(network).forward.__get__(network)
    return list(inspect.signature(function).parameters.values())


def _image_argument(network: nn.Module, inputs: Mapping[str, Any]) -> str:
    """The argument that takes the images, once every name has proved to be one."""
    names = arguments(network)
    if not any(p.kind is p.VAR_KEYWORD for p in _parameters(network)):
        for name in inputs:
            if name not in names:
                raise unknown(f"input of {type(network).__name__}", name, names)
    left = [name for name in names if name not in inputs]
    if not left:
        raise InputError(f"inputs holds {', '.join(inputs)}, and no argument is left for the images")
    return _IMAGE if _IMAGE in left else left[0]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for one in inside for tensor in _tensors(one)]


def _each(value: Any, change: Any) -> Any:
    """A value with its tensors changed, in lists, tuples and dictionaries too."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _each(one, change) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_each(one, change) for one in value)
    return value


def rows_of(inputs: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    """The rows of what has a row for each image; one row stands for all.

    >>> rows_of({"mask": torch.tensor([[1], [2]]), "task": 3}, torch.tensor([1]))
    {'mask': tensor([[2]]), 'task': 3}
    """

    def pick(tensor: Tensor) -> Tensor:
        return tensor[rows.to(tensor.device)] if tensor.ndim and len(tensor) > 1 else tensor

    return {name: _each(value, pick) for name, value in inputs.items()}


def _at(value: Any, images: Tensor) -> Any:
    """The value where the images are, floats in their precision; one row is repeated for each of them."""

    def move(tensor: Tensor) -> Tensor:
        tensor = tensor.to(images.device, images.dtype if tensor.is_floating_point() else tensor.dtype)
        one = tensor.ndim > 0 and len(tensor) == 1
        return tensor.expand(len(images), *tensor.shape[1:]) if one else tensor

    return _each(value, move)


def _spelled(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (tuple(value.shape[1:]), value.dtype)
    if isinstance(value, (int, float, str, type(None))):
        return value
    return tuple(_spelled(tensor) for tensor in _tensors(value)) or id(value)
