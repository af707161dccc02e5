"""The folder of a run: shards are written atomically, by one run at a time; a killed run resumes where it stopped.

    results/part-00000.parquet    the rows of shard 0 and, in the file's metadata, its failures
    heatmaps/part-00000.npy       its heatmaps: row r belongs to row r of the Parquet file
    overlays/…                    if requested
    errors.parquet                all failures with their reasons, once all shards are done
    manifest.json                 what was run; ``complete`` says whether it finished

A shard is done once its Parquet file exists. It is written last. The folder may lie in an object store (see `places`).
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sightline.batch.listing import items_of
from sightline.batch.places import Place, place_of
from sightline.batch.worker import ROWS, Array, BatchOptions, BatchResult
from sightline.data.items import MANIFEST, Item
from sightline.errors import InputError
from sightline.files import reading
from sightline.reports.manifest import differences
from sightline.reports.output_folder import as_json

KIND = "batch"
SAME = ("model", "options", "input")  # two runs that differ here do not share a folder
KEY = b"sightline"
AGAIN = "run the same command again"
MOST_TOLD = 3  # differences from another run
RESULTS, HEATMAPS, OVERLAYS, ERRORS_FILE = "results", "heatmaps", "overlays", "errors.parquet"
READERS = 16  # threads that ask whether shards are there
COLUMNS = ROWS.append(pa.field("heatmap_file", pa.string())).append(pa.field("heatmap_row", pa.int32()))
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
    """The output folder of one batch run: a path, or the URL of a folder in an object store."""

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.place = place_of(out)
        self._begun: dict[str, Any] = {}

    @property
    def overlays(self) -> Place:
        return self.place.below(OVERLAYS)

    @property
    def _run(self) -> str:
        """Which run this is, as each shard says."""
        parts = {part: self._begun.get(part) for part in SAME}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def elsewhere(self) -> Folder:
        """This folder for a process with another working folder."""
        other = copy.copy(self)
        other.place = self.place.elsewhere()
        return other

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Create the folder and keep it from other runs, where that can be done.

        Raises `InputError` if another run is writing there, or the folder holds another kind of manifest.
        """
        with self.place.claimed(KIND):
            yield

    def begin(self, manifest: dict[str, Any]) -> None:
        """Remove the partial files of a killed run, and describe this run in manifest.json.

        Raises `InputError` with the differences if the folder holds a different run.
        """
        self._begun = json.loads(as_json(manifest))
        there = self.place.manifest()
        if there is not None:
            self._check_same(there)
        else:
            self.place.check_free(KIND, (RESULTS, HEATMAPS, OVERLAYS, ERRORS_FILE))
        self.place.clean([RESULTS, HEATMAPS, OVERLAYS])
        process = {"pid": os.getpid(), "host": socket.gethostname()}
        self.place.write_manifest(KIND, {**self._begun, "complete": False, "process": process})

    def _check_same(self, there: dict[str, Any]) -> None:
        if different := differences(there, self._begun, SAME):
            more = f"; and {len(different) - MOST_TOLD} more" if len(different) > MOST_TOLD else ""
            raise InputError(
                f"{self.place} holds another run: {'; '.join(different[:MOST_TOLD])}{more}; "
                "give another output folder, or the same options"
            )

    def finished(self, shards: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The metadata of those of these shards that are whole, in order."""
        with ThreadPoolExecutor(READERS) as pool:  # a store takes its time to answer, for each of thousands
            found = zip(shards, pool.map(self._finished, shards), strict=True)
            return {shard: said for shard, said in found if said is not None}

    def _finished(self, shard: int) -> dict[str, Any] | None:
        if (content := self.place.read(part(shard))) is None:
            return None
        try:
            found = pq.read_metadata(pa.BufferReader(content))
        except (OSError, pa.ArrowException):
            return None
        said: dict[str, Any] = json.loads((found.metadata or {}).get(KEY, b"{}"))
        if said.get("shard") != shard or said.get("run", self._run) != self._run:
            return None
        if said["heatmap_bytes"] and self.place.size(heatmaps(shard)) != said["heatmap_bytes"]:
            return None
        return {**said, "rows": found.num_rows}

    def write(self, shard: int, done: Sequence[BatchResult]) -> None:
        """Write one shard: its heatmaps, then its rows, which mark it as complete.

        Raises `InputError` if another run has begun here since, which no lock could keep away.
        """
        if not self.place.is_locked:
            if not (there := self.place.manifest()):
                raise InputError(f"{self.place}/{MANIFEST} disappeared during the run; {AGAIN}")
            self._check_same(there)
        kept = [one.heatmaps for one in done if one.heatmaps is not None]
        written = self.place.write(heatmaps(shard), lambda file: write_arrays(file, kept)) if kept else 0
        rows = pa.concat_tables([one.rows for one in done]).combine_chunks()
        file = heatmaps(shard) if kept else None
        rows = rows.append_column(COLUMNS.field("heatmap_file"), pa.array([file] * len(rows), pa.string()))
        places = pa.array(range(len(rows)), pa.int32()) if kept else pa.nulls(len(rows), pa.int32())
        rows = rows.append_column(COLUMNS.field("heatmap_row"), places)
        said = {
            "shard": shard,
            "run": self._run,
            "images": len(rows["image_id"].unique()),
            "heatmap_bytes": written,
            "errors": [[item.id, item.path, reason] for one in done for item, reason in one.errors],
        }
        rows = rows.replace_schema_metadata({KEY: json.dumps(said).encode()})
        self.place.write(part(shard), lambda file: file.write(_parquet(rows)))

    def finish(self, shards: Sequence[int]) -> dict[str, Any]:
        """Collect the failures of all shards in errors.parquet, complete the manifest and return it."""
        counts, failed = {"images": 0, "rows": 0, "shards": len(shards)}, []
        finished = self.finished(shards)
        for shard in shards:
            if shard not in finished:
                raise InputError(f"{self.place}/{part(shard)} is missing or not of this run; {AGAIN}")
            counts["images"] += finished[shard]["images"]
            counts["rows"] += finished[shard]["rows"]
            failed += finished[shard]["errors"]
        columns = [[failure[place] for failure in failed] for place in range(len(ERRORS))]
        errors = pa.table([pa.array(column, pa.string()) for column in columns], schema=ERRORS)
        self.place.write(ERRORS_FILE, lambda file: file.write(_parquet(errors)))
        manifest = self.place.manifest() or {}
        manifest.pop("process", None)
        manifest = {**manifest, "complete": True, **counts, "errors": len(failed)}
        self.place.write_manifest(KIND, manifest)
        return manifest

    def reasons(self, most: int) -> list[str]:
        """The first ``most`` reasons of errors.parquet."""
        with reading(f"{self.place}/{ERRORS_FILE}", "the failures of this run"):
            found = pq.read_table(pa.BufferReader(self.place.read(ERRORS_FILE) or b""), columns=["reason"])
            reasons: list[str] = found["reason"].slice(0, most).to_pylist()
        return reasons


def part(shard: int) -> str:
    """Where the rows of a shard are.

    >>> part(0), heatmaps(12)
    ('results/part-00000.parquet', 'heatmaps/part-00012.npy')
    """
    return f"{RESULTS}/part-{shard:05d}.parquet"


def heatmaps(shard: int) -> str:
    """Where the heatmaps of a shard are."""
    return f"{HEATMAPS}/part-{shard:05d}.npy"


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
