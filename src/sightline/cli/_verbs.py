"""The verbs in a folder: one file each."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterable, Sequence

from sightline.errors import InputError


def verbs_in(folders: Iterable[str], order: Sequence[str]) -> list[str]:
    """The names of the files in ``folders`` that do not start with ``_``: those of ``order`` first, in its order.

    >>> verbs_in([], ["explain"])
    []
    """
    found = [m.name for m in pkgutil.iter_modules(folders) if not m.name.startswith("_")]
    rank = {name: number for number, name in enumerate(order)}
    return sorted(found, key=lambda name: (rank.get(name, len(rank)), name))


def with_new_verbs(arguments: Sequence[str]) -> list[str]:
    """``evaluate --faithfulness …`` as ``faithfulness …``, with one line of warning on stderr; ``--standard`` renamed.

    Raises `InputError` for a second model: the old verb took several, the new one takes one.

    >>> with_new_verbs(["evaluate", "--data", "photos"])
    ['evaluate', '--data', 'photos']
    """
    arguments = [_renamed(one) for one in arguments]
    if "--faithfulness" not in arguments or "evaluate" not in arguments:
        return list(arguments)
    verb = arguments.index("evaluate")
    rest = [argument for argument in arguments[verb + 1 :] if argument != "--faithfulness"]
    models = [one for one in rest if one in ("-m", "--model") or one.startswith("--model=")]
    if len(models) > 1:
        raise InputError("evaluate --faithfulness takes one --model, as `sightline faithfulness` does")
    print(
        "sightline: warning: `sightline evaluate --faithfulness` is now `sightline faithfulness`",
        file=sys.stderr,
    )
    return [*arguments[:verb], "faithfulness", *rest]


def _renamed(argument: str) -> str:
    """An option by its new name, which alone is in ``--help``.

    >>> _renamed("--standard=max"), _renamed("--standards")
    ('--relative-to=max', '--standards')
    """
    name, equals, value = argument.partition("=")
    return f"--relative-to{equals}{value}" if name == "--standard" else argument
