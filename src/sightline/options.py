"""NAME=VALUE options as a user types them, parsed by the types in a function's signature."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.files import read_text

_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def split_pair(pair: str, example: str, what: str = "option") -> tuple[str, str]:
    """The two sides of ``NAME=VALUE``; raises `InputError` with the example. ``what`` names the pair in the message.

    >>> split_pair(" power = 2", "channels=64")
    ('power', '2')
    """
    name, equals, value = pair.partition("=")
    if not equals or not name.strip():
        raise InputError(f"{what} {pair!r}; expected NAME=VALUE, e.g. {example}")
    return name.strip(), value.strip()


def keyword_options(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a function: its options.

    >>> def blur(image, *, sigma=1.0): ...
    >>> list(keyword_options(blur))
    ['sigma']
    """
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def option_kinds(
    function: Callable[..., Any], options: Mapping[str, inspect.Parameter]
) -> dict[str, tuple[Any, ...]]:
    """The types or literal values that each option accepts, from the annotations.

    >>> def blur(image, *, sigma: float | None = None): ...
    >>> option_kinds(blur, keyword_options(blur))
    {'sigma': (<class 'float'>, <class 'NoneType'>)}
    """
    return {name: _members(_hint(function, p), p.default) for name, p in options.items()}


def read_value(kinds: Sequence[Any], text: str, what: str) -> Any:
    """``text`` as the first of ``kinds`` that it fits; raises `InputError`, whose message begins with ``what``.

    A list is comma-separated, or ``@FILE`` with one item per line.

    >>> read_value((int, type(None)), "none", "count"), read_value((Sequence,), "a, b", "names")
    (None, ['a', 'b'])
    >>> read_value((int,), "many", "option count='many'")
    Traceback (most recent call last):
    sightline.errors.InputError: option count='many': expected an integer
    """
    alone = all(kind is type(None) or _is_list(kind) for kind in kinds)
    for kind in sorted(kinds, key=_takes):
        try:
            return _read(kind, text, alone)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
    expected = " or ".join(dict.fromkeys(_named(kind) for kind in kinds))
    raise InputError(f"{what}: expected {expected}")


def _hint(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The annotation of one option; None if it has none, or if it names something only a type checker can see."""
    if parameter.annotation is inspect.Parameter.empty:
        return None

    def alone() -> None: ...

    alone.__annotations__ = {"option": parameter.annotation}
    try:
        return typing.get_type_hints(alone, _globals(function))["option"]
    except NameError:
        return None


def _globals(function: Callable[..., Any]) -> dict[str, Any]:
    """Where the names in its annotations are looked up."""
    found: dict[str, Any] = getattr(inspect.unwrap(function), "__globals__", {})
    return found


def _members(hint: Any, default: Any) -> tuple[Any, ...]:
    if hint is None:  # not annotated: like its default
        return (str,) if default in (None, inspect.Parameter.empty) else (type(default),)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(one for part in typing.get_args(hint) for one in _members(part, default))
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return (typing.get_origin(hint) or hint,)


def _read(kind: Any, text: str, alone: bool) -> Any:
    """``alone``: a list is the only choice, so that one item without a comma is a list too."""
    if kind is type(None):
        return _if(text.lower() in ("none", "null"), None)
    if kind is bool:
        return _if(text.lower() in _YES + _NO, text.lower() in _YES)
    if kind in (int, float, str, Path):
        return kind(text)
    if _is_list(kind):
        parts = _lines(Path(text[1:])) if text.startswith("@") else [part.strip() for part in text.split(",")]
        return _if(alone or "," in text or text.startswith("@"), parts)
    return _if(text == str(kind), kind)  # one of the values of a Literal


def _takes(kind: Any) -> int:
    """How much a kind accepts: one that accepts anything is tried last."""
    return 2 if kind in (str, Path) else int(_is_list(kind))


def _is_list(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Sequence) and kind is not str


def _lines(path: Path) -> list[str]:
    """The lines of a file; an empty line in the middle is an error, since it would shift those after it."""
    try:
        lines = [line.strip() for line in read_text(path).rstrip().splitlines()]
    except InputError as error:
        raise InputError(f"@{path}: {error}") from None
    if not all(lines):
        raise InputError(f"@{path}: line {lines.index('') + 1} is empty")
    return lines


def _if(fits: bool, value: Any) -> Any:
    if not fits:
        raise ValueError
    return value


def _named(kind: Any) -> str:
    if kind is type(None):
        return "none"
    if kind is bool:
        return "true or false"
    if isinstance(kind, type):
        names = {int: "an integer", float: "a number", str: "text", Path: "a path"}
        return names.get(kind, "a comma-separated list")
    return repr(kind)
