"""The output folder of a verb: checked before the run, and removed again if the run leaves it empty."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sightline.reports.output_folder import OutputFolder

_PREPARED: list[OutputFolder] = []


def prepare_folder(out: Path, kind: str | None = None) -> OutputFolder:
    """Create the folder, and check now, not after the run, that it can be written to.

    Raises `InputError` if it cannot, or if it holds the results of another kind of run. `discard_empty` removes it
    again if it stays empty.
    """
    from sightline.reports.output_folder import OutputFolder

    folder = OutputFolder(out, kind).prepare()
    _PREPARED.append(folder)
    return folder


def discard_empty() -> None:
    """Remove this command's folders if they are empty."""
    while _PREPARED:
        _PREPARED.pop().discard()
