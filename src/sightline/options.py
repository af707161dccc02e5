"""Options, checked at one door: a function's or a dataclass's annotations say what each accepts, as text or value."""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

from sightline.errors import InputError
from sightline.files import read_text

_KINDS: dict[Any, dict[str, tuple[Any, ...]]] = {}  # `field_kinds` by class
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Range:
    """The numbers that an option accepts, ends included: ``Annotated[int, Range(1)]``.

    ``above`` leaves out ``least`` itself, ``below`` leaves out ``most``. ``noun`` replaces "a number" in messages.
    """

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False
    noun: str = ""

    def holds(self, value: float) -> bool:
        """Whether the value lies inside.

        >>> Range(0, 1, above=True).holds(0), Range(0, 1).holds(1)
        (False, True)
        """
        low = self.least < value if self.above else self.least <= value
        return low and (value < self.most if self.below else value <= self.most)

    def said(self) -> str:
        """The bounds in words, with a leading space.

        >>> Range(1).said(), Range(0, 1, above=True).said()
        (' of at least 1', ' above 0 and up to 1')
        """
        if math.isinf(self.most):
            return f" above {self.least:g}" if self.above else f" of at least {self.least:g}"
        if self.above or self.below:
            start = f" above {self.least:g} and" if self.above else f" from {self.least:g}"
            return f"{start} {'to below' if self.below else 'up to'} {self.most:g}"
        return f" from {self.least:g} to {self.most:g}"


Count = Annotated[int, Range(1)]
Seed = Annotated[int, Range(0, 2**63 - 1)]
Resamples = Annotated[int, Range(1, 1_000_000)]  # of a bootstrap
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1, noun="a share")]


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
    """What each option accepts, from its annotation: types, None, and literal values.

    >>> def blur(image, *, sigma: float | None = None): ...
    >>> option_kinds(blur, keyword_options(blur))
    {'sigma': (<class 'float'>, <class 'NoneType'>)}
    """
    return {name: _members(_hint(function, p), p.default) for name, p in options.items()}


def read_value(kinds: Sequence[Any], text: str, what: str) -> Any:
    """``text`` as the first of ``kinds`` that it fits; raises `InputError`, whose message begins with ``what``.

    A list is comma-separated, or ``@FILE`` with one item per line.

    >>> read_value((int, type(None)), "none", "count"), read_value((list[float],), "1, 2", "weights")
    (None, [1.0, 2.0])
    >>> read_value((int,), "many", "option count='many'")
    Traceback (most recent call last):
    sightline.errors.InputError: option count='many': expected an integer
    """
    alone = all(_bare(kind) is type(None) or _is_list(_bare(kind)) for kind in kinds)
    try:
        return _read_any(kinds, text, alone)
    except InputError:  # of a file
        raise
    except ValueError:
        if not alone and text.strip() and not text.strip().lstrip("+-").replace(".", "", 1).isdecimal():
            with suppress(ValueError):
                return _read_any(kinds, text, True)  # a list of one name
        raise InputError(f"{what}: expected {_expected(kinds)}") from None


def check_value(kinds: Sequence[Any], value: Any, what: str) -> Any:
    """A Python value as the first of ``kinds`` that it fits; raises `InputError`, whose message begins with ``what``.

    NumPy's numbers and tensors of one number become Python's. True and False are no numbers, and no number is
    true or false; NaN and infinity are no numbers either.

    >>> check_value((int, type(None)), None, "count=None:"), check_value((float,), 2, "share=2:")
    (None, 2.0)
    >>> check_value((Count,), 0, "chunk=0:")
    Traceback (most recent call last):
    sightline.errors.InputError: chunk=0: expected an integer of at least 1
    """
    try:
        return _any(kinds, value)
    except ValueError:
        raise InputError(f"{what} expected {_expected(kinds)}") from None


def check_fields(made: Any) -> None:
    """Check every field of a dataclass by its annotation (also a frozen one, in its ``__post_init__``).

    >>> @dataclass(frozen=True)
    ... class Blur:
    ...     sigma: float
    ...     def __post_init__(self): check_fields(self)
    >>> Blur("wide")
    Traceback (most recent call last):
    sightline.errors.InputError: sigma is 'wide'; expected a number
    """
    for name, kinds in field_kinds(type(made)).items():
        value = getattr(made, name)
        object.__setattr__(made, name, check_value(kinds, value, f"{name} is {shown(value)};"))


def shown(value: Any) -> str:
    """A value in a message: its text, shortened.

    >>> shown("a"), shown([1] * 100)
    ("'a'", '[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, …')
    """
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer of more digits than Python writes
        return "a huge number"
    return text if len(text) <= 60 else f"{text[:39]} …"


def field_kinds(cls: Any) -> dict[str, tuple[Any, ...]]:
    """What each field of a dataclass accepts, from its annotation.

    >>> field_kinds(Range)["below"]
    (<class 'bool'>,)
    """
    if cls not in _KINDS:
        hints = typing.get_type_hints(cls, include_extras=True)
        _KINDS[cls] = {one.name: _members(hints[one.name], one.default) for one in dataclasses.fields(cls)}
    return _KINDS[cls]


