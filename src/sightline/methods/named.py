"""Named method strings, each with the box rule that it was tuned with."""

from __future__ import annotations

from dataclasses import dataclass

from sightline.errors import InputError, unknown
from sightline.methods.registry import METHODS
from sightline.plugins import note_entry
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

    Raises `InputError` for an impossible name, and for that of a method.

    >>> name_method("mine", "layercam:flip", BoxRule(threshold=0.3)).text
    'layercam:flip'
    >>> forget_method_name("mine")
    """
    if name not in _NAMED:
        METHODS.check_name(name)
        if name in METHODS.entries():
            raise InputError(f"{name!r} is a method; give its variant another name")
    note_entry(__name__)
    return _named(name, text, rule or BoxRule(), summary)


def _named(name: str, text: str, rule: BoxRule, summary: str) -> NamedMethod:
    _NAMED[name] = NamedMethod(name, text, rule, summary)
    METHODS.reserved.add(name)
    return _NAMED[name]


def forget_method_name(name: str) -> None:
    """Remove a name."""
    if name not in _NAMED:
        raise unknown("method name", name, _NAMED)
    del _NAMED[name]
    METHODS.reserved.discard(name)


def named_methods() -> dict[str, NamedMethod]:
    """Every named method string.

    >>> named_methods()["localise-fast"].text
    'gradcam:nwc=true:affinity:affinity.stages=3:affinity.power=6,3,4'
    """
    return dict(_NAMED)


# On a head of pooling and one linear layer, Grad-CAM with positive weights is the class map with negative weights
# clamped, divided by Z; unlike that map, it is also defined on every other network. How the settings and the thresholds
# were chosen, and on what: docs/results.md.
_named(
    "localise",
    "gradcam:nwc=true:flip:scales=1.4286:affinity:affinity.stages=3:affinity.power=8,3,4",
    BoxRule(threshold=0.3),
    "the class map of positive weights at 1.43 times the size, with mirror image, affinity walk on three stages",
)
_named(
    "localise-fast",
    "gradcam:nwc=true:affinity:affinity.stages=3:affinity.power=6,3,4",
    BoxRule(threshold=0.4),
    "the class map of positive weights, affinity walk on three stages: one forward pass",
)
