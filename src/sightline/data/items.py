"""What a user names, as files: photos, folders and patterns; and `Item`, one image wherever it lies."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple

from sightline.data.stores import asked
from sightline.errors import ImageError, InputError, need
from sightline.files import (
    MIB,
    MOST_PICTURE_BYTES,
    check_regular,
    check_size,
    decode,
    expanded,
    missing,
    parse_json,
    read_bytes,
    reading,
)

MANIFEST = "manifest.json"
MOST_MANIFEST_BYTES = 256 * MIB
IMAGE_SUFFIXES = tuple(
    ".avif .bmp .gif .jpeg .jpg .jpe .pbm .pgm .png .ppm .tif .tiff .webp".split()  # noqa: SIM905
)


class Item(NamedTuple):
    """One image: its id, the file it is in and, inside a tar, its name and where its bytes lie.

    ``fault`` says why it cannot be read, where the listing already knows.
    """

    id: str
    file: str
    member: str | None = None
    offset: int | None = None
    size: int | None = None
    fault: str | None = None

    @property
    def path(self) -> str:
        """Where the image is, in words: ``photos/a.jpg``, or ``shard.tar!a.jpg``.

        >>> Item("a", "shard.tar", "a.jpg").path
        'shard.tar!a.jpg'
        """
        return self.file if self.member is None else f"{self.file}!{self.member}"

    def read(self) -> bytes:
        """Its bytes; raises `ImageError` with the reason where they cannot be had, `StoreError` where a store fails."""
        if self.fault is not None:
            raise ImageError(self.fault)
        if self.offset is None and not is_url(self.file):
            return file_bytes(Path(self.file))
        waiting = asked(self.path, "read") if is_url(self.file) else nullcontext()
        with (
            reading(self.path, kind=ImageError),
            waiting,
            open_binary(self.file) as file,
        ):  # each store has its own errors
            file.seek(self.offset or 0)
            content = file.read(MOST_PICTURE_BYTES + 1 if self.size is None else max(self.size, 0))
        check_size(self.path, len(content), MOST_PICTURE_BYTES, ImageError)
        return content


def is_url(path: str) -> bool:
    """Whether a path names a store of fsspec's (``s3://…``), not a file of this machine."""
    return "://" in path


def open_binary(path: str) -> BinaryIO:
    """A file of this machine, or of a store that fsspec reads."""
    if not is_url(path):
        check_regular(path, 2**63)
        return open(path, "rb")
    fsspec = need("fsspec", "batch")

    file: BinaryIO = fsspec.open(path, "rb").open()
    return file


def file_bytes(path: Path) -> bytes:
    """The content of a file that should be an image; `ImageError` with the reason where it cannot be had."""
    if os.path.isdir(path):
        with reading(path, "a folder whose images can be listed", ImageError):
            os.scandir(path).close()
    return read_bytes(path, MOST_PICTURE_BYTES, "an image file", ImageError)


def expand_paths(
    arguments: Sequence[str | os.PathLike[str]], without: Collection[str | os.PathLike[str]] = ()
) -> list[Path]:
    """The files that ``arguments`` name: files, folders, and globs (``**`` too), each file once, in order.

    A file is taken whatever its suffix. A folder gives the images below it (`IMAGE_SUFFIXES`; no hidden
    ones), sorted. A glob gives the images and folders that match it. Folders and globs leave out the files and
    folders of ``without``, such as the output folder of an earlier run. Raises `InputError` where an argument
    does not exist, or gives no image.

    >>> expand_paths([])
    Traceback (most recent call last):
    sightline.errors.InputError: no images given; expected files, folders or patterns such as 'photos/*.jpg'
    """
    if not arguments:
        raise InputError("no images given; expected files, folders or patterns such as 'photos/*.jpg'")
    found: dict[str, Path] = {}
    for argument in arguments:
        for path in _expand(os.fspath(argument), without):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _expand(argument: str, without: Collection[str | os.PathLike[str]]) -> list[Path]:
    path = expanded(argument)
    if os.path.isdir(path):
        return list(images_below(path, without)) or _none(f"{argument} is a folder without images")
    if os.path.exists(path):
        return [path]
    if glob.has_magic(argument) and not argument.startswith(("http:/", "https:/")):
        return list(_images_matching(str(path), without)) or _none(f"no image matches {argument!r}")
    raise InputError(missing(argument))


def _none(what: str) -> list[Path]:
    raise InputError(f"{what} (looked for {', '.join(IMAGE_SUFFIXES)})")


