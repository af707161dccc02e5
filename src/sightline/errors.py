"""What a user can do wrong is one class: one line that says what was given and what would be right."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any


class InputError(ValueError):
    """A user's mistake. The command line prints its one line and exits with code 2."""


class UnsupportedError(InputError):
    """A method cannot serve this model; the message names one that can."""


class ImageError(InputError):
    """An image that cannot be read; in a folder the others are done and this one is listed (exit code 3)."""


def unknown(what: str, given: object, valid: Iterable[str], *, hint: str = "") -> InputError:
    """An `InputError` that names the nearest valid choices.

    >>> str(unknown("method", "grad-cam", ["gradcam", "cam", "layercam"]))
    "unknown method 'grad-cam'; did you mean 'gradcam', 'cam' or 'layercam'?"
    """
    choices = list(valid)
    near = difflib.get_close_matches(str(given), choices, n=3, cutoff=0.5)
    quoted = [repr(name) for name in near]
    if near:
        listing = " or ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))
        tail = f"; did you mean {listing}?"
    elif len(choices) <= 30:
        tail = f"; valid: {', '.join(choices)}"
    else:
        tail = f"; there are {len(choices)} valid choices, e.g. {', '.join(choices[:5])}"
    return InputError(f"unknown {what} {given!r}{tail}{' ' + hint if hint else ''}")


def with_new_names(given: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Keywords with old names replaced by new ones (``renamed``: old -> new), a DeprecationWarning for each.

    Raises `InputError` where both are given.

    >>> with_new_names({"threshold": 0.5}, {"standard": "relative_to"})
    {'threshold': 0.5}
    """
    found = dict(given)
    for old, new in renamed.items():
        if old in found:
            if new in found:
                raise InputError(f"{old} is the old name of {new}; give one of them")
            warn_renamed(f"{old}=", f"{new}=")
            found[new] = found.pop(old)
    return found


def warn_renamed(old: str, new: str) -> None:
    """A DeprecationWarning that points at the first caller outside this package, so that Python shows it."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "sightline":
        level, frame = level + 1, frame.f_back
    warnings.warn(f"{old} is now called {new}", DeprecationWarning, stacklevel=level)
