"""Reading what `torch.save` wrote without running code, and naming the code that a file would run."""

from __future__ import annotations

import argparse
import importlib
import pathlib
import pickle
import pickletools
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from sightline.errors import InputError
from sightline.files import GIB, check_size, is_zip, open_zip

_REFUSED = re.compile(r"(?:unsupported global:|unsupported) GLOBAL (\S+)", re.I)
_DAMAGED = "is damaged or was not written by torch.save"


def read_pickled(path: Path) -> Any:
    """What a file of `torch.save` holds: tensors, plain values, and the inert extras of training scripts.

    Those are `argparse.Namespace`, NumPy's scalars and paths (which become pure paths, of any system). Raises
    `InputError` for a damaged file, and for one that would run anything else, whose name it says.
    """
    if is_zip(path):
        with open_zip(path) as archive:  # torch.save does not compress
            inflated = sum(entry.file_size for entry in archive.infolist())
        check_size(f"{path}, unpacked,", inflated, GIB + 4 * path.stat().st_size)
    try:
        with torch.serialization.safe_globals(_inert()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the protocol of a pickle that is refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror or error}") from error
    except Exception as error:  # torch.load can raise almost anything on other files
        if "TorchScript" in str(error):
            raise InputError(_code(path, "a TorchScript network")) from error
        named = _REFUSED.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
        name = named[1] if named else _first_global(path)
        raise InputError(_code(path, name) if name else f"{path} {_DAMAGED}") from error


def _inert() -> list[Any]:
    """What may be made besides tensors: each only holds values."""
    pure = {"PosixPath": pathlib.PurePosixPath, "WindowsPath": pathlib.PureWindowsPath}
    modules = ("pathlib", "pathlib._local")  # the second is Python 3.13's
    paths = [(kind, f"{module}.{name}") for name, kind in pure.items() for module in modules]
    paths += [(kind, f"{module}.{kind.__name__}") for kind in pure.values() for module in modules]
    core: Any = importlib.import_module("numpy._core" if hasattr(np, "_core") else "numpy.core")
    scalars = [(core.multiarray.scalar, f"numpy.{name}.multiarray.scalar") for name in ("core", "_core")]
    kinds = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDGSU"]
    return [argparse.Namespace, np.dtype, *dict.fromkeys(kinds), *scalars, *paths]


def _code(path: Path, name: str) -> str:
    return (
        f"{path} holds {name}, which is code and is not run; expected only weights: "
        "torch.save(network.state_dict(), path)"
    )


def _first_global(path: Path) -> str | None:
    """The first function or class that a pickle asks for, apart from those of a state dict; None for other files."""
    try:
        with _pickle_in(path) as stream:
            for name in _globals_in(stream):
                if not name.startswith(("torch.", "collections.")):
                    return name
    except Exception:  # not a pickle, or one that is cut off
        return None
    return None


@contextmanager
def _pickle_in(path: Path) -> Iterator[IO[bytes]]:
    if not is_zip(path):
        with path.open("rb") as stream:
            yield stream
        return
    with open_zip(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        with archive.open(name) as stream:
            yield stream


def _globals_in(stream: IO[bytes]) -> Iterator[str]:
    """The names that a pickle imports, read from its instructions, none of which is run.

    >>> import io
    >>> list(_globals_in(io.BytesIO(pickle.dumps(re.compile, protocol=4))))
    ['re.compile']
    """
    texts: list[str] = []  # as they were pushed
    memo: list[str] = []
    for instruction, value, _ in pickletools.genops(stream):
        if instruction.name in ("GLOBAL", "INST"):
            yield str(value).replace(" ", ".")
        elif instruction.name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif instruction.name == "MEMOIZE":
            memo.append(texts[-1] if texts else "")
        elif instruction.name in ("BINGET", "LONG_BINGET"):
            texts.append(memo[value] if value < len(memo) else "")  # type: ignore[operator,index]
        elif isinstance(value, str):
            texts.append(value)
