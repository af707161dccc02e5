"""The files of official archives, as they are downloaded or already unpacked."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from sightline.data.images import open_picture
from sightline.errors import InputError

Member = tuple[str, Callable[[], bytes]]  # a file's path inside its archive, and what reads it


def members(sources: Sequence[Path]) -> Iterator[Member]:
    """Every file of folders, zip and tar archives, in order; nothing is unpacked.

    Raises `InputError` for a source that is none of these.

    >>> next(members([Path("nowhere.zip")]))
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere.zip: no such folder, zip or tar archive
    """
    for source in sources:
        if source.is_dir():
            for path in sorted(one for one in source.rglob("*") if one.is_file()):
                yield path.relative_to(source).as_posix(), path.read_bytes
        elif zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                for info in archive.infolist():
                    if not info.is_dir():
                        yield info.filename, lambda info=info, archive=archive: archive.read(info)  # type: ignore[misc]
        elif source.is_file() and tarfile.is_tarfile(source):
            with tarfile.open(source) as tar:
                for one in tar:
                    if one.isfile():
                        yield one.name, lambda one=one, tar=tar: _bytes(tar, one)  # type: ignore[misc]
        elif source.is_file() and source.suffix in (".csv", ".txt", ".json"):
            yield source.name, source.read_bytes
        else:
            raise InputError(f"{source}: no such folder, zip or tar archive")


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # only asked for regular files
    return file.read()


def shrink(
    data: bytes, size: Callable[[int, int], tuple[int, int]], quality: int, path: Path
) -> tuple[float, float]:
    """Save a photo at the size that ``size(width, height)`` gives, and return the scale of x and of y."""
    with open_picture(data) as photo:
        before = photo.size
        small = photo.convert("RGB")
        if size(*before) != before:
            small = small.resize(size(*before), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    small.save(path, quality=quality)
    return small.width / before[0], small.height / before[1]


def longest(side: int) -> Callable[[int, int], tuple[int, int]]:
    """A size with at most ``side`` pixels on its longer side, in the same proportions.

    >>> longest(288)(500, 375), longest(288)(200, 100)
    ((288, 216), (200, 100))
    """

    def size(width: int, height: int) -> tuple[int, int]:
        scale = min(1.0, side / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    return size
