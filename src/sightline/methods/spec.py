"""A method with its options as one object, and its string form: ``NAME:OPTION=VALUE:combinator``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sightline.errors import InputError, unknown
from sightline.methods.named import named_methods
from sightline.methods.options import parse_options
from sightline.methods.registry import get_method, list_methods
from sightline.types import BoxRule


@dataclass(frozen=True)
class Affinity:
    """The random walk of `sightline.heatmap.propagate`: its power, its steps, and the stages whose features it uses.

    ``stages``: layer names, or how many of the last stages (`sightline.inspection.stages.last_stages`); the maps of
    several stages are fused.
    """

    power: float = 4.0
    steps: int = 2
    stages: int | tuple[str, ...] = 1


@dataclass(frozen=True)
class MethodSpec:
    """A method with its options and combinators.

    From the inside out: ``layers`` fused, the mirror image (``flip``), the ``affinity`` walk, the mean over input sizes
    (``scales``). ``alias`` is the name of the whole, if it was requested by a name.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    flip: bool = False
    scales: tuple[float, ...] = ()
    affinity: Affinity | None = None
    alias: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """The name and every setting that is not a default.

        >>> MethodSpec("cam", {"nwc": True}, flip=True, scales=(1, 2), affinity=Affinity(power=8)).label
        'cam nwc=true flip scales=1,2 affinity affinity.power=8'
        """
        if self.alias:
            return self.alias
        options = [f"{name}={_spelled(value)}" for name, value in self.options.items()]
        layers = [f"layer={'+'.join(self.layers)}"] if self.layers else []
        return " ".join([self.name, *options, *layers, *self._around()])

    def _around(self) -> list[str]:
        parts = ["flip"] if self.flip else []
        parts += [f"scales={_spelled(self.scales)}"] if self.scales else []
        if self.affinity is not None:
            usual = Affinity()
            given = {name: getattr(self.affinity, name) for name in _AFFINITY}
            changed = {name: value for name, value in given.items() if value != getattr(usual, name)}
            parts += ["affinity", *(f"affinity.{name}={_spelled(value)}" for name, value in changed.items())]
        return parts

    @property
    def rule(self) -> BoxRule | None:
        """The box rule of a named method; None for any other."""
        named = named_methods().get(self.alias)
        return None if named is None else named.rule

    @property
    def combines(self) -> bool:
        """Whether there are combinators: the method then runs several times, or its map is processed further.

        >>> MethodSpec("cam").combines, MethodSpec("cam", flip=True).combines
        (False, True)
        """
        fused = len(self.layers) > 1 and get_method(self.name).layers is None
        return bool(self.flip or fused or self.scales or self.affinity is not None)


def parse_method(text: str) -> MethodSpec:
    """A `MethodSpec` from ``NAME`` or ``NAME:OPTION=VALUE:…``, NAME a method or a named method string.

    Options include ``layer=a,b``, ``flip``, ``scales=1,1.5,2`` and ``affinity`` with ``affinity.power=4``,
    ``affinity.steps=2`` and ``affinity.stages=2`` or names. Raises `InputError` with the nearest names.

    >>> spec = parse_method("cam:nwc=true:flip:scales=1,2")
    >>> spec.name, spec.options, spec.flip, spec.scales
    ('cam', {'nwc': True}, True, (1.0, 2.0))
    >>> parse_method("localise").affinity
    Affinity(power=4.0, steps=2, stages=2)
    """
    name, *parts = [part.strip() for part in text.split(":")]
    if (named := named_methods().get(name)) is not None:
        spec = parse_method(":".join([named.text, *parts]))
        return spec if parts else replace(spec, alias=name)
    if name not in list_methods():
        raise unknown("method", name, [*list_methods(), *named_methods()])
    around = {part.partition("=")[0]: part.partition("=")[2] for part in parts if _is_around(part)}
    own = [part for part in parts if not _is_around(part)]
    scales = _numbers("scales", around["scales"]) if "scales" in around else ()
    if any(scale <= 0 for scale in scales):
        raise InputError(
            f"scales={around['scales']}; expected factors of the input size, e.g. scales=1,1.5,2"
        )
    return MethodSpec(
        name,
        parse_options([name], own)[name],
        _names(around.get("layer", "")),
        "flip" in around,
        scales,
        _affinity(around),
    )


_AFFINITY = ("power", "steps", "stages")


def _is_around(part: str) -> bool:
    return part in ("flip", "affinity") or part.startswith(("layer=", "scales=", "affinity."))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(what: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in _names(text))
    except ValueError:
        raise InputError(f"{what}={text!r}; expected comma-separated numbers") from None


def _affinity(around: Mapping[str, str]) -> Affinity | None:
    given = {name.removeprefix("affinity."): text for name, text in around.items() if "affinity." in name}
    if "affinity" not in around and not given:
        return None
    for name in given:
        if name not in _AFFINITY:
            raise unknown("affinity option", name, _AFFINITY)
    stages = given.get("stages", "1")
    try:
        return Affinity(
            float(given.get("power", Affinity.power)),
            int(given.get("steps", Affinity.steps)),
            int(stages) if stages.isdecimal() else _names(stages),
        )
    except ValueError:
        raise InputError(f"affinity with {given}; expected numbers, e.g. affinity.power=4") from None


def parse_methods(
    texts: Sequence[str], options: Sequence[str] = (), layers: Sequence[str] = (), flip: bool = False
) -> list[MethodSpec]:
    """The specs of several method strings, with defaults for all of them.

    ``options`` are NAME=VALUE for every method that has it, or METHOD.NAME=VALUE; ``layers`` apply to methods with a
    target layer. Raises `InputError` with the nearest names.

    >>> [r.label for r in parse_methods(["cam", "gradcam:nwc=false"], ["nwc=true"], flip=True)]
    ['cam nwc=true flip', 'gradcam nwc=false flip']
    """
    specs = [parse_method(text) for text in texts]
    common = parse_options(list(dict.fromkeys(spec.name for spec in specs)), options)
    with_layer = [spec for spec in specs if "activations" in get_method(spec.name).needs]
    if layers and not with_layer:
        names = ", ".join(spec.name for spec in specs)
        raise InputError(f"layer={layers[0]!r} was given, but {names} takes no layer")
    return [
        replace(
            spec,
            options={**common[spec.name], **spec.options},
            layers=spec.layers or (tuple(layers) if spec in with_layer else ()),
            flip=spec.flip or flip,
        )
        for spec in specs
    ]


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(_spelled, value)) if isinstance(value, (list, tuple)) else str(value)
