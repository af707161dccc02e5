"""What a user can do wrong is one class: one line that says what was given and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
