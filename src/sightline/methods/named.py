"""Named method strings, each with the box rule that it was tuned with."""

from __future__ import annotations

from dataclasses import dataclass

from sightline.errors import InputError
from sightline.types import BoxRule


@dataclass(frozen=True)
class NamedMethod:
    """A name for a method string; ``rule`` is the default for its boxes."""

    name: str
    text: str
    rule: BoxRule
    summary: str


_NAMED: dict[str, NamedMethod] = {}


def name_method(name: str, text: str, rule: BoxRule | None = None, summary: str = "") -> NamedMethod:
    """Name a method string, for use wherever a method is; an existing name is replaced.

    >>> name_method("mine", "layercam:flip", BoxRule(threshold=0.3)).text
    'layercam:flip'
    >>> forget_method_name("mine")
    """
    if not name or ":" in name:
        raise InputError(f"name {name!r} for a method; expected one word without ':'")
    _NAMED[name] = NamedMethod(name, text, rule or BoxRule(), summary)
    return _NAMED[name]


def forget_method_name(name: str) -> None:
    """Remove a name."""
    del _NAMED[name]


def named_methods() -> dict[str, NamedMethod]:
    """Every named method string.

    >>> named_methods()["localise-fast"].text
    'gradcam:nwc=true:affinity:affinity.stages=2'
    """
    return dict(_NAMED)


# On a head of pooling and one linear layer, Grad-CAM with positive weights is the class map with negative weights
# clamped, divided by Z; unlike that map, it is also defined on every other network.
name_method(
    "localise",
    "gradcam:nwc=true:flip:scales=1,1.4286,2:affinity:affinity.stages=2",
    BoxRule(threshold=0.35),
    "the class map of positive weights with mirror image, three sizes, affinity walk on two stages",
)
name_method(
    "localise-fast",
    "gradcam:nwc=true:affinity:affinity.stages=2",
    BoxRule(threshold=0.35),
    "the same in one forward pass",
)
