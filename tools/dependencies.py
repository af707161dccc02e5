"""What sightline installs: a table of licences, or a software bill of materials (CycloneDX 1.6).

python tools/dependencies.py --extras evaluate,batch        # `make licences`: Markdown
python tools/dependencies.py --sbom sbom.json               # `make sbom`

Read from the metadata of what is installed here, following the requirements of sightline-cam and of the extras that
are named ("all": those of the all extra).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import uuid
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NAME = "sightline-cam"
# Free text and classifiers, as SPDX identifiers; the first that matches counts.
KNOWN = (
    (r"apache", "Apache-2.0"), (r"mozilla|mpl", "MPL-2.0"), (r"python software foundation|psf|matplotlib", "PSF-2.0"),
    (r"isc", "ISC"), (r"bsd.3|3.clause|enthought", "BSD-3-Clause"), (r"freebsd|bsd.2", "BSD-2-Clause"),
    (r"bsd|kiwi", "BSD-3-Clause"), (r"nvidia", "LicenseRef-NVIDIA-Proprietary"), (r"\bmit\b", "MIT"),
)  # fmt: skip


@dataclass(frozen=True)
class Package:
    """One installed distribution; ``needs``: the names of those that it requires."""

    name: str
    version: str
    licence: str
    needs: tuple[str, ...]


def licence_of(found: Distribution) -> str:
    """Its SPDX expression, or what its metadata or licence file amount to; "not stated" if they say nothing."""
    metadata = found.metadata
    if stated := metadata.get("License-Expression"):
        return str(stated)
    with contextlib.suppress(InvalidLicenseExpression):  # many put one into the older field
        return str(canonicalize_license_expression(metadata.get("License") or ""))
    words = [str(metadata.get("License") or "")[:400]]
    words += [one for one in metadata.get_all("Classifier") or () if one.startswith("License ::")]
    for file in found.files or ():
        if re.match(r"(licen[cs]e|copying)", file.name, re.I):
            words.append(Path(str(file.locate())).read_text(errors="replace")[:400])
    return next((name for text in words for how, name in KNOWN if re.search(how, text, re.I)), "not stated")


def packages(extras: frozenset[str]) -> tuple[list[Package], list[str]]:
    """What `NAME` with these extras installs, sorted, itself first; and what is required and not installed here."""
    found: dict[str, Package] = {}
    absent, todo = set(), [(NAME, extras)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            dist = distribution(name)
        except PackageNotFoundError:
            absent.add(name)
            continue
        required = _required(dist, wanted)
        todo += [(canonicalize_name(one.name), frozenset(one.extras)) for one in required]
        needs = {canonicalize_name(one.name) for one in required} - {name}
        before = found[name].needs if name in found else ()
        found[name] = Package(name, dist.version, licence_of(dist), tuple(sorted({*before, *needs})))
    first = found.pop(NAME)
    return [first, *(found[name] for name in sorted(found))], sorted(absent)


def _required(dist: Distribution, extras: frozenset[str]) -> list[Requirement]:
    every = [Requirement(text) for text in dist.requires or ()]
    environments = [{"extra": extra} for extra in ("", *extras)]
    return [one for one in every if one.marker is None or any(map(one.marker.evaluate, environments))]


def table(found: list[Package]) -> str:
    """Markdown: one row per package, and how often each licence occurs."""
    lines = ["| package | version | licence |", "|---|---|---|"]
    lines += [f"| {one.name} | {one.version} | {one.licence} |" for one in found]
    counts = Counter(one.licence for one in found).most_common()
    shown = "; ".join(f"{licence} {count}" for licence, count in counts)
    return "\n".join([*lines, "", f"{len(found)} packages: {shown}"])


def bill(found: list[Package]) -> dict[str, Any]:
    """CycloneDX 1.6, the same for the same packages."""
    reference = {one.name: f"pkg:pypi/{one.name}@{one.version}" for one in found}

    def component(one: Package) -> dict[str, Any]:
        return {
            "type": "application" if one.name == NAME else "library",
            "bom-ref": reference[one.name],
            "name": one.name,
            "version": one.version,
            "purl": reference[one.name],
            "licenses": [{"expression": one.licence}] if one.licence != "not stated" else [],
        }

    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, ' '.join(reference.values()))}",
        "version": 1,
        "metadata": {"component": component(found[0])},
        "components": [component(one) for one in found[1:]],
        "dependencies": [
            {"ref": reference[one.name], "dependsOn": [reference[name] for name in one.needs if name in reference]}
            for one in found
        ],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--extras", default="", help="comma-separated names of extras")
    parser.add_argument("--sbom", type=Path, help="write CycloneDX JSON here instead of the table")
    given = parser.parse_args()
    found, absent = packages(frozenset(filter(None, given.extras.split(","))))
    if absent:
        print(f"required and not installed here: {', '.join(absent)}", file=sys.stderr)
    if given.sbom:
        given.sbom.write_text(json.dumps(bill(found), indent=1) + "\n")
        print(f"{given.sbom}: {len(found)} packages")
    else:
        print(table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
