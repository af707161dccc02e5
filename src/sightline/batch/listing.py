"""The listing of a batch run: folders, patterns, CSV and Parquet lists and tar shards become one table of items.

An item is a file, or a byte range inside a tar, so that any process can read any item on its own. The table
is Arrow: a million items take about 120 MB, and pickling it for a worker process copies buffers, not objects.
"""

from __future__ import annotations

import glob
import hashlib
import os
import tarfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sightline.data.items import (
    IMAGE_SUFFIXES,
    MANIFEST,
    MOST_MANIFEST_BYTES,
    Item,
    files_in,
    images_below,
    is_image,
    is_url,
    matches,
    open_binary,
    read_manifest,
)
from sightline.data.stores import asked, check_answered, store_reason
from sightline.errors import InputError, StoreError, unknown
from sightline.files import MOST_PICTURE_BYTES, escaped, expanded, missing, not_text, reading, reason

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("file", pa.string()),
        ("member", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("fault", pa.string()),
    ]
)
LISTS, TAR = (".csv", ".parquet"), ".tar"
PATH_COLUMNS, ID_COLUMNS = ("path", "file", "image", "filename"), ("id", "image_id")


def read_items(
    arguments: Sequence[str | os.PathLike[str]], without: Collection[str | os.PathLike[str]] = ()
) -> pa.Table:
    """The items in ``arguments``, in order, as a table with schema `SCHEMA` and unique ids.

    Files, folders, globs; ``LIST.csv`` and ``LIST.parquet`` with a column ``path`` and optionally ``id`` (paths are
    relative to the list); ``SHARD.tar``, uncompressed; all of these also as fsspec URLs. The id is the path relative
    to the named folder (``TAR/MEMBER`` in a tar), or the whole path if two would clash. Folders and globs leave out
    the files and folders in ``without``, such as an earlier run's output folder.
    Raises `InputError` if an argument does not exist or holds no image, and for an image listed twice.
    """
    if not arguments:
        raise InputError("no images given; expected files, folders, patterns, a CSV, a Parquet or tar files")
    named = [os.fsdecode(argument) for argument in arguments]
    tables = [_checked(argument, _table(_items(argument, without))) for argument in named]
    items = pa.concat_tables(tables).combine_chunks()
    member = pc.fill_null(items["member"], "")
    joined = pc.binary_join_element_wise(items["file"], member, "!")
    whole = pc.if_else(pc.is_null(items["member"]), items["file"], joined)
    if (twice := _twice(whole)) is not None:
        raise InputError(f"{twice!r} is listed twice; expected each image once")
    return items if _twice(items["id"]) is None else items.set_column(0, "id", whole).combine_chunks()


def items_of(table: pa.Table) -> Iterator[Item]:
    """The rows of a table (or of a slice of it) as `Item`."""
    for batch in table.to_batches():
        yield from (Item(*row) for row in zip(*(column.to_pylist() for column in batch.columns), strict=True))


def digest(table: pa.Table) -> str:
    """SHA-256 over all items in order: identifies a listing."""
    found = hashlib.sha256()
    for start in range(0, len(table), 65536):
        part = table.slice(start, 65536)
        for item in items_of(part):
            found.update(repr(tuple(item)).encode())
    return found.hexdigest()


def _table(items: Iterable[Item]) -> pa.Table:
    remaining, batches = iter(items), []
    while rows := [
        _as_text(item) for item in islice(remaining, 4096)
    ]:  # a list of all rows would be larger than the table
        columns = [
            pa.array(column, field.type)
            for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)
        ]
        batches.append(pa.record_batch(columns, schema=SCHEMA))
    return pa.Table.from_batches(batches, SCHEMA)


def _as_text(item: Item) -> Item:
    """The item, or, where its name is not text and cannot stand in a table, one that says so."""
    try:
        "".join(text for text in (item.id, item.file, item.member) if text).encode()
    except UnicodeEncodeError:
        id, file, member = (text and escaped(text) for text in (item.id, item.file, item.member))
        return Item(str(id), str(file), member, fault=not_text(item.file))
    return item


def _checked(argument: str, table: pa.Table) -> pa.Table:
    if not len(table):
        raise InputError(f"{argument} holds no image (looked for {', '.join(IMAGE_SUFFIXES)})")
    return table


