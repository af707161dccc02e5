"""The small data sets of this project's documents, made from their official archives: ``sightline data NAME``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sightline.data.reading import keyed
from sightline.data.subsets import coco, cub, icdar, ilsvrc, leeds, scene15
from sightline.data.subsets.base import Subset, check, listed
from sightline.errors import InputError, unknown

SUBSETS: dict[str, Subset] = {
    one.SUBSET.name: one.SUBSET for one in (ilsvrc, cub, leeds, scene15, icdar, coco)
}


def get_subset(name: str) -> Subset:
    """The subset of that name; raises `InputError` with the nearest names.

    >>> get_subset("cub-50").needs
    ('CUB_200_2011.tgz',)
    """
    if name not in SUBSETS:
        raise unknown("data set", name, SUBSETS)
    return SUBSETS[name]


def check_subset(name: str, folder: str | Path) -> int:
    """The number of photos of a complete copy; raises `InputError` naming what it lacks."""
    subset, folder = get_subset(name), Path(folder)
    photos = subset.photos
    check(subset, folder, [] if name == "cub-50" else photos)
    if name == "cub-50":  # listed by their official numbers
        paths = keyed(folder / cub.TOP / "images.txt", "id file")
        lacks = [number for number in photos if number not in paths]
        if lacks:
            raise InputError(f"{folder / cub.TOP / 'images.txt'} lacks image {lacks[0]}; {len(lacks)} in all")
        check(subset, folder, [f"{cub.TOP}/images/{paths[number][1][0]}" for number in photos])
    return len(photos)


def make_subset(name: str, sources: Sequence[str | Path], out: str | Path) -> int:
    """Make a subset from the official archives (or what was unpacked from them), check it, and count its photos.

    Raises `InputError` if ``out`` already holds something, or if the sources lack some of its files.
    """
    subset, out = get_subset(name), Path(out)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; `sightline data {name} --check {out}` checks a copy")
    subset.make([Path(source) for source in sources], out)
    return check_subset(name, out)


__all__ = ["SUBSETS", "Subset", "check_subset", "get_subset", "listed", "make_subset"]
