"""A part of a split set aside, the same part on every machine: there thresholds are chosen."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace

from sightline.errors import InputError
from sightline.types import Dataset, Sample

PARTS = ("-fit", "-heldout")  # what the two parts of a split are called after it
HALVES = ("-choose", "-report")


def hold_out(dataset: Dataset, per_class: int = 30, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Split into (the rest, ``per_class`` samples of each class), chosen by a hash of seed and sample id.

    The choice does not depend on order or platform; the parts are disjoint. Only ids and labels are read. Raises
    `InputError` if a class has no more than ``per_class`` samples.

    >>> from pathlib import Path
    >>> samples = [Sample(f"{c}{i}", Path("x.jpg"), label) for label, c in enumerate("ab") for i in range(5)]
    >>> fit, held = hold_out(Dataset("d", "train", samples, ("a", "b")), per_class=2)
    >>> len(fit), [s.label for s in held.samples], fit.split, held.split
    (6, [0, 0, 1, 1], 'train-fit', 'train-heldout')
    """
    by_class: dict[int | None, list[Sample]] = defaultdict(list)
    for sample in dataset.samples:
        by_class[sample.label].append(sample)
    held: set[str] = set()
    for label, members in by_class.items():
        if len(members) <= per_class:
            name = "no class" if label is None else dataset.categories[label]
            raise InputError(
                f"{dataset.name} {dataset.split}: {name} has {len(members)} samples; "
                f"holding out {per_class} leaves none"
            )
        members.sort(key=lambda sample: hashlib.sha256(f"{seed}:{sample.id}".encode()).digest())
        held.update(sample.id for sample in members[:per_class])
    parts = [[s for s in dataset.samples if (s.id in held) == inside] for inside in (False, True)]
    return (
        replace(dataset, samples=parts[0], split=f"{dataset.split}-fit"),
        replace(dataset, samples=parts[1], split=f"{dataset.split}-heldout"),
    )


def halves(dataset: Dataset, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Split into two halves, by a hash of seed and file name: one to choose settings on, one to report.

    For data sets with few images per class. The choice depends neither on order nor on platform, nor on the layout in
    which the same files are read; all samples of one file are in the same half.

    >>> from pathlib import Path
    >>> samples = [Sample(f"photos/{i}.jpg", Path(f"{i}.jpg"), 0) for i in range(6)]
    >>> choose, report = halves(Dataset("d", "val", samples, ("a",)))
    >>> [s.id for s in choose.samples], len(report), choose.split, report.split
    (['photos/1.jpg', 'photos/2.jpg', 'photos/3.jpg', 'photos/5.jpg'], 2, 'val-choose', 'val-report')
    """
    chosen: list[Sample] = []
    others: list[Sample] = []
    for sample in dataset.samples:
        name = sample.id.rsplit("/", 1)[-1]
        first = hashlib.sha256(f"{seed}:{name}".encode()).digest()[0] < 128
        (chosen if first else others).append(sample)
    return (
        replace(dataset, samples=chosen, split=f"{dataset.split}{HALVES[0]}"),
        replace(dataset, samples=others, split=f"{dataset.split}{HALVES[1]}"),
    )
