"""Reading files that anybody may have written: the one border between a file and the rest of the program.

Only regular files are read, and only up to a size. `reading` turns whatever a parser raises into one line with the
file's name. JSON, YAML and XML are bounded in depth and size; zip members in what they inflate to.
"""

from __future__ import annotations

import functools
import json
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sightline.errors import InputError, no_such

MIB, GIB = 2**20, 2**30
MOST_BYTES = 4 * GIB  # of any file that is read whole: COCO's largest annotation file has 0.5
MOST_PICTURE_BYTES = GIB
MOST_RECIPE_BYTES = MIB
MOST_XML_BYTES = 64 * MIB
DEEPEST = 64  # levels of JSON, YAML and XML; annotation files have under ten
MOST_YAML_NODES = 100_000  # counted with every alias written out

P = ParamSpec("P")
T = TypeVar("T")
_BYTE = re.compile("[\udc80-\udcff]")
_UNCLEAR = (LookupError, TypeError, AttributeError, AssertionError)  # their words alone say too little
_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


@contextmanager
def reading(name: object, expected: str = "", kind: type[InputError] = InputError) -> Iterator[None]:
    """Turn any exception inside into one line of ``kind`` that names the file; `InputError` passes unchanged.

    ``expected``: what the file should have been, for the message.

    >>> with reading("a.csv"):
    ...     int("many")
    Traceback (most recent call last):
    sightline.errors.InputError: a.csv cannot be read: invalid literal for int() with base 10: 'many'
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise kind(missing(os.fsdecode(error.filename) if error.filename else str(name))) from None
    except Exception as error:
        how = "opened" if isinstance(error, OSError) and error.strerror else "read"
        wanted = f"; expected {expected}" if expected else ""
        raise kind(f"{name} cannot be {how}: {reason(error)}{wanted}") from error


def reader(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator for a function whose first argument is a path: it raises nothing but `InputError`."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        with reading(args[0] if args else next(iter(kwargs.values()), "the file")):
            return function(*args, **kwargs)

    return guarded


def reason(error: BaseException) -> str:
    """What an exception says, in one short line.

    >>> reason(IsADirectoryError(21, "Is a directory", "x")), reason(RecursionError()), reason(KeyError("id"))
    ('Is a directory', 'it is nested too deep', "KeyError: 'id'")
    """
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "it needs more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text (byte {error.start})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())
    shown = words if len(words) <= 300 else f"{words[:300]}…"
    if shown and not isinstance(error, _UNCLEAR):
        return shown
    return f"{type(error).__name__}{f': {shown}' if shown else ''}"


def escaped(name: str) -> str:
    """A file name that need not be text, as text: what is not UTF-8 as ``\\xNN``, other half characters as ``\\uNNNN``.

    >>> escaped("caf\\udce9.jpg"), escaped("\\ud83d.jpg"), escaped("café.jpg")
    ('caf\\\\xe9.jpg', '\\\\ud83d.jpg', 'café.jpg')
    """
    if name.isascii():
        return name
    bytes_ = _BYTE.sub(lambda one: f"\\x{ord(one[0]) - 0xDC00:02x}", name)  # as os.fsdecode stands for them
    return bytes_.encode("utf-8", "backslashreplace").decode()


def not_text(path: str) -> str:
    """The message for a file whose name cannot stand in a table.

    >>> not_text("caf\\udce9.jpg")
    "caf\\\\xe9.jpg: the file's name is not UTF-8 text; rename it"
    """
    return f"{escaped(path)}: the file's name is not UTF-8 text; rename it"


def missing(name: str) -> str:
    """The message for a file that is not there; a link that leads nowhere says so.

    >>> missing("/nowhere/a.jpg")
    "no such file or folder: '/nowhere/a.jpg' (/ has no 'nowhere')"
    """
    if "://" in name and not name.startswith(("http", "ftp")):
        return f"no such file: {name!r}"
    if os.path.islink(name):
        return f"{name} is a link to {os.readlink(name)!r}, which does not exist"
    return no_such(name)


def check_regular(
    path: str | os.PathLike[str],
    most: int = MOST_BYTES,
    expected: str = "a file",
    kind: type[InputError] = InputError,
) -> int:
    """The size of a regular file; raises ``kind`` for a folder, pipe, device or socket, and above ``most`` bytes.

    A pipe would be waited for without end, and a device such as /dev/zero never ends.

    >>> check_regular("/")
    Traceback (most recent call last):
    sightline.errors.InputError: / is a folder; expected a file
    """
    with reading(path, kind=kind):
        found = os.stat(path)
    special = next((what for is_one, what in _KINDS.items() if is_one(found.st_mode)), None)
    if special is not None:
        link = f"leads to {special}" if os.path.islink(path) else f"is {special}"
        raise kind(f"{path} {link}; expected {expected}")
    check_size(str(path), found.st_size, most, kind)
    return found.st_size


def check_size(name: str, size: int, most: int, kind: type[InputError] = InputError) -> None:
    """Raise ``kind`` unless 0 ≤ ``size`` ≤ ``most``.

    >>> check_size("a.zip!b.xml", 2**33, GIB)
    Traceback (most recent call last):
    sightline.errors.InputError: a.zip!b.xml has 8,589,934,592 bytes; expected at most 1,073,741,824
    """
    if not 0 <= size <= most:
        raise kind(f"{name} has {size:,} bytes; expected at most {most:,}")


def read_bytes(
    path: str | os.PathLike[str],
    most: int = MOST_BYTES,
    expected: str = "a file",
    kind: type[InputError] = InputError,
) -> bytes:
    """The content of a regular file of at most ``most`` bytes."""
    check_regular(path, most, expected, kind)
    with reading(path, kind=kind), open(path, "rb") as file:
        content = file.read(most + 1)  # it may have grown
    check_size(str(path), len(content), most, kind)
    return content


def read_text(path: str | os.PathLike[str], most: int = MOST_BYTES) -> str:
    """A text file in UTF-8, with or without a byte order mark; line ends as they are."""
    return decode(read_bytes(path, most, "a text file"), path)


def decode(content: bytes, name: object) -> str:
    """UTF-8 text; raises `InputError` with the place of the first byte that is not.

    >>> decode(b"caf\\xe9", "a.txt")
    Traceback (most recent call last):
    sightline.errors.InputError: a.txt is not UTF-8 text (byte 3)
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 text (byte {error.start})") from None


