"""One table of methods: what each needs of a forward pass, its paper, its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sightline.errors import InputError, unknown

NEEDS = ("activations", "gradient", "input_gradient", "guided", "classifier")


@dataclass(frozen=True)
class Method:
    """A registered method; ``function(evidence, target, **options)`` -> (N, h, w), raw.

    ``signed``: it returns (N, 3, H, W) at the image's pixels, and its map is the channel-maximum of the
    magnitude. ``joint``: it takes the list of all targets at once and returns (N, K, h, w), because the targets
    share its forward passes. ``class_specific`` False: the map is the same for every class.
    ``layers``: the layers that it fuses when none is named ("convs" or "stages"); None: one layer.
    """

    name: str
    function: Callable[..., Tensor]
    paper: str
    needs: frozenset[str]
    signed: bool = False
    joint: bool = False
    class_specific: bool = True
    layers: str | None = None

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """Its keyword-only options with their defaults, read from the signature."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def checked_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """The defaults overridden by ``given``; raises `InputError` for an option that the method lacks."""
        options = self.options
        for name in given:
            if name not in options:
                if not options:
                    raise InputError(f"method {self.name!r} has no options; got {name}={given[name]!r}")
                raise unknown(f"option of {self.name!r}", name, options)
        return {name: given.get(name, p.default) for name, p in options.items()}

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


_METHODS: dict[str, Method] = {}


def register_method(
    name: str,
    *,
    paper: str,
    needs: Collection[str] = ("activations", "gradient"),
    signed: bool = False,
    joint: bool = False,
    class_specific: bool = True,
    layers: str | None = None,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator: make a function of `Evidence` and a target a method that works everywhere at once.

    ``needs`` says what the forward pass must keep: "activations" of the target layer, the "gradient" to it,
    the "input_gradient", the "guided" one, the "classifier" weights. Options are the function's keyword-only
    arguments. Registering a name again replaces it.

    >>> @register_method("mine", paper="this line", needs=("activations",))
    ... def mine(evidence, target, *, power=2.0):
    ...     return evidence.activations.relu().pow(power).sum(1)
    >>> get_method("mine").options["power"].default
    2.0
    >>> unregister_method("mine")
    """
    for need in needs:
        if need not in NEEDS:
            raise unknown("need", need, NEEDS)

    def decorate(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        _METHODS[name] = Method(
            name, function, paper, frozenset(needs), signed, joint, class_specific, layers
        )
        return function

    return decorate


def unregister_method(name: str) -> None:
    """Take a method out of the table again."""
    del _METHODS[name]


def get_method(name: str) -> Method:
    """The method of that name; raises `InputError` with near matches.

    >>> get_method("gradcam").paper
    'Selvaraju et al., ICCV 2017'
    """
    if name not in _METHODS:
        raise unknown("method", name, list_methods())
    return _METHODS[name]


def list_methods() -> dict[str, str]:
    """Every method's name with its paper.

    >>> list_methods()["cam"]
    'Zhou et al., CVPR 2016'
    """
    return {name: _METHODS[name].paper for name in sorted(_METHODS)}
