"""Heatmaps saved by any tool, one file per image: .npy, .npz or grey .png, named by the image's id."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.data.images import open_picture, photo_size
from sightline.errors import InputError, no_such
from sightline.files import check_regular, reading
from sightline.types import Sample

MAP_SUFFIXES = (".npy", ".npz", ".png")
_GREY = ("1", "L", "I", "I;16", "I;16B", "F")
Array = NDArray[Any]


class SavedMaps:
    """The maps in a folder, named by the ids of a data set's samples: ``ID.npy``, with or without the id's suffix.

    ``size_hw`` is the stated size (height, width) of every map; None: that of its photo. ``missing`` lists the ids
    without a map, ``strangers`` the files that match no sample. Raises `InputError` if the folder does not exist or
    two files match one image.

    >>> SavedMaps("nowhere", [])
    Traceback (most recent call last):
    sightline.errors.InputError: no such file or folder: 'nowhere'
    """

    def __init__(
        self, folder: str | Path, samples: Iterable[Sample], size_hw: tuple[int, int] | None = None
    ) -> None:
        self.folder, self.size_hw = Path(folder), size_hw
        if not self.folder.is_dir():
            raise InputError(
                f"{folder} is a file; expected a folder" if self.folder.exists() else no_such(str(folder))
            )
        files = _files(self.folder)
        self._files: dict[str, Path] = {}
        self.missing: list[str] = []
        for sample in samples:
            stem = Path(sample.id).with_suffix("").as_posix()
            name = sample.id if sample.id in files else stem
            if name in files:
                self._files[sample.id] = files[name]
            else:
                self.missing.append(sample.id)
        used = set(self._files.values())
        self.strangers = [
            path.relative_to(self.folder).as_posix() for path in files.values() if path not in used
        ]

    def read(self, sample: Sample) -> tuple[Array, tuple[int, int]]:
        """The map (h, w) of one sample, and its photo's size (H, W).

        Raises `InputError` naming the file if it is missing, not a map, has NaN or Inf, or is not of the stated size.
        """
        if sample.id not in self._files:
            raise InputError(f"{sample.id}: no map in {self.folder}")
        path = self._files[sample.id]
        photo_hw, found = photo_size(sample.source), read_map(path)
        expected, of = (self.size_hw, "was stated") if self.size_hw else (photo_hw, "is its photo's size")
        if found.shape != expected:
            sizes = (
                f"{found.shape[0]}×{found.shape[1]} (height × width), and {expected[0]}×{expected[1]} {of}"
            )
            raise InputError(f"{path} is {sizes}")
        return found, photo_hw


def read_map(path: Path) -> Array:
    """One saved map as (h, w); leading dimensions of 1 are dropped. Raises `InputError` naming the file."""
    with reading(path):
        check_regular(path)
        found = _read_png(path) if path.suffix.lower() == ".png" else _read_array(path)
    while found.ndim > 2 and found.shape[0] == 1:
        found = found[0]
    if found.ndim != 2 or found.size == 0 or found.dtype.kind not in "fiub":
        raise InputError(f"{path} holds {found.dtype} of shape {found.shape}; expected numbers (h, w)")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise InputError(f"{path} holds {'NaN' if np.isnan(found).any() else 'Inf'}")
    return found if found.dtype == np.float64 else found.astype(np.float32)


def _files(folder: Path) -> dict[str, Path]:
    """Path below the folder, without suffix -> file."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in MAP_SUFFIXES and not path.name.startswith("."):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise InputError(
                    f"{found[name]} and {path.name} are maps of the same image; expected one file per image"
                )
            found[name] = path
    return found


def _read_array(path: Path) -> Array:
    with open(path, "rb") as file:  # NumPy leaves a damaged one open
        loaded: Any = np.load(file, allow_pickle=False)  # never unpickle
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = loaded.files
            if len(names) != 1:
                raise InputError(f"{path} holds {len(names)} arrays ({', '.join(names)}); expected one")
            array: Array = loaded[names[0]]
            return array


def _read_png(path: Path) -> Array:
    with open_picture(path) as picture:
        if picture.mode not in _GREY:
            raise InputError(f"{path} is a colour image ({picture.mode}); expected grey values")
        return np.asarray(picture)
