"""The registry of methods: what each needs from a forward pass, its paper, its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sightline.errors import InputError, unknown
from sightline.options import keyword_options
from sightline.plugins import from_plugin, load_plugin, loaded_plugins
from sightline.registry import Registry

NEEDS = ("activations", "gradient", "input_gradient", "guided", "classifier", "attention")


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
        return keyword_options(self.function)

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


METHODS = Registry[Method]("method", builtin=("sightline.methods.*",))


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
    """Decorator: register a function of `Evidence` and a target as a method, usable everywhere.

    ``needs``: what the forward pass must keep: "activations" of the target layer, the "gradient" to it,
    the "input_gradient", the "guided" gradient, the "classifier" weights, "attention" (recorded in a separate
    pass). Options are the function's keyword-only arguments. Registering a name again replaces it; a built-in
    method of that name is hidden until `unregister_method`.

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
        method = Method(name, function, paper, frozenset(needs), signed, joint, class_specific, layers)
        METHODS.add(name, method, getattr(function, "__module__", ""))
        return function

    return decorate


def unregister_method(name: str) -> None:
    """Remove a method; a built-in one of that name is found again."""
    METHODS.remove(name)


def get_method(name: str) -> Method:
    """The method of that name; raises `InputError` with the nearest names.

    >>> get_method("gradcam").paper
    'Selvaraju et al., ICCV 2017'
    """
    return METHODS.get(name)


def list_methods() -> dict[str, str]:
    """Every method's name with its paper.

    >>> list_methods()["cam"]
    'Zhou et al., CVPR 2016'
    """
    return {name: METHODS.get(name).paper for name in METHODS.names()}


@dataclass(frozen=True)
class Additions:
    """The methods that this process has beyond the built-in ones, to pass on to another process.

    ``plugins`` are loaded there; ``methods`` are those not from a plugin, such as a notebook's.
    """

    plugins: tuple[str, ...]
    methods: tuple[Method, ...]

    @classmethod
    def here(cls) -> Additions:
        """Those of this process."""
        known = METHODS.own.values()
        return cls(tuple(loaded_plugins()), tuple(m for m in known if not from_plugin(m.function)))

    def register(self) -> None:
        """Register them in this process; raises `InputError` for a plugin that cannot be loaded here."""
        for plugin in self.plugins:
            load_plugin(plugin)
        for method in self.methods:
            METHODS.add(method.name, method, "")
