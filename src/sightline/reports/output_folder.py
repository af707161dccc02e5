"""Output folders and atomic writes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from sightline.data.items import MANIFEST, files_in, is_inside
from sightline.errors import InputError
from sightline.files import read_json, reason
from sightline.reports.manifest import describe_run

if TYPE_CHECKING:
    import PIL.Image

KINDS = (
    "explain",
    "batch",
    "evaluate",
    "faithfulness",
    "discover",
    "train",
    "refine",
    "demo",
    "explanation",
    "watch",
)
VERBS = {
    "watch": "explain --watch",
    "labels": "boxes` or `sightline masks",
}  # of the kinds that are not verbs
REPORTS = ("evaluate", "faithfulness", "discover")
REPORT_FILES = ("table.md", "table.csv", "per_class.csv", "results.json", "curve.png")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a Windows drive has one letter
_TEMPORARY = re.compile(r"\.[0-9a-f]{12}\.(\d+)\.\d+\.part")


class OutputFolder:
    """The folder of one run: its owner, atomic writes, nobody else's files overwritten, nothing stale left behind.

    ``kind`` is what writes there, such as "explain", and is stored in the manifest (None: files without a manifest).
    The manifest lists the run's ``files``: the next run of this kind may overwrite those, and removes the ones that it
    does not write itself. As a context manager it prepares the folder (see `prepare`) and removes it again if nothing
    was written.

    >>> import tempfile
    >>> with OutputFolder(Path(tempfile.mkdtemp()) / "new", "explain") as folder:
    ...     _ = folder.write_text("a.txt", "whole")
    ...     _ = folder.finish({"images": 1})
    >>> sorted(path.name for path in folder.path.iterdir()), folder.manifest()["kind"]
    (['a.txt', 'manifest.json'], 'explain')
    """

    def __init__(self, path: str | os.PathLike[str], kind: str | None = None) -> None:
        if not os.fspath(path):
            raise InputError("the output folder is ''; expected a path")
        if _URL.match(os.fspath(path)):  # a Path of a URL has one slash
            raise InputError(
                f"the output folder is {os.fspath(path)!r}, a URL; expected a folder of this machine "
                "(`sightline batch` also writes to s3://…, gs://… and az://…)"
            )
        self.path, self.kind = Path(path), kind
        self._new: list[Path] = []
        self._before: dict[str, Any] | None = None  # the manifest of the run before this one
        self._old: set[str] = set()  # the files of that run
        self._begun: dict[str, Any] = {}  # what `begin` was told
        self._written: dict[str, None] = {}
        self._announced: set[str] = set()  # the files that the manifest says will come

    def __enter__(self) -> OutputFolder:
        return self.prepare()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def prepare(self) -> OutputFolder:
        """Create the folder, and check now, not after the run, that it can be written to.

        Raises `InputError` if it cannot, or if it holds another kind of run, whose manifest would be lost.
        """
        self.check_owner()
        self._before = self.manifest()
        self._old = set(files_in(self._before or {}))
        for name in REPORT_FILES if self.kind in REPORTS else ():  # now, not after hours of work
            self._refuse_foreign(name)
        path, new = self.path, []
        while not path.exists() and path != path.parent:
            new.append(path)
            path = path.parent
        try:
            make_folder(self.path, "the output folder ")
            self._new = new
            probe = self.path / ".sightline"
            write_atomically(probe, lambda file: file.write(b""))
            probe.unlink(missing_ok=True)
            self._clean()
        except OSError as error:
            self.discard()
            raise InputError(
                f"the output folder {self.path} cannot be written to: {error.strerror}"
            ) from None
        return self

    def check_owner(self) -> None:
        """Raise `InputError` if the folder's manifest is of another kind of run, or of another program."""
        if self.kind is not None and os.path.lexists(self.path / MANIFEST):
            check_owner(self.manifest() or {}, self.kind, str(self.path))

    def check_free(self, names: Iterable[str]) -> None:
        """Before a first run: raise `InputError` if one of its files is there already, so somebody else's."""
        if self.manifest() is None:
            for name in names:
                self._refuse_foreign(name)

    def taken(self) -> set[str]:
        """The names in this folder that are not files of the run before: those are not overwritten."""
        try:
            return {entry.name for entry in os.scandir(self.path)} - self._owned()
        except OSError:
            return set()

    def claim(self, names: Iterable[str]) -> None:
        """Take files of an earlier run that this one continues for this run's own: they stay, and stay listed."""
        self._written.update(dict.fromkeys(names))

    def _owned(self) -> set[str]:
        return {MANIFEST, *self._written, *(self._old or files_in(self.manifest() or {}))}

    def _refuse_foreign(self, name: str) -> None:
        if self.kind is not None and name not in self._owned() and os.path.lexists(self.path / name):
            raise InputError(foreign(str(self.path / name), self.kind))

    def begin(self, manifest: dict[str, Any], names: Iterable[str]) -> None:
        """Write a manifest that says which files will come, so that even a killed run's are known to be its own."""
        self._begun, self._announced = manifest, {*names, *self._old, *self._written}
        files = sorted(self._announced)
        self._write_manifest({**manifest, "complete": False, "files": files}, durable=False)

    def abandon(self) -> None:
        """After `begin`, if the run wrote nothing: the manifest as it was before."""
        if self._before is not None:
            self._write_manifest(self._before, durable=False)
        else:
            (self.path / MANIFEST).unlink(missing_ok=True)

    def _clean(self) -> None:
        """Remove the temporary files of killed runs."""
        for entry in os.scandir(self.path):
            if (match := _TEMPORARY.fullmatch(entry.name)) and not _is_alive(int(match[1])):
                Path(entry.path).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the folders that `prepare` created, if they are empty."""
        for path in self._new:
            try:
                path.rmdir()
            except OSError:
                break
        self._new = []

    def manifest(self) -> dict[str, Any] | None:
        """The contents of manifest.json; None if it is missing or unreadable."""
        try:
            found = read_json(self.path / MANIFEST)
        except InputError:
            return None
        return found if isinstance(found, dict) else None

    def write(self, name: str, write: Callable[[BinaryIO], object], *, durable: bool = False) -> Path:
        """`write_atomically` to a file in this folder or a subfolder; returns its path.

        The manifest names the file before it is there: whoever writes thousands names them all in `begin`.
        Raises `InputError` for a file that is there and that neither this run nor the one before wrote.
        """
        path = self.path / name
        self._refuse_foreign(name)
        if self.kind is not None and name not in self._announced:
            self.begin(self._begun or describe_run(), [name, *self._announced])
        make_folder(path.parent)
        write_atomically(path, write, durable=durable)
        self._written[name] = None
        return path

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file in UTF-8."""
        return self.write(name, lambda file: file.write(text.encode("utf-8", "backslashreplace")))

    def write_picture(self, name: str, picture: PIL.Image.Image) -> Path:
        """Write a PNG."""
        return self.write(name, partial(picture.save, format="PNG"))

    def finish(self, manifest: dict[str, Any], *, durable: bool = False) -> Path:
        """Write manifest.json, with the kind and the files of this run; then remove what only the run before wrote.

        Of an incomplete run (``complete`` is False) the earlier files stay, and stay listed.
        """
        unfinished = manifest.get("complete") is False
        files = sorted({*self._written, *(self._old if unfinished else ())})
        path = self._write_manifest({**manifest, **({"files": files} if files else {})}, durable)
        if not unfinished:
            for path in (self.path / name for name in self._old - set(self._written) if is_inside(name)):
                if path.is_symlink() or not path.is_dir():  # a folder, such as a batch's overlays, stays
                    path.unlink(missing_ok=True)
            self._old = set()
        return path

    def _write_manifest(self, manifest: dict[str, Any], durable: bool) -> Path:
        path, content = self.path / MANIFEST, manifest_bytes(self.kind, manifest)
        write_atomically(path, lambda file: file.write(content), durable=durable)
        return path


