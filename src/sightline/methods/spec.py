"""A method with its options as one object, and its string form: ``NAME:OPTION=VALUE:combinator``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypeVar

from sightline.errors import InputError, unknown
from sightline.inspection.layout import Layout
from sightline.methods.named import named_methods
from sightline.methods.options import parse_options
from sightline.methods.registry import get_method, list_methods
from sightline.options import Count, NotNegative, Positive, Range, Seed, check_fields, field_kinds, read_value
from sightline.types import BoxRule

T = TypeVar("T")


@dataclass(frozen=True)
class Affinity:
    """The random walk of `sightline.heatmap.propagate`: its power, its steps, and the stages whose features it uses.

    ``stages``: layer names, or how many of the last stages (`sightline.inspection.stages.last_stages`); the maps of
    several stages are fused. ``power``: one, or one per stage, finest first (a network with fewer stages takes the
    last ones). ``grid``: a stage with more than grid² positions is averaged to that many.
    """

    power: Positive | tuple[Positive, ...] = 4.0
    steps: Annotated[int, Range(0, 100)] = 2
    stages: Count | tuple[str, ...] = 1
    grid: Annotated[int, Range(2)] = 28

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.stages:
            raise InputError("stages is empty; expected a number of stages or names of layers")
        if isinstance(self.stages, int) and self.stages > 3:
            raise InputError(f"affinity.stages={self.stages}; expected 1, 2, 3, or names of layers")

    def powers(self, found: int) -> tuple[float, ...]:
        """The power of each of the stages that were found; raises `InputError` unless there is one, or one per stage.

        >>> Affinity((8.0, 4.0, 2.0), stages=3).powers(2), Affinity(3.0).powers(1)
        ((4.0, 2.0), (3.0,))
        """
        if not isinstance(self.power, tuple):
            return (self.power,) * found
        wanted = self.stages if isinstance(self.stages, int) else len(self.stages)
        if len(self.power) != wanted:
            raise InputError(
                f"affinity.power={_spelled(self.power)} for {wanted} stage{'s' * (wanted != 1)}; "
                "expected one power, or one per stage"
            )
        return self.power[-found:]


@dataclass(frozen=True)
class Smooth:
    """SmoothGrad's averaging (Smilkov et al., 2017) for any method: ``samples`` noisy images, drawn with ``seed``.

    ``sigma``: the noise's standard deviation, as a share of the image's range.
    """

    samples: Count = 25
    sigma: NotNegative = 0.15
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class MethodSpec:
    """A method with its options and combinators; raises `InputError` for impossible ones.

    From the inside out: ``layers`` fused, the mirror image (``flip``), the ``affinity`` walk, the mean over noisy
    images (``smooth``), over ten crops (``tencrop``), over input sizes (``scales``). ``layout``: how the tensor of the
    named layer is a map ("nhwc", "ntc:1+14x14"; "auto": found). ``alias`` is the name of the whole, if it was requested
    by a name.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    flip: bool = False
    scales: tuple[Positive, ...] = ()
    affinity: Affinity | None = None
    smooth: Smooth | None = None
    tencrop: bool = False
    alias: str = field(default="", compare=False)
    layout: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.layout == "auto":
            return
        self.check_layout(self.layout)
        if not self.layers:
            raise InputError(
                f"layout={self.layout!r} was given without a layer; name the layer that it describes"
            )

    def check_layout(self, layout: Layout | str) -> None:
        """Raise `InputError` for a layout that cannot be read, or whose grid does not hold at every scale."""
        given = Layout.parse(layout) if isinstance(layout, str) else layout
        if given.grid and any(scale != 1 for scale in self.scales):
            raise InputError(
                f"layout='{given}' is of one input size, and scales={_spelled(self.scales)} shows others; leave out "
                "the scales, or the layout"
            )

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
        layers += [f"layout={self.layout}"] if self.layout != "auto" else []
        return " ".join([self.name, *options, *layers, *self._around()])

    def _around(self) -> list[str]:
        parts = ["flip"] if self.flip else []
        parts += [f"scales={_spelled(self.scales)}"] if self.scales else []
        for name, settings in (("affinity", self.affinity), ("smooth", self.smooth)):
            if settings is not None:
                usual = type(settings)()
                given = {field: getattr(settings, field) for field in field_kinds(type(settings))}
                changed = {field: value for field, value in given.items() if value != getattr(usual, field)}
                parts += [name, *(f"{name}.{field}={_spelled(value)}" for field, value in changed.items())]
        return [*parts, "tencrop"] if self.tencrop else parts

    @property
    def rule(self) -> BoxRule | None:
        """What boxes and heatmaps are made by where nobody says: a named method's rule, or its method's normalisation.

        >>> parse_method("localise").rule.threshold, parse_method("occlusion").rule.normalise, MethodSpec("cam").rule
        (0.3, 'max', None)
        """
        named, how = named_methods().get(self.alias), get_method(self.name).normalise
        own = None if how == "minmax" else BoxRule(normalise=how)
        return own if named is None else named.rule.or_defaults_of(own)

    @property
    def combines(self) -> bool:
        """Whether there are combinators: the method then runs several times, or its map is processed further.

        >>> MethodSpec("cam").combines, MethodSpec("cam", flip=True).combines
        (False, True)
        """
        fused = len(self.layers) > 1 and get_method(self.name).layers is None
        walks = self.affinity is not None or self.smooth is not None
        return bool(self.flip or fused or self.scales or self.tencrop or walks)


