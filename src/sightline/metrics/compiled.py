"""How the kernels of this folder are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from sightline.errors import missing_extra

try:
    import numba
except ModuleNotFoundError as error:
    raise missing_extra(error.name or "numba", "evaluate") from None

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile without the interpreter's lock; keep the result on disk where that can be written."""
    try:
        return cast(F, numba.njit(function, nogil=True, cache=True))
    except RuntimeError:  # numba found no folder to cache in
        return cast(F, numba.njit(function, nogil=True))
