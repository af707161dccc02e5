"""Compilation of this folder's kernels."""

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
    """Compile a kernel that releases the GIL; cache it on disk if a folder is writable."""
    try:
        return cast(F, numba.njit(function, nogil=True, cache=True))
    except RuntimeError:  # numba found no folder to cache in
        return cast(F, numba.njit(function, nogil=True))
