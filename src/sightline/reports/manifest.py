"""manifest.json: what was run, on what, with which versions; and files that are whole or not there."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from sightline.errors import DISTRIBUTION
from sightline.plugins import loaded_plugins

PACKAGES = (DISTRIBUTION, "torch", "torchvision", "timm", "numpy", "pillow", "opencv-python-headless")


def describe_run(**facts: Any) -> dict[str, Any]:
    """``facts`` with the versions of all that took part, as manifest.json holds them.

    >>> describe_run(method="cam")["method"]
    'cam'
    """
    from sightline import __version__

    return {
        "sightline": __version__,
        "versions": {"python": platform.python_version(), **_versions()},
        **({"plugins": plugins} if (plugins := loaded_plugins()) else {}),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **facts,
    }


def _versions() -> dict[str, str]:
    """The version of each of `PACKAGES` that is installed."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call ``write`` with a file beside ``path`` and rename it into place; on an error nothing is left.

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
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
