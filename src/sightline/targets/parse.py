"""Targets as text: ``KIND:VALUE``."""

from __future__ import annotations

from collections.abc import Callable

from sightline.errors import InputError, unknown
from sightline.targets.base import OutputTarget
from sightline.targets.dense import Segmentation
from sightline.targets.detection import Detection
from sightline.targets.embedding import Text
from sightline.targets.simple import ClassScore, Contrast, MultiLabel, Probability, Regression


def parse_target(text: str) -> OutputTarget:
    """Parse a target as a user types it; raises `InputError` with the expected form.

    ``class:NAME``, ``probability:NAME``, ``contrast:A,B``, ``regression:1`` or ``-1``, ``multilabel:A,B,…``,
    ``segmentation:NAME``, ``detection:LABEL`` (its best detection) or
    ``detection:LABEL,x0,y0,x1,y1`` (pixels of the network's input), ``text:a photo of a dog``;
    a class is an index or a name.

    >>> parse_target("contrast:281,282"), parse_target("regression:-1"), parse_target('text:"a dog"')
    (Contrast(a=281, b=282), Regression(sign=-1), Text('a dog'))
    >>> parse_target("detection:18,10,20,200,220")
    Detection([10.0, 20.0, 200.0, 220.0], 18)
    """
    kind, _, value = text.partition(":")
    if kind not in _KINDS:
        raise unknown(
            "target", kind, _KINDS, hint=f"(forms: {', '.join(form for form, _ in _KINDS.values())})"
        )
    form, make = _KINDS[kind]
    value = value.strip().strip("\"'")
    if not value and kind != "regression":
        raise InputError(f"target {text!r}; expected {form}")
    try:
        return make(value)
    except (ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"target {text!r}; expected {form}") from None


def _class(text: str) -> int | str:
    text = text.strip()
    return int(text) if text.isdecimal() else text


def _contrast(value: str) -> OutputTarget:
    a, b = value.split(",")
    return Contrast(_class(a), _class(b))


def _detection(value: str) -> OutputTarget:
    label, *box = value.split(",")
    if len(box) not in (0, 4):
        raise ValueError
    return Detection([float(v) for v in box] if box else None, _class(label))


_KINDS: dict[str, tuple[str, Callable[[str], OutputTarget]]] = {
    "class": ("class:NAME", lambda value: ClassScore(_class(value))),
    "probability": ("probability:NAME", lambda value: Probability(_class(value))),
    "contrast": ("contrast:A,B", _contrast),
    "regression": ("regression:1 or regression:-1", lambda value: Regression(int(value or 1))),
    "multilabel": ("multilabel:A,B,…", lambda value: MultiLabel(*map(_class, value.split(",")))),
    "segmentation": ("segmentation:NAME", lambda value: Segmentation(_class(value))),
    "detection": ("detection:LABEL or detection:LABEL,x0,y0,x1,y1", _detection),
    "text": ('text:"a photo of a dog"', Text),
}
