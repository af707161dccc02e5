"""ILSVRC's small files: the classes, their names, and the devkit's class numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sightline.data.adapters.mat import read_structs
from sightline.data.reading import at, distinct, rows, whole
from sightline.errors import InputError
from sightline.files import reading

# Two pairs of classes share their first synonym; these are torchvision's names for the second of each.
_TORCHVISION = {"n02012849": "crane bird", "n03710721": "maillot tank suit"}


class DevkitFiles:
    """Finds a file next to or inside ``ILSVRC``, or in the ``data`` folder of a devkit there."""

    def __init__(self, top: Path) -> None:
        beside = [top, top.parent] if top.name == "ILSVRC" else [top]
        devkits = [data for base in beside for data in sorted(base.glob("*devkit*/data"))]
        self.top, self.places = top, [*beside, *devkits]

    def find(self, *patterns: str) -> Path | None:
        """The first file that matches, or None."""
        found = (
            path for pattern in patterns for place in self.places for path in sorted(place.glob(pattern))
        )
        return next(found, None)

    def require(self, what: str, *patterns: str) -> Path:
        """The first file that matches, or `InputError`."""
        path = self.find(*patterns)
        if path is None:
            raise InputError(
                f"{self.top}: {what} is missing; expected {' or '.join(patterns)} here or in a devkit's data"
            )
        return path


def read_categories(devkit: DevkitFiles) -> dict[str, str]:
    """WordNet id -> name (its first synonym), from the first available source, else from the train folders."""
    mapping = devkit.find("LOC_synset_mapping.txt")
    if mapping:
        words = {wnid: text for _, (wnid, text) in rows(mapping, "wnid words", rest=True)}
    elif devkit.find("map_clsloc.txt", "meta_clsloc.mat", "meta.mat"):
        words = {wnid: text for _, wnid, text in _devkit_classes(devkit)}
    else:
        train = devkit.top / "Data" / "CLS-LOC" / "train"
        words = {path.name: path.name for path in train.glob("n*/")}
    if not words:
        raise InputError(
            f"{devkit.top}: no list of classes; expected LOC_synset_mapping.txt, a devkit, or train folders"
        )
    names = [_TORCHVISION.get(wnid, text.split(",")[0].strip()) for wnid, text in words.items()]
    return dict(zip(words, distinct(names, list(words)), strict=True))


def read_devkit_ids(devkit: DevkitFiles) -> dict[int, str]:
    """The devkit's class number (1 to 1000) -> WordNet id."""
    return {number: wnid for number, wnid, _ in _devkit_classes(devkit)}


def _devkit_classes(devkit: DevkitFiles) -> Iterator[tuple[int, str, str]]:
    """(number, wnid, words) of each class from the devkit's table."""
    path = devkit.require("the devkit's table of classes", "map_clsloc.txt", "meta_clsloc.mat", "meta.mat")
    if path.suffix == ".txt":
        for line, (wnid, number, words) in rows(path, "wnid number name"):
            yield whole(number, at(path, line), "class number"), wnid, words.replace("_", " ")
    else:
        yield from _mat_classes(path)


def _mat_classes(path: Path) -> Iterator[tuple[int, str, str]]:
    try:
        synsets = read_structs(path, "synsets")
    except InputError as error:
        raise InputError(f"{path} is not the devkit's table of synsets ({_without(path, error)})") from None
    fields = synsets[0]
    number = next((name for name in fields if name.startswith("ILSVRC") and name.endswith("_ID")), "")
    words = next((name for name in ("words", "name") if name in fields), "")
    if not (number and words and "WNID" in fields):
        raise InputError(f"{path} is not the devkit's table of synsets (it has {', '.join(fields)})")
    for synset in synsets:
        # meta.mat of 2012 also lists the 860 synsets above the classes: those have children.
        if "num_children" not in fields or synset["num_children"] == 0:
            with reading(path, "the devkit's table of synsets"):
                yield int(synset[number]), str(synset["WNID"]), str(synset[words]).replace("_", " ")


def _without(path: Path, error: Exception) -> str:
    """The reason in a message that begins with the file's name."""
    return str(error).removeprefix(f"{path} ").removeprefix("cannot be read: ")
