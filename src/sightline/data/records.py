"""Records of a JSON file with their locations, since JSON has no useful line numbers for messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.data.reading import read_text
from sightline.errors import InputError
from sightline.files import parse_json

Records = list[tuple[str, dict[str, Any]]]


def read_lists(path: Path, *names: str) -> dict[str, list[Any]]:
    """The named lists of a JSON object; raises `InputError` if it is not JSON or lacks one.

    >>> read_lists(Path("nowhere.json"), "images")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere.json is missing
    """
    content = read_json(path)
    for name in names:
        if not isinstance(content.get(name), list):
            raise InputError(f"{path} has no list {name!r}; expected {', '.join(names)}")
    return {name: content[name] for name in names}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, {} if the file holds something else; raises `InputError` if it is not JSON."""
    content = parse_json(read_text(path), path)
    return content if isinstance(content, dict) else {}


def records(path: Path, name: str, entries: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Records with their locations, such as ``annotations[3]``."""
    for index, record in enumerate(entries):
        where = f"{path}, {name}[{index}]"
        if not isinstance(record, dict):
            raise InputError(f"{where}: expected an object, got {type(record).__name__}")
        yield where, record


def field(record: dict[str, Any], key: str, kind: type, where: str) -> Any:
    """A value of the required type; raises `InputError`.

    >>> field({"id": "7"}, "id", int, "a.json, images[0]")
    Traceback (most recent call last):
    sightline.errors.InputError: a.json, images[0]: expected 'id' as int, got '7'
    """
    if not isinstance(record.get(key), kind):
        raise InputError(f"{where}: expected {key!r} as {kind.__name__}, got {record.get(key)!r}")
    return record[key]
