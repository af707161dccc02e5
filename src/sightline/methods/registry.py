"""The registry of methods: what each needs from a forward pass, its paper, its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from sightline.errors import InputError, kind_of, unknown
from sightline.options import check_value, keyword_options, option_kinds, shown
from sightline.plugins import from_plugin, load_plugin, loaded_plugins
from sightline.registry import Registry
from sightline.types import NORMALISATIONS

NEEDS = ("activations", "gradient", "input_gradient", "guided", "classifier", "attention")
COMBINATORS = (
    "flip",
    "scales",
    "affinity",
    "layer",
    "layers",
    "smooth",
    "tencrop",
)  # words of a method string


@dataclass(frozen=True)
class Method:
    """A registered method; ``function(evidence, target, **options)`` -> (N, h, w), raw.

    ``signed``: it returns (N, 3, H, W) at the image's pixels, and its map is the channel-maximum of the
    magnitude. ``joint``: it takes the list of all targets at once and returns (N, K, h, w), because the targets
    share its forward passes. ``class_specific`` False: the map is the same for every class.
    ``layers``: the layers that it fuses when none is named ("convs" or "stages"); None: one layer.
    ``normalise``: how its heatmaps are normalised where nobody says; "max" if 0 in its map means no effect.
    """

    name: str
    function: Callable[..., Tensor]
    paper: str
    needs: frozenset[str]
    signed: bool = False
    joint: bool = False
    class_specific: bool = True
    layers: str | None = None
    normalise: str = "minmax"

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """Its keyword-only options with their defaults, read from the signature."""
        return keyword_options(self.function)

    def checked_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """The defaults overridden by ``given``, each value checked by the option's annotation.

        Raises `InputError` for an option that the method lacks, a value of another kind or out of its range, and an
        option without default that is not given.
        """
        options, checked = self.options, {}
        for name, value in given.items():
            if name not in options:
                if not options:
                    raise InputError(f"method {self.name!r} has no options; got {name}={value!r}")
                raise unknown(f"option of {self.name!r}", name, options)
            what = f"option {name}={shown(value)} of {self.name}:"
            checked[name] = check_value(self.kinds[name], value, what)
        for name, parameter in options.items():
            if parameter.default is inspect.Parameter.empty and name not in checked:
                raise InputError(
                    f"method {self.name!r} needs its option {name!r}, which has no default: {self.name}:{name}=VALUE"
                )
        return {name: checked.get(name, p.default) for name, p in options.items()}

    @cached_property
    def kinds(self) -> dict[str, tuple[Any, ...]]:
        """What each option accepts, from its annotation."""
        return option_kinds(self.function, self.options)

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


METHODS = Registry[Method]("method", builtin=("sightline.methods.*",), reserved=COMBINATORS)


def register_method(
    name: str,
    *,
    paper: str,
    needs: Collection[str] = ("activations", "gradient"),
    signed: bool = False,
    joint: bool = False,
    class_specific: bool = True,
    layers: str | None = None,
    normalise: str = "minmax",
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator: register a function of `Evidence` and a target as a method, usable everywhere.

    ``needs``: what the forward pass must keep: "activations" of the target layer, the "gradient" to it,
    the "input_gradient", the "guided" gradient, the "classifier" weights, "attention" (recorded in a separate
    pass). Options are the function's keyword-only arguments, read and checked by their annotations, or else by
    their defaults. Registering a name again replaces it; a built-in method of that name is hidden, with a warning,
    until `unregister_method`. Raises `InputError` for an impossible name, and for a function that does not take
    (evidence, target) or has an option with neither annotation nor default.

    >>> @register_method("mine", paper="this line", needs=("activations",))
    ... def mine(evidence, target, *, power=2.0):
    ...     return evidence.activations.relu().pow(power).sum(1)
    >>> get_method("mine").options["power"].default
    2.0
    >>> unregister_method("mine")
    """
    METHODS.check_name(name)
    needs = frozenset([needs] if isinstance(needs, str) else needs)
    for need in sorted(needs):
        if need not in NEEDS:
            raise unknown("need", need, NEEDS)
    if normalise not in NORMALISATIONS:
        raise unknown("normalise", normalise, NORMALISATIONS)

    def decorate(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        _check_signature(name, function)
        method = Method(
            name,
            function,
            paper,
            needs,
            signed,
            joint,
            class_specific,
            layers,
            normalise,
        )
        METHODS.add(name, method, getattr(function, "__module__", ""))
        return function

    return decorate


def _check_signature(name: str, function: Any) -> None:
    """Raise `InputError` for a function that cannot be a method."""
    if not callable(function):
        raise InputError(f"method {name!r} is {kind_of(function)}; expected a function (evidence, target)")
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C, without a signature
        return
    required = {p.name: None for p in keyword_options(function).values() if p.default is p.empty}
    try:
        signature.bind(None, None, **required)
    except TypeError as error:
        raise InputError(
            f"method {name!r} takes {signature}; expected (evidence, target, *, options): {error}"
        ) from None
    for option in required:
        if signature.parameters[option].annotation is inspect.Parameter.empty:
            raise InputError(
                f"option {option!r} of method {name!r} has neither annotation nor default; give it one, "
                "so that its text can be read"
            )


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