def parse_method(text: str) -> MethodSpec:
    """A `MethodSpec` from ``NAME`` or ``NAME:OPTION=VALUE:…``, NAME a method or a named method string.

    Options include ``layer=a,b``, ``flip``, ``scales=1,1.5,2`` and ``affinity`` with ``affinity.power=4`` (or one per
    stage), ``affinity.steps=2``, ``affinity.stages=2`` (or names) and ``affinity.grid=28``; ``smooth`` with
    ``smooth.samples=25``, ``smooth.sigma=0.15`` and ``smooth.seed=0``; ``tencrop``. Raises `InputError` with the
    nearest names.

    >>> spec = parse_method("cam:nwc=true:flip:scales=1,2")
    >>> spec.name, spec.options, spec.flip, spec.scales
    ('cam', {'nwc': True}, True, (1.0, 2.0))
    >>> parse_method("localise").affinity
    Affinity(power=(8.0, 3.0, 4.0), steps=2, stages=3, grid=28)
    """
    name, *parts = [part.strip() for part in text.split(":")]
    if not all(parts):
        raise InputError(f"method {text!r} has an empty part; expected NAME:OPTION=VALUE:combinator")
    if (named := named_methods().get(name)) is not None:
        return _changed(parse_method(named.text), name, parts)
    if name not in list_methods():
        raise unknown("method", name, [*list_methods(), *named_methods()])
    around = _around(text, [part for part in parts if _is_around(part)])
    own = [part for part in parts if not _is_around(part)]
    return MethodSpec(
        name,
        parse_options([name], own)[name],
        _names(around.get("layer", "")),
        "flip" in around,
        _scales(around["scales"]) if "scales" in around else (),
        _settings(Affinity, "affinity", around),
        _settings(Smooth, "smooth", around),
        "tencrop" in around,
    )


def _changed(spec: MethodSpec, alias: str, parts: Sequence[str]) -> MethodSpec:
    """A named spec, with the parts of the string after its name in the place of its own."""
    if not parts:
        return replace(spec, alias=alias)
    given = parse_method(":".join([spec.name, *parts]))
    around = _around(alias, [part for part in parts if _is_around(part)])
    return MethodSpec(
        spec.name,
        {**spec.options, **given.options},
        given.layers or spec.layers,
        given.flip or spec.flip,
        given.scales or spec.scales,
        _merged(spec.affinity, given.affinity, "affinity", around),
        _merged(spec.smooth, given.smooth, "smooth", around),
        given.tencrop or spec.tencrop,
    )


def _merged(before: T | None, given: T | None, combinator: str, around: Mapping[str, str]) -> T | None:
    """The settings of a named spec, changed where the string after its name says so."""
    if before is None or given is None:
        return given if before is None else before
    names = [name.partition(".")[2] for name in around if name.startswith(f"{combinator}.")]
    return replace(before, **{name: getattr(given, name) for name in names})  # type: ignore[type-var]


ALONE = ("flip", "affinity", "smooth", "tencrop")  # combinators without a value
SETTINGS = {
    "affinity": "affinity.power=4",
    "smooth": "smooth.samples=25",
}  # those with settings, and an example
WITH_VALUE = {"layer": "layer=layer3,layer4", "scales": "scales=1,1.5,2"}  # those with one, and an example


def _is_around(part: str) -> bool:
    name = part.partition("=")[0].strip()
    if name == "smooth" and "=" in part:  # an option of saliency
        return False
    return name.partition(".")[0] in (*ALONE, *WITH_VALUE)


