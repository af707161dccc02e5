"""The output folder of a verb: checked before the run, and removed again if the run leaves it empty."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sightline.reports.output_folder import OutputFolder

_PREPARED: list[OutputFolder] = []
_BEFORE: list[tuple[Path, list[str]]] = []  # of each folder: the files of the run before


def prepare_folder(out: Path, kind: str | None = None) -> OutputFolder:
    """Create the folder, and check now, not after the run, that it can be written to.

    Raises `InputError` if it cannot, or if it holds the results of another kind of run. `discard_empty` removes it
    again if it stays empty.
    """
    from sightline.data.items import files_in
    from sightline.reports.output_folder import OutputFolder

    folder = OutputFolder(out, kind).prepare()
    _PREPARED.append(folder)
    _BEFORE.append((out, [name for name in files_in(folder.manifest() or {}) if (out / name).is_file()]))
    return folder


def discard_empty() -> None:
    """Remove this command's folders if they are empty; say what a run removed of the one before."""
    while _BEFORE:
        out, names = _BEFORE.pop()
        if gone := [name for name in names if not (out / name).exists()]:
            what = f"{len(gone)} file{'s' * (len(gone) > 1)} of the run before"
            print(
                f"sightline: {what} removed from {out}: {', '.join(gone[:3])}{', …' * (len(gone) > 3)} "
                "(--out keeps runs apart)",
                file=sys.stderr,
            )
    while _PREPARED:
        _PREPARED.pop().discard()
