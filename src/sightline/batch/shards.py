"""The folder of a run: shards are written atomically, by one run at a time; a killed run resumes where it stopped.

    results/part-00000.parquet    the rows of shard 0 and, in the file's metadata, its failures
    heatmaps/part-00000.npy       its heatmaps: row r belongs to row r of the Parquet file
    overlays/…                    if requested
    errors.parquet                all failures with their reasons, once all shards are done
    manifest.json                 what was run; ``complete`` says whether it finished

A shard is done once its Parquet file exists. It is written last: under a temporary name, synced to disk, renamed.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sightline.batch.listing import items_of
from sightline.batch.worker import ROWS, Array, BatchOptions, BatchResult
from sightline.data.items import MANIFEST, Item
from sightline.errors import InputError
from sightline.reports.manifest import differences
from sightline.reports.output_folder import OutputFolder, as_json, write_atomically

KIND = "batch"
SAME = ("model", "options", "input")  # two runs that differ here do not share a folder
KEY = b"sightline"
RESULTS = ROWS.append(pa.field("heatmap_file", pa.string())).append(pa.field("heatmap_row", pa.int32()))
ERRORS = pa.schema([("image_id", pa.string()), ("path", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True)
class Sharding:
    """The listing split into shards and these into batches: the same for every engine and every restart.

    >>> sharding = Sharding(pa.table({"id": list("abcde")}), BatchOptions(batch_size=2, shard_size=3))
    >>> [sharding.spans(number) for number in sharding.shards]
    [[(0, 2), (2, 3)], [(3, 5)]]
    """

    items: pa.Table
    options: BatchOptions

    @property
    def shards(self) -> range:
        return range(-(-len(self.items) // self.options.shard_size))

    def spans(self, shard: int) -> list[tuple[int, int]]:
        """The start and end (exclusive) of each batch of a shard."""
        first, size = shard * self.options.shard_size, self.options.batch_size
        last = min(first + self.options.shard_size, len(self.items))
        return [(start, min(start + size, last)) for start in range(first, last, size)]

    def batch(self, span: tuple[int, int]) -> list[Item]:
        """The items of one batch."""
        return list(items_of(self.items.slice(span[0], span[1] - span[0])))

    def size(self, shards: Sequence[int]) -> int:
        """The number of items in these shards."""
        return sum(spans[-1][1] - spans[0][0] for spans in map(self.spans, shards))


class Folder:
    """The output folder of one batch run."""

    def __init__(self, path: Path) -> None:
        self.path, self.out = path, OutputFolder(path, KIND)

    @property
    def overlays(self) -> Path:
        return self.path / "overlays"

    def part(self, shard: int) -> Path:
        """Where the rows of a shard are."""
        return self.path / "results" / f"part-{shard:05d}.parquet"

    def heatmaps(self, shard: int) -> Path:
        """Where the heatmaps of a shard are."""
        return self.path / "heatmaps" / f"part-{shard:05d}.npy"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Create and lock the folder; the system releases the lock when this process ends, even if killed.

        Raises `InputError` if another run is writing there, or the folder holds another kind of manifest.
        """
        with self.out:
            lock = filelock.FileLock(self.path / ".lock", timeout=0)
            try:
                lock.acquire()
            except filelock.Timeout:
                who = (self.out.manifest() or {}).get("process", {})
                by = f" (process {who['pid']} on {who['host']})" if who else ""
                raise InputError(
                    f"another run{by} is writing into {self.path}; wait for it, or give another output folder"
                ) from None
            try:
                yield
            finally:
                if not (self.path / MANIFEST).exists():  # nothing was started: leave nothing behind
                    (self.path / ".lock").unlink(missing_ok=True)
                lock.release()

    def begin(self, manifest: dict[str, Any]) -> None:
        """Remove the partial files of a killed run, and describe this run in manifest.json.

        Raises `InputError` with the differences if the folder holds a different run.
        """
        manifest = json.loads(as_json(manifest))
        there = self.out.manifest()
        if there is not None and (different := differences(there, manifest, SAME)):
            raise InputError(
                f"{self.path} holds another run: {'; '.join(different)}; "
                "give another output folder, or the same options"
            )
        for folder in (self.path, self.part(0).parent, self.heatmaps(0).parent):
            folder.mkdir(exist_ok=True)
            for left in folder.glob(".*.part"):
                left.unlink()
        for left in self.overlays.rglob(".*.part") if there is not None else ():
            left.unlink()
        process = {"pid": os.getpid(), "host": socket.gethostname()}
        self.out.finish({**manifest, "complete": False, "process": process}, durable=True)

    def finished(self, shard: int) -> dict[str, Any] | None:
        """A finished shard's own metadata; None if it is missing or incomplete."""
        try:
            found = pq.read_metadata(self.part(shard))
        except (OSError, pa.ArrowException):
            return None
        said: dict[str, Any] = json.loads((found.metadata or {}).get(KEY, b"{}"))
        if said.get("shard") != shard:
            return None
        maps = self.heatmaps(shard)
        if said["heatmap_bytes"] and (not maps.exists() or maps.stat().st_size != said["heatmap_bytes"]):
            return None
        return {**said, "rows": found.num_rows}

    def write(self, shard: int, done: Sequence[BatchResult]) -> None:
        """Write one shard: its heatmaps, then its rows, which mark it as complete."""
        kept = [one.heatmaps for one in done if one.heatmaps is not None]
        written = 0
        if kept:
            write_atomically(self.heatmaps(shard), lambda file: write_arrays(file, kept), durable=True)
            written = self.heatmaps(shard).stat().st_size
        rows = pa.concat_tables([one.rows for one in done]).combine_chunks()
        file = self.heatmaps(shard).relative_to(self.path).as_posix() if kept else None
        rows = rows.append_column(RESULTS.field("heatmap_file"), pa.array([file] * len(rows), pa.string()))
        places = pa.array(range(len(rows)), pa.int32()) if kept else pa.nulls(len(rows), pa.int32())
        rows = rows.append_column(RESULTS.field("heatmap_row"), places)
        said = {
            "shard": shard,
            "images": len(rows["image_id"].unique()),
            "heatmap_bytes": written,
            "errors": [[item.id, item.path, reason] for one in done for item, reason in one.errors],
        }
        rows = rows.replace_schema_metadata({KEY: json.dumps(said).encode()})
        write_atomically(self.part(shard), lambda file: file.write(_parquet(rows)), durable=True)

    def finish(self, shards: Sequence[int]) -> dict[str, Any]:
        """Collect the failures of all shards in errors.parquet, complete the manifest and return it."""
        counts, failed = {"images": 0, "rows": 0, "shards": len(shards)}, []
        for shard in shards:
            said = self.finished(shard)
            if said is None:
                raise InputError(f"{self.part(shard)} disappeared during the run; run the same command again")
            counts["images"] += said["images"]
            counts["rows"] += said["rows"]
            failed += said["errors"]
        columns = [[failure[place] for failure in failed] for place in range(len(ERRORS))]
        errors = pa.table([pa.array(column, pa.string()) for column in columns], schema=ERRORS)
        write_atomically(self.path / "errors.parquet", lambda f: f.write(_parquet(errors)), durable=True)
        manifest = self.out.manifest() or {}
        manifest.pop("process", None)
        manifest = {**manifest, "complete": True, **counts, "errors": len(failed)}
        self.out.finish(manifest, durable=True)
        return manifest


def write_arrays(file: BinaryIO, arrays: Sequence[Array]) -> None:
    """Write arrays one after the other into one .npy file, without joining them in memory.

    (`numpy.save` does not say so when the disk is full.)

    >>> import io
    >>> file = io.BytesIO()
    >>> write_arrays(file, [np.zeros((1, 2)), np.ones((2, 2))])
    >>> np.load(io.BytesIO(file.getvalue())).tolist()
    [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
    """
    shape = (sum(len(array) for array in arrays), *arrays[0].shape[1:])
    header = {"descr": arrays[0].dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for array in arrays:
        file.write(np.ascontiguousarray(array).data)


def _parquet(table: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()  # a shard's rows are small, and a plain write reports a full disk as such
    pq.write_table(table, sink, compression="zstd")
    return memoryview(sink.getvalue())
