"""Print every package that `.[dev]` installs at the lowest version that pyproject.toml states.

python tools/oldest.py > oldest.txt

An extra that needs a newer version of a package than the base does (onnx) is left out: with it, the base's lowest
version would not be the one that is tested. Its tests skip.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FLOOR = re.compile(r"([A-Za-z0-9._-]+(?:\[[^\]]*\])?)>=([0-9][0-9A-Za-z.]*)")
NESTED = re.compile(r"sightline-cam\[([^\]]*)\]")
# What only checks, documents or serves the developer: the pinned versions of constraints.txt are as good as the oldest.
TOOLS = {"ruff", "mypy", "pre-commit", "mkdocs", "mkdocs-material", "mkdocstrings", "mkdocstrings-python"}


def floors(requirements: list[str]) -> dict[str, str]:
    """Name -> lowest version of each requirement that states one.

    >>> floors(["torch>=2.6", "ray[data]>=2.30", "types-PyYAML", "sightline-cam[batch]"])
    {'torch': '2.6', 'ray[data]': '2.30'}
    """
    found: dict[str, str] = {}
    for match in filter(None, map(FLOOR.fullmatch, requirements)):
        name, version = match[1], match[2]
        if name not in found or _order(version) > _order(found[name]):
            found[name] = version
    return found


def oldest(base: list[str], extras: dict[str, list[str]], wanted: str = "dev") -> dict[str, str]:
    """Name -> lowest version of the base and of what the extra ``wanted`` leads to.

    >>> oldest(["torch>=2.6"], {"dev": ["sightline-cam[a,b]", "x>=1"], "a": ["y>=2"], "b": ["torch>=3", "z>=1"]})
    {'torch': '2.6', 'x': '1', 'y': '2'}
    """
    stated = floors(base)
    found, waiting, seen = dict(stated), [wanted], {wanted}
    while waiting:
        requirements = extras[waiting.pop()]
        lowest = floors(requirements)
        if any(_order(version) > _order(stated.get(name, version)) for name, version in lowest.items()):
            continue
        found = floors([f"{name}>={version}" for name, version in [*found.items(), *lowest.items()]])
        nested = [
            name
            for match in filter(None, map(NESTED.fullmatch, requirements))
            for name in match[1].split(",")
        ]
        waiting += [name for name in nested if name not in seen]
        seen.update(nested)
    return found


def _order(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def main() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for name, version in sorted(oldest(project["dependencies"], project["optional-dependencies"]).items()):
        if name not in TOOLS:
            print(f"{name}=={version}")


if __name__ == "__main__":
    main()
