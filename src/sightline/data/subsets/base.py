"""The small data sets of this project's documents: where the official archive is, and which of its files are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import InputError

LISTS = Path(__file__).parents[1] / "tables" / "subsets"


@dataclass(frozen=True)
class Subset:
    """A part of an official data set, in a layout that `load_dataset` reads.

    ``where``: the official site. ``needs``: which of its files. ``terms``: what it may be used for. ``how``: what is
    kept, and how photos are shrunk. ``make(sources, out)`` writes it. ``tables``: its files besides the photos.
    ``use``: the options of `sightline evaluate` that read it.
    """

    name: str
    title: str
    where: str
    needs: tuple[str, ...]
    terms: str
    how: str
    use: str
    make: Callable[[Sequence[Path], Path], None]
    tables: tuple[str, ...]

    @property
    def photos(self) -> list[str]:
        """The paths of its photos, relative to its folder (of CUB: the official numbers)."""
        return listed(self.name)


def listed(name: str) -> list[str]:
    """The photos of a subset: each line of its list is a path with a place for a number, and the numbers.

    >>> listed("icdar15-text")[:2]
    ['text/img_1.jpg', 'text/img_3.jpg']
    """
    found = []
    for line in (LISTS / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        template, *numbers = line.split()
        found += [template.format(int(number)) for number in numbers]
    return found


def check(subset: Subset, folder: Path, photos: Sequence[str]) -> None:
    """Raise `InputError`, naming the first few, for files that a subset's folder lacks."""
    missing = [name for name in (*subset.tables, *photos) if not (folder / name).is_file()]
    if missing:
        count = len(subset.tables) + len(photos)
        raise InputError(
            f"{folder} lacks {len(missing)} of the {count} files of {subset.name}: {', '.join(missing[:3])}"
            f"{', …' if len(missing) > 3 else ''}; from {subset.where} it needs {', '.join(subset.needs)}"
        )