def is_image(path: PurePath) -> bool:
    """Whether a file's name is that of an image, and not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def images_below(folder: Path, without: Collection[str | os.PathLike[str]] = ()) -> Iterator[Path]:
    """The images below a folder (`IMAGE_SUFFIXES`; nothing hidden), sorted folder by folder.

    Files and folders of ``without`` are left out; ``folder`` itself, or a folder that holds it, is not. So are the
    pictures that earlier runs wrote, as their manifests say. A folder that
    may not be listed stands in the place of its images: reading it says so.
    """
    absent, closed = _absent(folder, without), list[str]()
    for parent, folders, files in os.walk(folder, onerror=lambda error: closed.append(error.filename)):
        yield from map(Path, closed)
        closed.clear()
        place = Path(parent)
        own = set(files_in(_manifest(place))) if MANIFEST in files else set()
        files, folders[:] = [n for n in files if n not in own], [n for n in folders if n not in own]
        folders[:] = sorted(n for n in folders if not n.startswith(".") and not _in(place / n, absent))
        yield from (p for p in map(place.joinpath, sorted(files)) if is_image(p) and not _in(p, absent))
    yield from map(Path, closed)


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        return read_manifest(read_bytes(folder / MANIFEST, MOST_MANIFEST_BYTES))
    except InputError:
        return {}


def read_manifest(content: bytes) -> dict[str, Any]:
    """What a run of sightline says of itself; empty if it is of another program.

    >>> read_manifest(b'{"sightline": "1.0"}'), read_manifest(b'{"kind": "batch"}'), read_manifest(b"{")
    ({'sightline': '1.0'}, {}, {})
    """
    found = parse_manifest(content)
    return found if "sightline" in found else {}


def parse_manifest(content: bytes) -> dict[str, Any]:
    """The object of a manifest.json, of whatever program; empty if it holds something else.

    >>> parse_manifest(b'{"kind": "batch"}'), parse_manifest(b"[]"), parse_manifest(b"{")
    ({'kind': 'batch'}, {}, {})
    """
    try:
        found = parse_json(decode(content, MANIFEST), MANIFEST)
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}


def files_in(manifest: dict[str, Any]) -> list[str]:
    """The files and folders that the run of a manifest wrote: they are its output, not photos of the user.

    >>> files_in({"kind": "explain", "files": ["b.png"], "images": [{"panel": "a.png"}, 3]})
    ['a.png', 'b.png']
    """
    entries = [manifest.get(key) for key in ("images", "results")]
    rows = [row for part in entries if isinstance(part, list) for row in part if isinstance(row, dict)]
    listed = manifest.get("files")
    names = [row.get(key) for row in rows for key in ("panel", "file")]
    names += listed if isinstance(listed, list) else []
    names += ["overlays"] if manifest.get("kind") == "batch" else []
    return sorted({name for name in names if isinstance(name, str) and is_inside(name)})


def is_inside(name: str) -> bool:
    """Whether a relative path stays inside its folder.

    >>> is_inside("a/b.png"), is_inside("../b.png"), is_inside("/b.png")
    (True, False, False)
    """
    return bool(name) and not os.path.isabs(name) and ".." not in PurePath(name).parts


def matches(pattern: str, without: Collection[str | os.PathLike[str]] = ()) -> Iterator[Path]:
    """The images and folders that match a glob, sorted; ``without`` as in `images_below`."""
    absent = _absent(_fixed_part(pattern), without)
    for path in map(Path, sorted(glob.glob(pattern, recursive=True))):
        if not _in(path, absent) and (is_image(path) or path.is_dir()):
            yield path


def _images_matching(pattern: str, without: Collection[str | os.PathLike[str]]) -> Iterator[Path]:
    for path in matches(pattern, without):
        yield from images_below(path, without) if path.is_dir() else [path]


def _fixed_part(pattern: str) -> Path:
    """The folder that all matches of a glob lie below.

    >>> _fixed_part("photos/2024/*/a?.jpg").as_posix()
    'photos/2024'
    """
    parts = Path(pattern).parts
    magic = next(number for number, part in enumerate([*parts, "*"]) if glob.has_magic(part))
    return Path(*parts[:magic])


def _absent(root: Path, without: Collection[str | os.PathLike[str]]) -> set[str]:
    """The absolute paths of ``without``, less those that hold ``root``: who names a folder wants what is in it."""
    places = {os.path.abspath(path) for path in without}
    start = os.path.abspath(root)
    return {place for place in places if place != start and place not in map(str, Path(start).parents)}


def _in(path: Path, absent: Collection[str]) -> bool:
    """Whether a path, or a folder that holds it, is among these absolute paths."""
    if not absent:
        return False
    whole = os.path.abspath(path)
    return whole in absent or any(str(parent) in absent for parent in Path(whole).parents)
