"""Subsets of a data set: some of its classes, several of its splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sightline.boxes import areas
from sightline.errors import InputError
from sightline.targets import find_category
from sightline.types import Dataset


def only_classes(dataset: Dataset, names: Sequence[str] | None) -> Dataset:
    """The samples of some classes, relabelled in the order of ``names``; None keeps every labelled sample.

    Raises `InputError` for a class that is unknown, named twice or without images, and if nothing is labelled.

    >>> from pathlib import Path
    >>> from sightline.types import Sample
    >>> samples = [Sample("x", Path("x.jpg"), 0), Sample("y", Path("y.jpg"), 1)]
    >>> only_classes(Dataset("d", "val", samples, ("tabby", "lion, king of beasts")), ["lion"]).samples[0].label
    0
    """
    chosen = range(len(dataset.categories)) if names is None else [_index(n, dataset) for n in names]
    if len(set(chosen)) < len(chosen):
        raise InputError(f"a class is named twice in {', '.join(names or ())}")
    number = {label: place for place, label in enumerate(chosen)}
    samples = [replace(s, label=number[s.label]) for s in dataset.samples if s.label in number]
    where = f"{dataset.name} {dataset.split}"
    categories = tuple(dataset.categories[label] for label in chosen)
    present = {sample.label for sample in samples}
    for label, category in enumerate(categories):
        if label not in present and names is not None:
            raise InputError(f"{where} has no image of class {category!r}")
    if not samples:
        raise InputError(f"{where} has no labelled image; expected classes, e.g. one folder per class")
    return Dataset(dataset.name, dataset.split, samples, categories)


def _index(name: str, dataset: Dataset) -> int:
    return find_category(name, dataset.categories)


def join_splits(datasets: Sequence[Dataset]) -> Dataset:
    """Several splits joined into one; they must have the same classes and share no image."""
    first = datasets[0]
    if any(other.categories != first.categories for other in datasets):
        raise InputError(f"{first.name}: the splits to join differ in their classes")
    together = Dataset(
        first.name,
        "+".join(d.split for d in datasets),
        [s for d in datasets for s in d.samples],
        first.categories,
    )
    if len({str(s.source) for s in together.samples}) < len(together.samples):
        raise InputError(f"{first.name}: the splits {together.split} share images; give disjoint splits")
    return together


def check_disjoint(train: Dataset, test: Dataset) -> None:
    """Raise `InputError` if an image is in both the training and the test split.

    >>> from pathlib import Path
    >>> from sightline.types import Sample
    >>> d = Dataset("d", "val", [Sample("x", Path("x.jpg"), 0)], ("a",))
    >>> check_disjoint(d, d)
    Traceback (most recent call last):
    sightline.errors.InputError: 1 image of d val is also in the training split val; test on others
    """
    shared = {str(s.source) for s in train.samples} & {str(s.source) for s in test.samples}
    if shared:
        count = f"{len(shared)} image{'s' * (len(shared) != 1)}"
        verb = "are" if len(shared) != 1 else "is"
        raise InputError(
            f"{count} of {test.name} {test.split} {verb} also in the training split {train.split}; test on others"
        )


def labels_of(dataset: Dataset) -> list[int]:
    """The label of each sample; raises `InputError` for an unlabelled one."""
    missing = next((s for s in dataset.samples if s.label is None), None)
    if missing is not None:
        raise InputError(f"{dataset.name} {dataset.split}: {missing.id} has no label")
    return [s.label for s in dataset.samples if s.label is not None]


def true_boxes(dataset: Dataset) -> Tensor:
    """The true box (N, 4) of each sample; the largest if there are several.

    Raises `InputError` for a sample without one.
    """
    found = []
    for sample in dataset.samples:
        if len(sample.boxes_xyxy) == 0:
            raise InputError(f"{dataset.name} {dataset.split}: {sample.id} has no true box")
        found.append(sample.boxes_xyxy[int(areas(sample.boxes_xyxy).argmax())])
    return torch.stack(found)
