"""Output folders and atomic writes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from sightline.errors import InputError

if TYPE_CHECKING:
    import PIL.Image

MANIFEST = "manifest.json"


class OutputFolder:
    """The folder of one run: every file is written atomically, manifest.json last.

    ``kind`` is what writes there, such as "explain", and is stored in the manifest (None: files without a manifest).
    As a context manager it prepares the folder (see `prepare`) and removes it again if nothing was written.

    >>> import tempfile
    >>> with OutputFolder(Path(tempfile.mkdtemp()) / "new", "explain") as folder:
    ...     _ = folder.write_text("a.txt", "whole")
    ...     _ = folder.finish({"images": 1})
    >>> sorted(path.name for path in folder.path.iterdir()), folder.manifest()["kind"]
    (['a.txt', 'manifest.json'], 'explain')
    """

    def __init__(self, path: str | os.PathLike[str], kind: str | None = None) -> None:
        self.path, self.kind = Path(path), kind
        self._new: list[Path] = []

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
        path, new = self.path, []
        while not path.exists() and path != path.parent:
            new.append(path)
            path = path.parent
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._new = new
            probe = self.path / ".sightline"
            write_atomically(probe, lambda file: file.write(b""))
            probe.unlink()
        except (FileExistsError, NotADirectoryError):
            raise InputError(
                f"the output folder {self.path} is a file, or lies below one; expected a folder"
            ) from None
        except OSError as error:
            self.discard()
            raise InputError(
                f"the output folder {self.path} cannot be written to: {error.strerror}"
            ) from None
        return self

    def check_owner(self) -> None:
        """Raise `InputError` if the folder's manifest is of another kind of run."""
        found = self.manifest() or {}
        if self.kind is not None and found.get("kind", self.kind) != self.kind:
            raise InputError(
                f"{self.path} holds the results of `sightline {found['kind']}`; give another output folder"
            )

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
            found = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def write(self, name: str, write: Callable[[BinaryIO], object], *, durable: bool = False) -> Path:
        """`write_atomically` to a file in this folder or a subfolder; returns its path."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write, durable=durable)
        return path

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file in UTF-8."""
        return self.write(name, lambda file: file.write(text.encode("utf-8", "backslashreplace")))

    def write_picture(self, name: str, picture: PIL.Image.Image) -> Path:
        """Write a PNG."""
        return self.write(name, partial(picture.save, format="PNG"))

    def finish(self, manifest: dict[str, Any], *, durable: bool = False) -> Path:
        """Write manifest.json, including the kind of this run."""
        text = as_json({"kind": self.kind, **manifest}) + "\n"
        return self.write(
            MANIFEST, lambda file: file.write(text.encode("utf-8", "backslashreplace")), durable=durable
        )


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            write(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_name(identity: str) -> str:
    """A relative path for an image id: unique for each id, and never outside the folder.

    Characters that a file name cannot hold, "%", and the parts "", "." and ".." are written as %XX.

    >>> file_name("n01/a.jpg"), file_name("a:b"), file_name("/data/../b")
    ('n01/a.jpg', 'a%3Ab', '%/data/%2E%2E/b')
    """
    return "/".join(map(_safe_part, identity.split("/")))


def _safe_part(part: str) -> str:
    if part in ("", ".", ".."):
        return part.replace(".", "%2E") or "%"
    return "".join(f"%{ord(c):02X}" if c in '%:\\*?"<>|' or ord(c) < 32 else c for c in part)
