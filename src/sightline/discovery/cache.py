"""Vectors kept on disk by what they were made from: shards that are only ever added, each whole or not there."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InputError
from sightline.reports.output_folder import write_atomically

ROWS, SECONDS = 512, 20.0  # a shard is written when it has so many rows, or after so long


class VectorCache:
    """Vectors (C,) float32 under 32-byte keys, in ``folder``; without a folder it remembers nothing.

    ``made_by`` is all that the vectors depend on besides their key (weights, transform, …): each such
    description has a subfolder of its own. A run that is stopped loses at most what the last unwritten shard
    held; two runs may add to one folder at the same time.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> cache = VectorCache(folder, {"weights": "ab12"})
    >>> cache.add(bytes(32), np.ones(3, np.float32)); cache.flush()
    >>> VectorCache(folder, {"weights": "ab12"}).get(bytes(32))
    array([1., 1., 1.], dtype=float32)
    """

    def __init__(self, folder: Path | None, made_by: dict[str, Any]) -> None:
        text = json.dumps(made_by, sort_keys=True, indent=1)
        self.folder = None if folder is None else folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._waiting: dict[bytes, NDArray[np.float32]] = {}
        self._since = time.monotonic()
        self._shards: list[Any] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        if self.folder is not None:
            _make(self.folder)
            write_atomically(self.folder / "key.json", lambda file: file.write(text.encode()))
            for path in sorted(self.folder.glob("shard-*.npy")):
                self._open(path)

    def __len__(self) -> int:
        return len(self._places) + len(self._waiting)

    def _open(self, path: Path) -> None:
        try:
            shard = np.load(path, mmap_mode="r", allow_pickle=False)
            keys = np.ascontiguousarray(shard["key"])
        except (OSError, ValueError, IndexError):
            raise InputError(f"{path} is no shard of a feature cache, or damaged; delete it") from None
        self._shards.append(shard["value"])
        for row, key in enumerate(keys):
            self._places[key.tobytes()] = (len(self._shards) - 1, row)

    def get(self, key: bytes) -> NDArray[np.float32] | None:
        """The vector (C,) under ``key``, or None."""
        if key in self._waiting:
            return self._waiting[key]
        if key not in self._places:
            return None
        shard, row = self._places[key]
        return np.array(self._shards[shard][row])

    def add(self, key: bytes, vector: NDArray[np.float32]) -> None:
        """Keep a vector; it is on disk when the shard is full, some seconds have passed, or after `flush`."""
        if self.folder is None:
            return
        self._waiting[key] = vector
        if len(self._waiting) >= ROWS or time.monotonic() - self._since > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a shard, named by its keys: the same work done twice gives the same file."""
        if self.folder is None or not self._waiting:
            return
        channels = len(next(iter(self._waiting.values())))
        shard = np.zeros(len(self._waiting), np.dtype([("key", "u1", 32), ("value", "f4", channels)]))
        shard["key"] = np.frombuffer(b"".join(self._waiting), np.uint8).reshape(-1, 32)
        shard["value"] = np.stack(list(self._waiting.values()))
        name = hashlib.sha256(shard["key"].tobytes()).hexdigest()[:16]
        path = self.folder / f"shard-{name}.npy"
        write_atomically(path, lambda file: np.save(file, shard))
        self._waiting.clear()
        self._since = time.monotonic()
        self._open(path)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(
            f"the cache {folder.parent} is a file, or lies below one; expected a folder"
        ) from None