def _twice(ids: pa.ChunkedArray) -> str | None:
    """An id that occurs more than once, or None."""
    if len(pc.unique(ids)) == len(ids):
        return None
    counts = pc.value_counts(ids.combine_chunks())
    return str(counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py())


def _items(argument: str, without: Collection[str | os.PathLike[str]]) -> Iterator[Item]:
    suffix = PurePosixPath(argument).suffix.lower()
    if argument.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        raise InputError(
            f"{argument} is a compressed tar, whose images cannot be read individually; decompress it to .tar"
        )
    if suffix not in (*LISTS, TAR):
        yield from _remote_images(argument, without) if is_url(argument) else _local_images(argument, without)
        return
    for file in _matching(argument):
        yield from tar_items(file) if suffix == TAR else _listed(file)


def _matching(argument: str) -> list[str]:
    """The files that match a name or pattern of lists or shards."""
    if is_url(argument):
        files = [url for _, url in _remote(argument)]
    else:
        files = sorted(glob.glob(argument)) if glob.has_magic(argument) else [os.path.expanduser(argument)]
        files = [file for file in files if os.path.isfile(file)]
    if not files:
        raise InputError(
            missing(argument) if not glob.has_magic(argument) else f"no file matches {argument!r}"
        )
    return files


def _local_images(argument: str, without: Collection[str | os.PathLike[str]]) -> Iterator[Item]:
    path = expanded(argument)
    if os.path.isdir(path):
        start = len(path.parts)
        yield from (Item("/".join(file.parts[start:]), str(file)) for file in images_below(path, without))
    elif os.path.exists(path):
        yield Item(path.name, str(path))
    elif glob.has_magic(argument):
        for match in matches(str(path), without):
            yield from (
                _local_images(str(match), without) if match.is_dir() else [Item(match.name, str(match))]
            )
    else:
        raise InputError(missing(argument))


def _remote_images(argument: str, without: Collection[str | os.PathLike[str]]) -> Iterator[Item]:
    everything = _remote(argument)
    own = _own_output(everything, argument, [str(place) for place in without if is_url(str(place))])
    found = [pair for pair in everything if is_image(PurePosixPath(pair[0])) and not _in(pair[1], own)]
    folders = [path.rpartition("/")[0] for path, _ in found]
    root = os.path.commonpath(folders) if found else ""
    for path, url in found:
        yield Item(path.removeprefix(root).lstrip("/"), url)


def _own_output(found: Sequence[tuple[str, str]], argument: str, without: Sequence[str]) -> set[str]:
    """The files and folders that runs of sightline wrote: those of ``without``, and what the manifests found name.

    As in `images_below`, who names a folder wants what is in it.
    """
    named = _remote_name(argument)
    own = {place for place in map(_remote_name, without) if not _in(named, {place})}
    for _, url in found:
        folder, _, name = url.rpartition("/")
        if name == MANIFEST and not _in(url, own):
            with reading(url), open_binary(url) as file:
                content = file.read(MOST_MANIFEST_BYTES)
            own |= {f"{folder}/{one}" for one in files_in(read_manifest(content))}
    return own


def _in(url: str, places: Collection[str]) -> bool:
    """Whether a URL, or a folder that holds it, is among these.

    >>> _in("s3://a/b/c.png", {"s3://a/b"}), _in("s3://a/bc.png", {"s3://a/b"}), _in("s3://a", {"s3://a"})
    (True, False, True)
    """
    parts = url.split("/")
    return any("/".join(parts[:length]) in places for length in range(len(parts), 2, -1)) if places else False


def _remote_name(url: str) -> str:
    """A URL as its store writes it."""
    import fsspec

    with reading(url):
        store, path = fsspec.core.url_to_fs(url)
    return str(store.unstrip_protocol(path)).rstrip("/")


def _remote(argument: str) -> list[tuple[str, str]]:
    """The files behind a URL of a file, a folder or a pattern: each by its name in the store, and as a URL."""
    import fsspec

    try:
        with asked(argument, "listed"):
            store, path = fsspec.core.url_to_fs(argument)
            store.invalidate_cache()  # what an earlier listing saw may be out of date
            if glob.has_magic(argument):
                found = store.glob(path)
            elif store.isdir(path):
                found = store.find(path)
            else:
                found = [path] if store.exists(path) else None
    except StoreError:
        raise
    except Exception as error:  # each store has its own; one that is not installed raises ImportError
        raise InputError(f"{argument} cannot be listed: {store_reason(error)}") from error
    if found is None:
        raise InputError(missing(argument))
    files = (
        name for name in sorted(found) if not name.endswith("/")
    )  # a store's console makes objects of folders
    return [(name, store.unstrip_protocol(name)) for name in files]


