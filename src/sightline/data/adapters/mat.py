"""The structs of a MATLAB 5 file (MathWorks, "MAT-File Format"), read here: SciPy crashes on some damaged ones.

Only what ILSVRC's devkits hold is understood: struct arrays whose fields are text, numbers, or arrays of numbers.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.errors import InputError
from sightline.files import MIB, read_bytes, reading

MOST_BYTES = 64 * MIB
DEEPEST = 4
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _CHAR = 2, 4


def read_structs(path: Path, variable: str) -> list[dict[str, Any]]:
    """The elements of a struct array, each a dictionary of its fields; raises `InputError` for any other file."""
    content = read_bytes(path, MOST_BYTES, "a MATLAB file")
    if len(content) < 128 or content[126:128] not in (b"IM", b"MI"):
        raise InputError(f"{path} is not a MATLAB 5 file")
    order = "<" if content[126:128] == b"IM" else ">"
    with reading(path, f"a MATLAB 5 file with the struct array {variable!r}"):
        for name, value in _variables(content[128:], order):
            if name == variable:
                return (
                    value
                    if isinstance(value, list) and value and isinstance(value[0], dict)
                    else _none(variable)
                )
        return _none(variable)


def _none(variable: str) -> list[dict[str, Any]]:
    raise ValueError(f"it has no struct array {variable!r}")


def _variables(content: bytes, order: str) -> Iterator[tuple[str, Any]]:
    for kind, data in _elements(content, order):
        if kind == _COMPRESSED:
            unpacked = zlib.decompressobj().decompress(data, MOST_BYTES)
            yield from (
                _matrix(inner, order) for kind, inner in _elements(unpacked, order) if kind == _MATRIX
            )
        elif kind == _MATRIX:
            yield _matrix(data, order)


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """The type and the bytes of each data element."""
    place = 0
    while place + 8 <= len(content):
        (first,) = struct.unpack_from(f"{order}I", content, place)
        if first >> 16:  # a small element: type and size in four bytes, up to four bytes of data behind them
            kind, size, start, end = first & 0xFFFF, first >> 16, place + 4, place + 8
        else:
            kind, size = struct.unpack_from(f"{order}II", content, place)
            start = place + 8
            end = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > len(content):
            raise ValueError("it is cut off")
        yield kind, content[start : start + size]
        place = end


def _matrix(content: bytes, order: str, level: int = 0) -> tuple[str, Any]:
    """An array's name and value: text, a number, a tuple of numbers, a list of structs, or None."""
    if level > DEEPEST:
        raise ValueError("it is nested too deep")
    parts = _elements(content, order)
    if not content:
        return "", ()
    flags, dims, name = (data for _, data in (next(parts), next(parts), next(parts)))
    kind = struct.unpack_from(f"{order}I", flags)[0] & 0xFF
    shape = struct.unpack(f"{order}{len(dims) // 4}i", dims)
    if kind == _STRUCT:
        return name.decode("latin-1"), list(_structs(parts, math.prod(shape), order, level))
    if kind != _CHAR and not 6 <= kind <= 15:
        return name.decode("latin-1"), None
    stored, data = next(parts, (0, b""))
    if kind == _CHAR and data:
        coding = _TEXT[stored] + (("-le" if order == "<" else "-be") if "16" in _TEXT[stored] else "")
        return name.decode("latin-1"), data.decode(coding)
    size = struct.calcsize(_NUMBERS[stored]) if data else 1
    values = struct.unpack(f"{order}{len(data) // size}{_NUMBERS[stored]}", data) if data else ()
    return name.decode("latin-1"), values[0] if len(values) == 1 else values


def _structs(
    parts: Iterator[tuple[int, bytes]], count: int, order: str, level: int
) -> Iterator[dict[str, Any]]:
    (_, width), (_, names) = next(parts), next(parts)
    (length,) = struct.unpack_from(f"{order}i", width)
    if length < 1 or not names:
        raise ValueError("its structs have no fields")
    fields = [names[i : i + length].split(b"\0")[0].decode("latin-1") for i in range(0, len(names), length)]
    for _ in range(count):
        yield {field: _matrix(_next(parts), order, level + 1)[1] for field in fields}


def _next(parts: Iterator[tuple[int, bytes]]) -> bytes:
    kind, data = next(parts, (0, b""))
    if kind != _MATRIX:
        raise ValueError("it is cut off")
    return data
