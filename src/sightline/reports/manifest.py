"""The contents of manifest.json: what was run, with which versions."""

from __future__ import annotations

import platform
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sightline.errors import DISTRIBUTION
from sightline.plugins import loaded_plugins

PACKAGES = (DISTRIBUTION, "torch", "torchvision", "timm", "numpy", "pillow", "opencv-python-headless")


def describe_run(**facts: Any) -> dict[str, Any]:
    """``facts`` and the versions of all packages involved, as written to manifest.json.

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
    """The versions of the installed `PACKAGES`."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