def _listed(file: str) -> Iterator[Item]:
    """The rows of a CSV or Parquet file with a column ``path``."""
    with reading(file, "a list of images"):  # names of columns need not be text either
        table = _read_list(file)
        place = _column(table, PATH_COLUMNS)
    if place is None:
        raise unknown(
            "columns",
            f"{', '.join(table.column_names):.80}",
            ["path"],
            hint=f"in {file}; it needs one column `path`",
        )
    name = _column(table, ID_COLUMNS)
    folder = file.rpartition("/")[0] if is_url(file) else os.path.dirname(file)
    ids = pa.nulls(len(table)) if name is None else table[name]
    for number, (path, given) in enumerate(zip(table[place], ids, strict=True), start=1):
        with reading(f"{file}: row {number}"):
            text, id = path.as_py(), given.as_py()
        if not text or "\0" in text:
            raise InputError(f"{file}: row {number} has no path{' but a NUL byte' if text else ''}")
        whole = text if is_url(text) or os.path.isabs(text) else "/".join(filter(None, [folder, text]))
        yield Item(str(text if id is None else id), whole)


def _column(table: pa.Table, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in table.column_names), None)


def _read_list(file: str) -> pa.Table:
    import pyarrow.csv
    import pyarrow.parquet

    wanted = (*PATH_COLUMNS, *ID_COLUMNS)
    with reading(file, "a list of images"), open_binary(file) as stream:
        if file.lower().endswith(".parquet"):
            whole: Any = pyarrow.parquet.ParquetFile(stream)
            there = [name for name in whole.schema_arrow.names if name in wanted]
            table = whole.read(columns=there) if there else whole.schema_arrow.empty_table()
        else:
            text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.string()))
            table = pyarrow.csv.read_csv(stream, convert_options=text)
    for name in (name for name in PATH_COLUMNS if name in table.column_names):
        kind = table.schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
            raise InputError(f"{file}: column {name!r} holds {kind}; expected text")
    return table


def tar_items(file: str) -> Iterator[Item]:
    """The images of an uncompressed tar; a truncated tar adds an item with a fault.

    Only headers are read. Images before the cut are intact; the truncated member and the tar itself become items
    that fail with the reason.
    """
    name, last = os.path.basename(file), "its beginning"
    with open_binary(file) as stream:
        length = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    vars(archive)["members"] = []  # tarfile would keep every header
                    if member.size < 0 or archive.offset <= member.offset:
                        raise tarfile.HeaderError(f"a member of {member.size} bytes")
                    last = member.name
                    if member.isreg() and is_image(PurePosixPath(member.name)):
                        yield _member(file, name, member, length)
                stream.seek(archive.offset)
                end = stream.read(tarfile.BLOCKSIZE)
            cut = None if end == bytes(tarfile.BLOCKSIZE) else "it has no end mark"
        except Exception as error:  # tarfile raises ValueError, struct.error, … on damaged headers
            check_answered(file, error)
            if last == "its beginning":
                raise InputError(f"{file} is not an uncompressed tar: {reason(error)}") from None
            cut = reason(error)
    if cut is not None:
        yield Item(name, file, fault=f"{file} is cut off after {last}: {cut}; what it held beyond is lost")


def _member(file: str, name: str, member: tarfile.TarInfo, length: int) -> Item:
    fault = None
    if member.issparse():
        fault = f"{file}!{member.name} is stored sparse; pack the tar without --sparse"
    elif member.size > MOST_PICTURE_BYTES:
        fault = f"{file}!{member.name} has {member.size:,} bytes; expected at most {MOST_PICTURE_BYTES:,}"
    elif member.offset_data + member.size > length:
        fault = f"{file}!{member.name} is cut off with its tar"
    return Item(f"{name}/{member.name}", file, member.name, member.offset_data, member.size, fault)
