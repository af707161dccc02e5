"""A progress bar on stderr where a person looks at it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def bar(steps: Sequence[T], what: str, shown: bool = True) -> Iterable[T]:
    """``steps``, one by one, with a bar on stderr; none in a pipe, in a log, or unless ``shown``.

    >>> list(bar(range(3), "features"))
    [0, 1, 2]
    """
    from rich.console import Console
    from rich.progress import track

    hidden = not (shown and sys.stderr.isatty())
    return track(steps, what, console=Console(stderr=True), transient=True, disable=hidden)
