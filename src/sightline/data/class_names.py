"""What a model calls the classes of a data set, where the names differ: tables of two columns."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sightline.errors import InputError, unknown
from sightline.types import Dataset

HEADER = ["data set", "model"]
_TABLES = Path(__file__).with_name("tables")


def known_class_names() -> list[str]:
    """The tables that come with this package, for ImageNet's 1,000 classes.

    >>> known_class_names()
    ['cub-200-2011', 'leeds-butterflies']
    """
    return sorted(path.stem for path in _TABLES.glob("*.csv"))


def read_class_names(table: str | Path) -> dict[str, str]:
    """A table's pairs: a class of the data set -> the model's name for it.

    ``table``: one of `known_class_names`, or a CSV file with the header ``data set,model``. Raises `InputError` with
    the nearest names, or naming the line.

    >>> read_class_names("cub-200-2011")["Laysan Albatross"]
    'albatross'
    """
    own = known_class_names()
    path = _TABLES / f"{table}.csv" if str(table) in own else Path(table)
    if not path.is_file():
        raise unknown("table of class names", str(table), own, hint="(or a CSV file)")
    lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    if not lines or lines[0] != HEADER:
        raise InputError(f"{table}, line 1: expected the header {','.join(HEADER)!r}")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != 2 or not all(line):
            raise InputError(
                f"{table}, line {number}: expected a class and its name in the model, got {line}"
            )
    return {line[0]: line[1] for line in lines[1:]}


def way_out(categories: Sequence[str]) -> str:
    """What to do about classes of a data set that a model lacks by name.

    >>> way_out(["yeti"])
    'take a model trained on them (-m), or --class-names TABLE.csv, or --unknown-classes skip'
    """
    fitting = [name for name in known_class_names() if set(categories) & set(read_class_names(name))]
    table = fitting[0] if fitting else "TABLE.csv"
    return f"take a model trained on them (-m), or --class-names {table}, or --unknown-classes skip"


def with_class_names(dataset: Dataset, names: Mapping[str, str]) -> Dataset:
    """The data set with its classes renamed; classes that get the same name become one.

    Raises `InputError` if no class of the data set is in ``names``.

    >>> from sightline.types import Sample
    >>> birds = Dataset("d", "test", [Sample(c, Path(c), i) for i, c in enumerate("abc")], ("Laysan", "Sooty", "Crow"))
    >>> named = with_class_names(birds, {"Laysan": "albatross", "Sooty": "albatross"})
    >>> named.categories, [sample.label for sample in named.samples]
    (('albatross', 'Crow'), [0, 0, 1])
    """
    if not set(names) & set(dataset.categories):
        raise InputError(f"none of the names is a class of {dataset.name}, e.g. {next(iter(names), '')!r}")
    renamed = [names.get(category, category) for category in dataset.categories]
    categories = tuple(dict.fromkeys(renamed))
    labels = [categories.index(name) for name in renamed]
    samples = [
        sample if sample.label is None else replace(sample, label=labels[sample.label])
        for sample in dataset.samples
    ]
    return replace(dataset, samples=samples, categories=categories)
