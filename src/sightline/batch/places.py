"""Where the files of a batch run go: a folder of this machine, or an object store that fsspec knows (``s3://…``).

Either way a file is there when it is whole, and not before: on a disk by its name, in a store because an object is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from sightline.data.items import MANIFEST, is_url, parse_manifest
from sightline.data.stores import STORES, asked, store_reason
from sightline.errors import InputError, StoreError
from sightline.files import reason
from sightline.reports.output_folder import (
    OutputFolder,
    check_owner,
    foreign,
    locked,
    make_folder,
    manifest_bytes,
    write_atomically,
)

# What one file's name or place may bring; any other error (a full disk, say) would meet the next file too.
OF_ONE_FILE = (
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ,
    errno.EINVAL, errno.EACCES, errno.EPERM,
)  # fmt: skip
ONE_SLASH = re.compile(r"(?<=\w\w):/(?!/)")  # what a Path makes of a URL; a Windows drive has one letter
PARTIAL = ".*.part"  # what `write_atomically` has begun
Write = Callable[[BinaryIO], object]


class Place(Protocol):
    """A folder or a prefix; the names of files are relative to it, with slashes."""

    @property
    def ignores_case(self) -> bool:
        """Whether ``a`` and ``A`` are one file."""

    @property
    def is_locked(self) -> bool:
        """Whether `claimed` keeps every other run away."""

    def below(self, name: str) -> Place:
        """The place ``name`` in this one."""

    def elsewhere(self) -> Place:
        """This place for a process with another working folder."""

    def claimed(self, kind: str) -> Any:
        """A context in which a run of this kind writes here.

        Raises `InputError` if the place cannot be used, holds another kind of run, or is being written to.
        """

    def check_free(self, kind: str, names: Sequence[str]) -> None:
        """Before a first run: raise `InputError` if one of its files or folders is there already."""

    def clean(self, folders: Sequence[str]) -> None:
        """Remove what a killed run left half-written, here and below these folders."""

    def manifest(self) -> dict[str, Any] | None:
        """The content of manifest.json; None without one."""

    def write_manifest(self, kind: str, manifest: dict[str, Any]) -> None:
        """Replace manifest.json."""

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""

    def size(self, name: str) -> int | None:
        """The bytes of a file; None if there is none."""

    def write(self, name: str, write: Write) -> int:
        """Write a file; its bytes."""

    def write_each(self, files: Mapping[str, bytes]) -> dict[str, str]:
        """Write many small files; the names of those that cannot be written where they belong, with the reason."""


def place_of(out: str | os.PathLike[str]) -> Place:
    """The place that a path or a URL names.

    >>> place_of("memory://bucket/run"), place_of(Path("memory://bucket/run")), place_of("out")
    (Store('memory://bucket/run'), Store('memory://bucket/run'), Disk('out'))
    >>> place_of("https://host/run")
    Traceback (most recent call last):
    sightline.errors.InputError: 'https://host/run' is no place for results; expected a folder, or a URL of s3, gs or az
    """
    if not isinstance(out, (str, os.PathLike)):
        raise InputError(f"the output folder is {out!r}; expected a path or a URL")
    given = os.fspath(out)
    where = ONE_SLASH.sub("://", given)
    if not is_url(where):
        return Disk(where)
    protocol, _, path = where.partition("://")
    if protocol.lower() == "file":
        whole = isinstance(out, os.PathLike) or path.startswith("/")  # of file:///x a Path keeps one slash
        return Disk(f"/{path.lstrip('/')}" if whole else path)
    if protocol.lower() not in STORES or "::" in where:
        raise InputError(f"{given!r} is no place for results; expected a folder, or a URL of s3, gs or az")
    if not path.strip("/"):
        raise InputError(f"{given!r} names no bucket; expected a URL such as {protocol}://bucket/run")
    return Store(f"{protocol.lower()}://{path}")


class Disk:
    """A folder of this machine; its files are synced to the disk."""

    is_locked = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = OutputFolder(path).path

    def __repr__(self) -> str:
        return f"Disk({str(self)!r})"

    def __str__(self) -> str:
        return str(self.path)

    @property
    def ignores_case(self) -> bool:
        """Whether ``a`` and ``A`` are one file in this folder, which is created if need be."""
        return ignores_case(self.path)

    def below(self, name: str) -> Disk:
        return Disk(self.path / name)

    def elsewhere(self) -> Disk:
        return Disk(self.path.resolve())

    @contextmanager
    def claimed(self, kind: str) -> Iterator[None]:
        """Create and lock the folder; the system releases the lock when this process ends, even if killed."""
        folder = OutputFolder(self.path, kind)
        with folder, locked(folder):
            yield

    def check_free(self, kind: str, names: Sequence[str]) -> None:
        OutputFolder(self.path, kind).check_free(names)

    def clean(self, folders: Sequence[str]) -> None:
        found = [
            *self.path.glob(PARTIAL),
            *(one for name in folders for one in (self.path / name).rglob(PARTIAL)),
        ]
        for left in found:
            left.unlink()

    def manifest(self) -> dict[str, Any] | None:
        return OutputFolder(self.path).manifest()

    def write_manifest(self, kind: str, manifest: dict[str, Any]) -> None:
        OutputFolder(self.path, kind).finish(manifest, durable=True)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except OSError:
            return None

    def size(self, name: str) -> int | None:
        try:
            return (self.path / name).stat().st_size
        except OSError:
            return None

    def write(self, name: str, write: Write) -> int:
        path = self.path / name
        make_folder(path.parent)
        try:
            write_atomically(path, write, durable=True)
        except IsADirectoryError:
            raise InputError(f"{path} is a folder; expected a file") from None
        return path.stat().st_size

    def write_each(self, files: Mapping[str, bytes]) -> dict[str, str]:
        failed = {}
        for name, content in files.items():
            path = self.path / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, partial(_put, content), durable=False)
            except OSError as error:
                if error.errno not in OF_ONE_FILE:
                    raise
                failed[name] = reason(error)
        return failed


class Store:
    """A prefix of an object store. Nothing locks it: who may write is checked by the manifest (see `Folder.write`)."""

    is_locked = False
    ignores_case = False

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        with self._access("", "used"):
            self.store, self.root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __str__(self) -> str:
        return self.url

    def below(self, name: str) -> Store:
        return Store(f"{self.url}/{name}")

    def elsewhere(self) -> Store:
        return self

    @contextmanager
    def claimed(self, kind: str) -> Iterator[None]:
        with self._access("", "read"):
            is_object = self.store.isfile(self.root)
        if is_object:
            raise InputError(f"{self.url} is a file; expected a folder")
        if (found := self.manifest()) is not None:
            check_owner(found, kind, self.url)
        yield

    def check_free(self, kind: str, names: Sequence[str]) -> None:
        for name in names:
            if self._objects(name):
                raise InputError(foreign(f"{self.url}/{name}", kind))

    def clean(self, folders: Sequence[str]) -> None:
        pass  # an object that was not sent whole is not there

    def manifest(self) -> dict[str, Any] | None:
        """The content of manifest.json; empty if that is something else."""
        if (content := self.read(MANIFEST)) is None:
            return None
        return parse_manifest(content)

    def write_manifest(self, kind: str, manifest: dict[str, Any]) -> None:
        self.write(MANIFEST, partial(_put, manifest_bytes(kind, manifest)))

    def read(self, name: str) -> bytes | None:
        with self._access(name, "read"):
            try:
                content: bytes = self.store.cat_file(self._key(name))
            except FileNotFoundError:
                return None
        return content

    def size(self, name: str) -> int | None:
        with self._access(name, "read"):
            try:
                size = self.store.info(self._key(name))["size"]
            except FileNotFoundError:
                return None
        return None if size is None else int(size)  # None of a folder, in some stores

    def write(self, name: str, write: Write) -> int:
        """Write a file on this machine, then send it: it may be larger than memory should hold twice."""
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sightline-"))
                file = Path(folder) / "object"
                with file.open("wb") as opened:
                    write(opened)
            except OSError as error:
                raise InputError(
                    f"the folder for temporary files (TMPDIR) cannot be written to: {reason(error)}"
                ) from None
            with self._access(name, "written"):
                self.store.put_file(str(file), self._key(name))
            return file.stat().st_size

    def write_each(self, files: Mapping[str, bytes]) -> dict[str, str]:
        """Many at a time, where the store's package can."""
        with self._access("overlays", "written"):
            self.store.pipe({self._key(name): content for name, content in files.items()})
        return {}

    def _objects(self, name: str) -> list[Any]:
        with self._access(name, "read"):
            try:
                return list(self.store.ls(self._key(name), detail=False))
            except FileNotFoundError:
                return []

    def _key(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextmanager
    def _access(self, name: str, how: str) -> Iterator[None]:
        where = "/".join(filter(None, [self.url, name]))
        try:
            with asked(where, how):
                yield
        except StoreError:
            raise
        except Exception as error:  # each store has its own; one that is not installed raises ImportError
            gone = how == "written" and isinstance(error, FileNotFoundError)
            why = "there is no such bucket" if gone else store_reason(error)
            raise InputError(f"{where} cannot be {how}: {why}") from error


def _put(content: bytes, file: BinaryIO) -> None:
    file.write(content)


@lru_cache(maxsize=16)
def ignores_case(folder: Path) -> bool:
    """Whether ``a`` and ``A`` are one file in this folder, which is created if need be.

    >>> ignores_case(Path(tempfile.mkdtemp())) in (True, False)
    True
    """
    make_folder(folder)
    probe = folder / ".sightline-case.part"
    probe.touch()
    try:
        return (folder / ".SIGHTLINE-CASE.PART").exists()
    finally:
        probe.unlink(missing_ok=True)
