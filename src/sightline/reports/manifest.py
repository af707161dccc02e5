"""The contents of manifest.json: what was run, with which versions."""

from __future__ import annotations

import platform
from collections.abc import Sequence
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


def differences(
    there: dict[str, Any], wanted: dict[str, Any], parts: Sequence[str] = ("model", "options")
) -> list[str]:
    """The differences between the manifests of two runs, in words.

    >>> differences({"options": {"method": "cam", "view": "whole"}}, {"options": {"method": "rise", "view": "whole"}})
    ["method is 'cam' there and 'rise' here"]
    """
    found = []
    for part in parts:
        old, new = there.get(part), wanted.get(part, {})
        old = old if isinstance(old, dict) else {}
        if "standard" in old:  # from before it was renamed relative_to
            old = {"relative_to": old["standard"], **old}
        for name in dict.fromkeys([*old, *new]):
            if old.get(name) != new.get(name):
                what = name if part == "options" else f"{part} {name}"
                found.append(f"{what} is {old.get(name)!r} there and {new.get(name)!r} here")
    return found


def _versions() -> dict[str, str]:
    """The versions of the installed `PACKAGES`."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
