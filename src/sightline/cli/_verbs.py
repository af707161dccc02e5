"""The verbs of a folder: one file each."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Sequence


def verbs_in(folders: Iterable[str], order: Sequence[str]) -> list[str]:
    """The names of the files in ``folders`` that do not start with ``_``: those of ``order`` first, in its order.

    >>> verbs_in([], ["explain"])
    []
    """
    found = [m.name for m in pkgutil.iter_modules(folders) if not m.name.startswith("_")]
    rank = {name: number for number, name in enumerate(order)}
    return sorted(found, key=lambda name: (rank.get(name, len(rank)), name))