@contextmanager
def locked(folder: OutputFolder) -> Iterator[None]:
    """Keep other runs out of a folder; the system lets go of the lock when this process ends, even if killed.

    Without a manifest at the end, nothing was started, and the lock's file is removed. Raises `InputError` while
    another run holds the lock, and where the file system has no locks.
    """
    import filelock  # some 15 ms that most verbs need not wait for

    lock = filelock.FileLock(folder.path / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        who = (folder.manifest() or {}).get("process", {})
        by = f" (process {who['pid']} on {who['host']})" if who else ""
        raise InputError(
            f"another run{by} is writing into {folder.path}; wait for it, or give another output folder"
        ) from None
    except OSError as error:
        raise InputError(
            f"{folder.path} cannot be locked: {reason(error)}; give another output folder"
        ) from error
    try:
        yield
    finally:
        if not (folder.path / MANIFEST).exists():
            (folder.path / ".lock").unlink(missing_ok=True)
        lock.release()


def foreign(path: str, kind: str) -> str:
    """The message for a file of somebody else's where a run would write its own.

    >>> foreign("out/table.md", "evaluate")
    'out/table.md is there already and was not written by `sightline evaluate`; give another output folder'
    """
    verb = VERBS.get(kind, kind)
    return f"{path} is there already and was not written by `sightline {verb}`; give another output folder"


def make_folder(path: Path, what: str = "") -> None:
    """Create a folder and those that hold it; `InputError` if one of them is a file.

    >>> make_folder(Path(__file__) / "new", "the cache ")
    Traceback (most recent call last):
    sightline.errors.InputError: the cache ...output_folder.py/new is a file, or lies below one; expected a folder
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{what}{path} is a file, or lies below one; expected a folder") from None


def check_owner(found: dict[str, Any], kind: str, place: str) -> None:
    """Raise `InputError` if the manifest that was found in a place is of another kind of run, or another program's.

    >>> check_owner({"kind": "batch", "sightline": "1.0"}, "explain", "out")
    Traceback (most recent call last):
    sightline.errors.InputError: out holds the results of `sightline batch`; give another output folder
    """
    theirs = found.get("kind")
    if "kind" in found and theirs != kind and ("sightline" in found or theirs in KINDS):
        verb = VERBS.get(str(theirs), theirs)
        raise InputError(f"{place} holds the results of `sightline {verb}`; give another output folder")
    old = "sightline" in found or "sightline" in found.get(
        "versions", ()
    )  # before the manifest named its kind
    if theirs != kind and ("kind" in found or not old):
        article = "an" if kind[0] in "aeio" else "a"
        raise InputError(f"{place}/{MANIFEST} is not of {article} {kind} run; give another output folder")


def manifest_bytes(kind: str | None, manifest: dict[str, Any]) -> bytes:
    """The content of manifest.json.

    >>> manifest_bytes("batch", {})
    b'{\\n "kind": "batch"\\n}\\n'
    """
    return (as_json({"kind": kind, **manifest}) + "\n").encode("utf-8", "backslashreplace")


def as_json(content: dict[str, Any]) -> str:
    """Strict JSON: no NaN; tensors and arrays as lists; anything else that is not JSON as text.

    >>> as_json({"path": Path("a")})
    '{\\n "path": "a"\\n}'
    """

    def plain(value: Any) -> Any:
        return value.tolist() if hasattr(value, "tolist") else str(value)

    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False, default=plain)


def write_atomically(path: Path, write: Callable[[BinaryIO], object], *, durable: bool = False) -> None:
    """Call ``write`` with a temporary file next to ``path``, then rename it; an error leaves nothing behind.

    ``durable``: sync it to disk before renaming, so that not even a power cut leaves a partial file.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> write_atomically(target, lambda f: f.write(b"whole"))
    >>> target.read_bytes(), len(list(target.parent.iterdir()))
    (b'whole', 1)
    """
    # Short, however long the name is: 255 bytes is the most that a file system takes.
    short = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    temporary = path.with_name(f".{short}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with temporary.open("wb") as file:
            write(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    """Whether a process of that number runs here; True where that cannot be known."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def file_name(identity: str) -> str:
    """A relative path for an image id: unique for each id, and never outside the folder.

    Characters that a file name cannot hold, "%", and the parts "", "." and ".." are written as %XX; a part too long for
    a file system is cut and ends with its checksum.

    >>> file_name("n01/a.jpg"), file_name("a:b"), file_name("/data/../b")
    ('n01/a.jpg', 'a%3Ab', '%/data/%2E%2E/b')
    """
    return "/".join(map(_safe_part, identity.split("/")))


def _safe_part(part: str) -> str:
    if part in ("", ".", ".."):
        return part.replace(".", "%2E") or "%"
    plain = "".join(f"%{ord(c):02X}" if c in '%:\\*?"<>|' or ord(c) < 32 else c for c in part)
    return shortened(plain)


def shortened(name: str, most: int = 200) -> str:
    """A file name of at most ``most`` bytes: a longer one is cut and ends with its checksum, so that no two meet.

    >>> shortened("a.jpg"), len(shortened("ä" * 200)), shortened("x" * 300)[-14:]
    ('a.jpg', 107, '%~...')
    """
    content = os.fsencode(name)
    if len(content) <= most:
        return name
    start = content[: most - 14].decode("utf-8", "ignore")
    return f"{start}%~{hashlib.sha256(content).hexdigest()[:12]}"
