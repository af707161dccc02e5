"""The photos that `sightline demo` explains; LICENCES.txt in this folder credits their authors."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from sightline.errors import unknown

NAMES = ("chelsea", "coffee", "rocket", "cat_and_coffee")


def photo_path(name: str) -> Path:
    """The JPEG file of one demo photo; raises `InputError` for a name not in `NAMES`.

    >>> photo_path("coffee").name
    'coffee.jpg'
    """
    if name not in NAMES:
        raise unknown("demo photo", name, NAMES)
    return Path(str(files(__name__) / f"{name}.jpg"))


def photo_paths() -> list[Path]:
    """The files of all demo photos.

    >>> [path.stem for path in photo_paths()]
    ['chelsea', 'coffee', 'rocket', 'cat_and_coffee']
    """
    return [photo_path(name) for name in NAMES]