def _around(text: str, parts: Sequence[str]) -> dict[str, str]:
    """The combinators among the parts, with their values; raises `InputError` for one that is written wrongly."""
    found: dict[str, str] = {}
    for part in parts:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name in found:
            raise InputError(f"{name} is given twice in {text!r}; expected it once")
        head, dot, _ = name.partition(".")
        if dot and head not in SETTINGS:
            raise InputError(f"{part!r} in {text!r}; expected {WITH_VALUE.get(head, head)}")
        if name in ALONE and equals:
            more = f", or a setting such as {SETTINGS[name]}" if name in SETTINGS else ""
            raise InputError(f"{part!r} in {text!r}; expected {name!r} alone{more}")
        if name not in ALONE and not value.strip(", "):
            example = WITH_VALUE.get(name) or SETTINGS[head]
            raise InputError(f"{part!r} in {text!r} has no value; expected e.g. {example}")
        found[name] = value
    return found


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _scales(text: str) -> tuple[float, ...]:
    try:
        scales = tuple(float(number) for number in _names(text))
    except ValueError:
        raise InputError(f"scales={text!r}; expected comma-separated numbers") from None
    if not all(0 < scale < math.inf for scale in scales):
        raise InputError(f"scales={text}; expected factors of the input size, e.g. scales=1,1.5,2")
    return scales


def _settings(kind: type[T], name: str, around: Mapping[str, str]) -> T | None:
    """A combinator's settings, ``NAME`` and ``NAME.FIELD=VALUE``, by the annotations of their class; or None."""
    given = {
        key.partition(".")[2]: text
        for key, text in around.items()
        if key.partition(".")[0] == name and "." in key
    }
    if name not in around and not given:
        return None
    kinds = field_kinds(kind)
    for key in given:
        if key not in kinds:
            raise unknown(f"{name} option", key, kinds)
    return kind(
        **{key: read_value(kinds[key], text, f"{name}.{key}={text!r}") for key, text in given.items()}
    )


def parse_methods(
    texts: Sequence[str],
    options: Sequence[str] = (),
    layers: Sequence[str] = (),
    flip: bool = False,
    layout: str = "auto",
) -> list[MethodSpec]:
    """The specs of several method strings, with defaults for all of them.

    ``options`` are NAME=VALUE for every method that has it, or METHOD.NAME=VALUE; ``layers`` and
    their ``layout`` apply to methods with a target layer. A method string's own value counts. Raises `InputError` with
    the nearest names, and for what would then count for no method: it is given twice.

    >>> [r.label for r in parse_methods(["cam", "gradcam:nwc=false"], ["nwc=true"], flip=True)]
    ['cam nwc=true flip', 'gradcam nwc=false flip']
    """
    specs = [parse_method(text) for text in texts]
    common = parse_options(list(dict.fromkeys(spec.name for spec in specs)), options)
    with_layer = [spec for spec in specs if "activations" in get_method(spec.name).needs]
    if layers and not with_layer:
        names = ", ".join(spec.name for spec in specs)
        raise InputError(f"layer={layers[0]!r} was given, but {names} takes no layer")
    if layout != "auto" and not with_layer:
        raise InputError(
            f"layout={layout!r} was given, but {', '.join(s.name for s in specs)} takes no layer"
        )
    _refuse_twice(specs, common, layers, with_layer)
    whole = [
        replace(
            spec,
            options={**common[spec.name], **spec.options},
            layers=spec.layers or (tuple(layers) if spec in with_layer else ()),
            flip=spec.flip or flip,
            layout=layout if spec in with_layer else "auto",
        )
        for spec in specs
    ]
    for spec in whole:
        get_method(spec.name).checked_options(dict(spec.options))
    # A named method that was changed is no longer what its threshold was chosen for.
    return [
        spec if spec == before else replace(spec, alias="") for spec, before in zip(whole, specs, strict=True)
    ]


def _differs(option: str, own: Mapping[str, Any], common: Mapping[str, Any]) -> bool:
    """Whether a method string gives another value to an option than the one for all methods."""
    return option in own and own[option] != common[option]


def _refuse_twice(
    specs: Sequence[MethodSpec],
    common: Mapping[str, Mapping[str, Any]],
    layers: Sequence[str],
    with_layer: Sequence[MethodSpec],
) -> None:
    """Raise `InputError` for an option or a layer for all methods, if every one of them says otherwise itself."""
    if layers and all(spec.layers for spec in with_layer):
        own = with_layer[0]
        raise InputError(
            f"a layer is given twice: {','.join(own.layers)} in the method {own.label!r}, and {','.join(layers)}; "
            "give only one"
        )
    for option in dict.fromkeys(name for given in common.values() for name in given):
        owners = [spec for spec in specs if option in common[spec.name]]
        if all(_differs(option, spec.options, common[spec.name]) for spec in owners):
            own, given = owners[0], f"{option}={_spelled(common[owners[0].name][option])}"
            raise InputError(
                f"option {option} is given twice: in the method {own.label!r} and as {given}; "
                + (f"write {own.alias}:{given}" if own.alias else "give only one")
            )


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(_spelled, value)) if isinstance(value, (list, tuple)) else str(value)
