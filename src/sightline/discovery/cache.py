"""A cache of vectors on disk, keyed by what they were computed from; append-only shards, written atomically."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InputError
from sightline.reports.output_folder import make_folder, write_atomically

ROWS, SECONDS = 512, 20.0  # a shard is written at this many rows, or after this long


class VectorCache:
    """Vectors (C,) float32 under 32-byte keys, in ``folder``; without a folder nothing is cached.

    ``made_by`` is everything the vectors depend on besides their key (weights, transform, …); each such
    description has its own subfolder. An interrupted run loses at most the last unwritten shard; two runs may
    write to the same folder at once.

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
        self._pending: dict[bytes, NDArray[np.float32]] = {}
        self._since = time.monotonic()
        self._shards: list[Any] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        if self.folder is not None:
            make_folder(self.folder, "the cache ")
            write_atomically(self.folder / "key.json", lambda file: file.write(text.encode()))
            for path in sorted(self.folder.glob("shard-*.npy")):
                self._open(path)

    def __len__(self) -> int:
        return len(self._places) + len(self._pending)

    def _open(self, path: Path) -> None:
        try:
            shard = np.load(path, mmap_mode="r", allow_pickle=False)
            keys = np.ascontiguousarray(shard["key"])
        except (OSError, ValueError, IndexError):
            raise InputError(f"{path} is damaged or not a shard of a feature cache; delete it") from None
        self._shards.append(shard["value"])
        for row, key in enumerate(keys):
            self._places[key.tobytes()] = (len(self._shards) - 1, row)

    def get(self, key: bytes) -> NDArray[np.float32] | None:
        """The vector (C,) under ``key``, or None."""
        if key in self._pending:
            return self._pending[key]
        if key not in self._places:
            return None
        shard, row = self._places[key]
        return np.array(self._shards[shard][row])

    def add(self, key: bytes, vector: NDArray[np.float32]) -> None:
        """Add a vector; it reaches the disk once the shard is full, after some seconds, or on `flush`."""
        if self.folder is None:
            return
        self._pending[key] = vector
        if len(self._pending) >= ROWS or time.monotonic() - self._since > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the pending vectors as a shard named by its keys: repeating the work gives the same file."""
        if self.folder is None or not self._pending:
            return
        channels = len(next(iter(self._pending.values())))
        shard = np.zeros(len(self._pending), np.dtype([("key", "u1", 32), ("value", "f4", channels)]))
        shard["key"] = np.frombuffer(b"".join(self._pending), np.uint8).reshape(-1, 32)
        shard["value"] = np.stack(list(self._pending.values()))
        name = hashlib.sha256(shard["key"].tobytes()).hexdigest()[:16]
        path = self.folder / f"shard-{name}.npy"
        write_atomically(path, lambda file: np.save(file, shard))
        self._pending.clear()
        self._since = time.monotonic()
        self._open(path)