def _hint(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The annotation of one option; None if it has none, or if it names something only a type checker can see."""
    if parameter.annotation is inspect.Parameter.empty:
        return None

    def alone() -> None: ...

    alone.__annotations__ = {"option": parameter.annotation}
    try:
        return typing.get_type_hints(alone, _globals(function), include_extras=True)["option"]
    except NameError:
        return None


def _globals(function: Callable[..., Any]) -> dict[str, Any]:
    """Where the names in its annotations are looked up."""
    found: dict[str, Any] = getattr(inspect.unwrap(function), "__globals__", {})
    return found


def _members(hint: Any, default: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation; bounds around a union hold for each of them."""
    if hint is None:  # not annotated: like its default
        if default is None or default is inspect.Parameter.empty:
            return (Any,)
        return (int, float) if type(default) is int else (type(default),)
    if typing.get_origin(hint) is Annotated:
        bounds = _bounds(hint)
        inner = _members(hint.__origin__, default)
        return tuple(Annotated[one, bounds] if bounds and one in (int, float) else one for one in inner)
    if typing.get_origin(hint) in (Union, types.UnionType):
        return tuple(one for part in typing.get_args(hint) for one in _members(part, default))
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return (hint,)


def _bare(kind: Any) -> Any:
    """A kind without its bounds and item types: ``list[float]`` is list."""
    kind = kind.__origin__ if typing.get_origin(kind) is Annotated else kind
    return typing.get_origin(kind) or kind


def _bounds(kind: Any) -> Range | None:
    return next((one for one in getattr(kind, "__metadata__", ()) if isinstance(one, Range)), None)


def _items(kind: Any) -> list[Any]:
    """The kinds of the items of a list or tuple type; empty if it names none."""
    return [one for one in typing.get_args(kind) if one is not Ellipsis]


def _is_pair(kind: Any) -> bool:
    """Whether a kind is a tuple of a fixed length."""
    return _bare(kind) is tuple and bool(_items(kind)) and Ellipsis not in typing.get_args(kind)


def _read(kind: Any, text: str, alone: bool) -> Any:
    """``alone``: a list is the only choice, so that one item without a comma is a list too."""
    bare = _bare(kind)
    if bare is type(None):
        return _if(text.lower() in ("none", "null"), None)
    if bare is bool:
        return _if(text.lower() in _YES + _NO, text.lower() in _YES)
    if bare is Any or bare is object:
        return text
    if bare in (int, float, str, Path):
        return bare(text)
    if _is_list(bare):
        parts = _lines(Path(text[1:])) if text.startswith("@") else [part.strip() for part in text.split(",")]
        parts = _if(alone or "," in text or text.startswith("@"), parts)
        each = _items(kind) or [str]
        each = each if _is_pair(kind) else each[:1] * len(parts)
        return [_read_any(_members(one, None), part) for one, part in zip(each, parts, strict=True)]
    return _if(text == str(kind), kind)  # one of the values of a Literal


def _read_any(kinds: Sequence[Any], text: str, alone: bool = False) -> Any:
    for kind in sorted(kinds, key=_takes):
        try:
            return _fitted(kind, _read(kind, text, alone))
        except InputError:
            raise
        except (ValueError, OverflowError):
            continue
    raise ValueError


def _fitted(kind: Any, value: Any) -> Any:
    """The value as this kind; raises ValueError if it is none."""
    bare, bounds = _bare(kind), _bounds(kind)
    if bare is Any or bare is object:
        return value
    if bare in (int, float, bool) and getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()  # NumPy's numbers, tensors of one number
    if bare is type(None):
        return _if(value is None, None)
    if bare is bool:
        return _if(isinstance(value, bool), value)
    if bare is int:
        value = int(_if(isinstance(value, numbers.Integral) and not isinstance(value, bool), value))
        return _if(bounds is None or bounds.holds(value), value)
    if bare is float:
        value = float(_if(isinstance(value, numbers.Real) and not isinstance(value, bool), value))
        return _if(math.isfinite(value) and (bounds is None or bounds.holds(value)), value)
    if bare is Path:
        return Path(_if(isinstance(value, (str, os.PathLike)), value))
    if _is_list(bare):
        return _fitted_list(kind, value)
    if isinstance(bare, type):
        return _if(isinstance(value, bare), value)
    if callable(bare) and not isinstance(bare, str):  # a construct of `typing` that says nothing about values
        return value
    return _if(type(value) is type(kind) and value == kind, value)  # one of the values of a Literal


def _fitted_list(kind: Any, value: Any) -> Any:
    value = value.tolist() if getattr(value, "ndim", None) == 1 else value  # arrays
    found = list(_if(isinstance(value, Sequence) and not isinstance(value, (str, bytes)), value))
    if _is_pair(kind):
        return tuple(_any(_members(one, None), item) for one, item in zip(_items(kind), found, strict=True))
    if each := _items(kind):
        found = [_any(_members(each[0], None), item) for item in found]
    return tuple(found) if _bare(kind) is tuple else found


def _any(kinds: Sequence[Any], value: Any) -> Any:
    for kind in kinds:
        try:
            return _fitted(kind, value)
        except (ValueError, OverflowError):
            continue
    raise ValueError


def _takes(kind: Any) -> int:
    """How much a kind accepts: one that accepts anything is tried last."""
    bare = _bare(kind)
    return 2 if bare in (str, Path, Any, object) else int(_is_list(bare))


def _is_list(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Sequence) and kind not in (str, bytes)


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


def _expected(kinds: Sequence[Any]) -> str:
    return " or ".join(dict.fromkeys(_named(kind) for kind in kinds))


def _named(kind: Any) -> str:
    bare, bounds = _bare(kind), _bounds(kind)
    limits = bounds.said() if bounds else ""
    if bare is type(None):
        return "none"
    if bare is bool:
        return "true or false"
    if bare is float and bounds and bounds.noun:
        return f"{bounds.noun}{limits}"
    if _is_pair(kind):
        numbered = len(_items(kind))
        return f"{numbered} comma-separated values" if numbered != 2 else "a pair"
    if isinstance(bare, type):
        names = {int: "an integer", float: "a number", str: "text", Path: "a path"}
        if bare in names:
            return f"{names[bare]}{limits}"
        return "a comma-separated list" if _is_list(bare) else f"a {bare.__name__}"
    return repr(kind)
