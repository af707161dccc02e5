"""Print constraints that hold every package pyproject.toml requires at the lowest version it states.

python tools/oldest.py > oldest.txt
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FLOOR = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?>=([0-9][0-9A-Za-z.]*)")
# What only checks or serves the developer: the pinned versions of constraints.txt are as good as the oldest.
TOOLS = {"ruff", "mypy", "pre-commit"}


def floors(requirements: list[str]) -> dict[str, str]:
    """Name -> lowest version of each requirement that states one.

    >>> floors(["torch>=2.6", "ray[data]>=2.30", "types-PyYAML", "sightline-cam[batch]"])
    {'torch': '2.6', 'ray': '2.30'}
    """
    found: dict[str, str] = {}
    for match in filter(None, map(FLOOR.fullmatch, requirements)):
        name, version = match[1], match[2]
        if name not in found or _order(version) > _order(
            found[name]
        ):  # an extra may need a newer one than the base
            found[name] = version
    return found


def _order(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def main() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    stated = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        stated += extra
    for name, version in sorted(floors(stated).items()):
        if name not in TOOLS:
            print(f"{name}=={version}")


if __name__ == "__main__":
    main()
