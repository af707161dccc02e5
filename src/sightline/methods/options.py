"""Options as a user types them, NAME=VALUE, read with the types of the method's own signature."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Sequence
from typing import Any

from sightline.errors import InputError, unknown
from sightline.methods.registry import Method, get_method

_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def parse_options(methods: Sequence[str], pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The options of each method, from ``NAME=VALUE`` (every method that has it) or ``METHOD.NAME=VALUE``.

    Raises `InputError` for an unknown name (with near matches) and for a value of another type.

    >>> parse_options(["gradcam", "scorecam"], ["channels=64"])
    {'gradcam': {}, 'scorecam': {'channels': 64}}
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in methods}
    table = {name: get_method(name) for name in methods}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise InputError(f"option {pair!r}; expected NAME=VALUE, e.g. channels=64")
        only, _, option = key.strip().rpartition(".")
        if only and only not in table:
            raise unknown("method in the option's name", only, table)
        owners = [name for name in ([only] if only else table) if option in table[name].options]
        if not owners:
            valid = [name for method in table.values() for name in method.options]
            asked = " and ".join(methods)
            if not valid:
                raise InputError(f"unknown option {option!r}: {asked} has no options")
            raise unknown(f"option of {asked}:", option, dict.fromkeys(valid))
        for name in owners:
            found[name][option] = _value(table[name], option, text.strip())
    return found


def option_types(method: Method) -> dict[str, tuple[Any, ...]]:
    """What each option may be, from the annotations: its types, or its literal values.

    >>> option_types(get_method("scorecam"))["channels"]
    (<class 'int'>, <class 'NoneType'>)
    """
    return {name: _members(_hint(method, p), p.default) for name, p in method.options.items()}


def _hint(method: Method, parameter: inspect.Parameter) -> Any:
    """The annotation of one option; None where there is none, or where it names what only a type checker sees."""
    if parameter.annotation is inspect.Parameter.empty:
        return None

    def alone() -> None: ...

    alone.__annotations__ = {"option": parameter.annotation}
    try:
        return typing.get_type_hints(alone, inspect.unwrap(method.function).__globals__)["option"]
    except NameError:
        return None


def _members(hint: Any, default: Any) -> tuple[Any, ...]:
    if hint is None:  # not annotated: like its default
        return (str,) if default in (None, inspect.Parameter.empty) else (type(default),)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(one for part in typing.get_args(hint) for one in _members(part, default))
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return (typing.get_origin(hint) or hint,)


def _value(method: Method, option: str, text: str) -> Any:
    kinds = option_types(method)[option]
    for kind in sorted(kinds, key=lambda k: k is str):  # a string takes anything: try it last
        try:
            return _read(kind, text)
        except ValueError:
            continue
    expected = " or ".join(dict.fromkeys(_spelled(kind) for kind in kinds))
    raise InputError(f"option {option}={text!r} of {method.name}: expected {expected}")


def _read(kind: Any, text: str) -> Any:
    if kind is type(None):
        return _if(text.lower() in ("none", "null"), None)
    if kind is bool:
        return _if(text.lower() in _YES + _NO, text.lower() in _YES)
    if kind in (int, float):
        return kind(text)
    if kind is str:
        return text
    if isinstance(kind, type) and issubclass(kind, Sequence):
        return _if("," in text, [part.strip() for part in text.split(",")])
    return _if(text == str(kind), kind)  # one of the values of a Literal


def _if(fits: bool, value: Any) -> Any:
    if not fits:
        raise ValueError
    return value


def _spelled(kind: Any) -> str:
    if kind is type(None):
        return "none"
    if kind is bool:
        return "true or false"
    if isinstance(kind, type):
        return {int: "an integer", float: "a number", str: "a text"}.get(kind, "a list with commas")
    return repr(kind)