def parse_json(text: str, name: object) -> Any:
    """JSON of at most `DEEPEST` levels.

    >>> parse_json("[" * 100_000, "a.json")
    Traceback (most recent call last):
    sightline.errors.InputError: a.json: not JSON of at most 64 levels (it is nested too deep)
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{name}, line {error.lineno}, column {error.colno}"
        raise InputError(f"{place}: not JSON ({error.msg})") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"{name}: not JSON of at most {DEEPEST} levels ({reason(error)})") from None
    if _deeper(found, DEEPEST):
        raise InputError(f"{name}: not JSON of at most {DEEPEST} levels (it is nested too deep)")
    return found


def _deeper(value: Any, most: int) -> bool:
    """Whether lists and objects are nested more than ``most`` levels."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(most):
        inside = (one.values() if isinstance(one, dict) else one for one in level)
        level = [inner for values in inside for inner in values if isinstance(inner, (dict, list))]
        if not level:
            return False
    return True


def read_json(path: str | os.PathLike[str], most: int = MOST_BYTES) -> Any:
    """The content of a JSON file, bounded as in `parse_json`."""
    return parse_json(read_text(path, most), path)


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """The content of a YAML file, bounded as in `parse_yaml`."""
    return parse_yaml(read_text(path, MOST_RECIPE_BYTES), path)


def parse_yaml(text: str, name: object) -> Any:
    """Plain YAML (no tags that name classes): at most `DEEPEST` levels and `MOST_YAML_NODES` values.

    Aliases count as often as they are used, which stops a few lines that stand for a billion values.

    >>> parse_yaml("a: &x [1, 2]\\nb: *x", "a.yaml")
    {'a': [1, 2], 'b': [1, 2]}
    """
    import yaml

    opened = accumulate(1 if bracket in "[{" else -1 for bracket in re.findall(r"[\[\]{}]", text))
    if max(opened, default=0) > DEEPEST:  # PyYAML would take minutes to find out
        raise InputError(f"{name} is nested more than {DEEPEST} levels deep")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return None
        _count_nodes(root, name, {}, 1)
        return yaml.SafeLoader("").construct_document(root)
    except InputError:
        raise
    except Exception as error:  # a date such as 2020-99-99 raises ValueError, a deep one RecursionError
        words = reason(error) if not isinstance(error, yaml.YAMLError) else " ".join(str(error).split())
        raise InputError(f"{name} is not valid YAML: {words[:300]}") from None


def _count_nodes(node: Any, name: object, known: dict[int, int], level: int) -> int:
    """The number of values below a YAML node, aliases written out."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise InputError(f"{name} is not valid YAML: an alias refers to what it is part of")
        return known[id(node)]
    if level > DEEPEST:
        raise InputError(f"{name} is nested more than {DEEPEST} levels deep")
    known[id(node)] = 0
    inner = node.value if isinstance(node.value, list) else []
    parts = [part for one in inner for part in (one if isinstance(one, tuple) else (one,))]
    total = 1 + sum(_count_nodes(part, name, known, level + 1) for part in parts)
    if total > MOST_YAML_NODES:
        raise InputError(f"{name} stands for more than {MOST_YAML_NODES:,} values; expected fewer")
    known[id(node)] = total
    return total


def read_member(
    archive: zipfile.ZipFile,
    member: str,
    name: str,
    most: int = MOST_BYTES,
    kind: type[InputError] = InputError,
) -> bytes:
    """A member of a zip archive, if it inflates to at most ``most`` bytes; raises KeyError where there is none."""
    entry = archive.getinfo(member)
    if entry.flag_bits & 1:
        raise kind(f"{name} is encrypted; expected an archive without a password")
    check_size(name, entry.file_size, most, kind)
    with reading(name, kind=kind):
        return archive.read(entry)


def open_zip(path: str | Path) -> zipfile.ZipFile:
    """A zip archive; raises `InputError` for what is none."""
    check_regular(path, 2**63, "a zip archive")
    with reading(path, "a zip archive"):
        return zipfile.ZipFile(path)


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with ``~`` and ``~user`` replaced by that home; one of no user is left as it is.

    Raises `InputError` for "", as an unset variable of a shell gives it: it would be the current folder.

    >>> expanded("~nosuchuser/a.jpg").as_posix()
    '~nosuchuser/a.jpg'
    """
    if not os.fspath(path):
        raise InputError(
            "a path is empty; expected a file, a folder or a pattern ('.' is the current folder)"
        )
    return Path(os.path.expanduser(os.fspath(path)))


def is_zip(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a regular file and a zip archive."""
    return os.path.isfile(path) and zipfile.is_zipfile(path)
