"""The output folder of a verb: checked before the work, and gone again where the work left nothing in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sightline.reports.output_folder import OutputFolder

_PREPARED: list[OutputFolder] = []


def prepare_folder(out: Path, kind: str | None = None) -> OutputFolder:
    """Make the folder, and find out now, not after the work, whether it can be written to.

    Raises `InputError` where it cannot, or holds the results of another kind of run. `discard_empty` takes away
    again what stayed empty.
    """
    from sightline.reports.output_folder import OutputFolder

    folder = OutputFolder(out, kind).prepare()
    _PREPARED.append(folder)
    return folder


def discard_empty() -> None:
    """Remove the folders of this command that nothing was written into."""
    while _PREPARED:
        _PREPARED.pop().discard()
