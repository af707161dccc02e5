"""The one progress bar: on stderr, if that is a terminal; nothing in a pipe, in a log, or with ``quiet``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
Progress = Callable[[int, int], None]  # called with (done, total)


@contextmanager
def progress_bar(what: str, quiet: bool = False) -> Iterator[Progress]:
    """A progress bar; call the function it yields with (done, total).

    >>> with progress_bar("scoring") as update:
    ...     update(1, 2)
    """
    if quiet or not sys.stderr.isatty():  # with its `disable`, an old Rich prints a blank line
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def tracked(steps: Sequence[T], what: str, shown: bool = True) -> Iterator[T]:
    """Iterate over ``steps`` with a progress bar.

    >>> list(tracked(range(3), "features"))
    [0, 1, 2]
    """
    with progress_bar(what, quiet=not shown) as update:
        for number, step in enumerate(steps):
            update(number, len(steps))
            yield step
