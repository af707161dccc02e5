"""A method with its options as one object, and the string that spells it: ``NAME:OPTION=VALUE:combinator``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sightline.errors import InputError
from sightline.methods.options import parse_options
from sightline.methods.registry import get_method


@dataclass(frozen=True)
class MethodSpec:
    """A method with its options: its name, what differs from its defaults, its layers, mirrored or not."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    flip: bool = False

    @property
    def label(self) -> str:
        """The name with everything that is not a default.

        >>> MethodSpec("cam", {"nwc": True}, flip=True).label
        'cam nwc=true flip'
        """
        options = [f"{name}={_spelled(value)}" for name, value in self.options.items()]
        layers = [f"layer={'+'.join(self.layers)}"] if self.layers else []
        return " ".join([self.name, *options, *layers, *(["flip"] if self.flip else [])])

    @property
    def combines(self) -> bool:
        """Whether it takes several runs: a mirror image, or layers that the method does not fuse itself.

        >>> MethodSpec("cam").combines, MethodSpec("cam", flip=True).combines
        (False, True)
        """
        return self.flip or (len(self.layers) > 1 and get_method(self.name).layers is None)


def parse_method(text: str) -> MethodSpec:
    """A `MethodSpec` from ``NAME`` or ``NAME:OPTION=VALUE:…``; ``layer=a,b`` and ``flip`` may stand among the options.

    Raises `InputError` with near matches.

    >>> parse_method("cam:nwc=true:flip")
    MethodSpec(name='cam', options={'nwc': True}, layers=(), flip=True)
    """
    name, *parts = [part.strip() for part in text.split(":")]
    get_method(name)
    layers = [part.removeprefix("layer=") for part in parts if part.startswith("layer=")]
    own = [part for part in parts if part != "flip" and not part.startswith("layer=")]
    chosen = tuple(one.strip() for entry in layers for one in entry.split(","))
    return MethodSpec(name, parse_options([name], own)[name], chosen, "flip" in parts)


def parse_methods(
    texts: Sequence[str], options: Sequence[str] = (), layers: Sequence[str] = (), flip: bool = False
) -> list[MethodSpec]:
    """The specs of several texts, and what is to hold for all of them where they do not say otherwise.

    ``options`` are NAME=VALUE for every method that has it, or METHOD.NAME=VALUE; ``layers`` serve the methods that
    have one. Raises `InputError` with near matches.

    >>> [r.label for r in parse_methods(["cam", "gradcam:nwc=false"], ["nwc=true"], flip=True)]
    ['cam nwc=true flip', 'gradcam nwc=false flip']
    """
    specs = [parse_method(text) for text in texts]
    common = parse_options(list(dict.fromkeys(spec.name for spec in specs)), options)
    with_layer = [spec for spec in specs if "activations" in get_method(spec.name).needs]
    if layers and not with_layer:
        names = ", ".join(spec.name for spec in specs)
        raise InputError(f"layer={layers[0]!r} was given, and {names} takes no layer")
    return [
        MethodSpec(
            spec.name,
            {**common[spec.name], **spec.options},
            spec.layers or (tuple(layers) if spec in with_layer else ()),
            spec.flip or flip,
        )
        for spec in specs
    ]


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
