"""Boxes from classifiers not trained on the photo (multi-fold training, Cinbis et al., TPAMI 2017)."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from sightline.errors import InputError
from sightline.models.loading import LoadedModel, load_model
from sightline.training.checkpoint import read_checkpoint
from sightline.training.recipe import Recipe, make_recipe
from sightline.training.run import train_recipe
from sightline.types import Dataset, Sample


def fold_numbers(dataset: Dataset, folds: int, seed: int = 0) -> list[int]:
    """The fold 0 … K - 1 of each sample; each class is spread evenly over the folds, by a hash of seed and sample id.

    Independent of order and platform. Raises `InputError` if a class has fewer samples than folds.

    >>> samples = [Sample(f"{c}{i}", Path("x.jpg"), label) for label, c in enumerate("ab") for i in range(4)]
    >>> sorted(fold_numbers(Dataset("d", "train", samples, ("a", "b")), folds=2))
    [0, 0, 0, 0, 1, 1, 1, 1]
    """
    by_class: dict[int | None, list[int]] = defaultdict(list)
    for i, sample in enumerate(dataset.samples):
        by_class[sample.label].append(i)
    numbers = [0] * len(dataset)
    for label, members in by_class.items():
        if len(members) < folds:
            name = "no class" if label is None else dataset.categories[label]
            raise InputError(
                f"{dataset.name} {dataset.split}: {name} has {len(members)} samples; expected at least one per fold "
                f"({folds} folds)"
            )
        members.sort(key=lambda i: hashlib.sha256(f"{seed}:{dataset.samples[i].id}".encode()).digest())
        for rank, i in enumerate(members):
            numbers[i] = rank % folds
    return numbers


def split_folds(dataset: Dataset, folds: int, seed: int = 0) -> list[tuple[Dataset, Dataset]]:
    """For each fold, (training samples, samples to compute boxes for); the two are disjoint."""
    numbers = fold_numbers(dataset, folds, seed)

    def part(k: int, inside: bool) -> Dataset:
        samples: list[Sample] = [
            sample for sample, number in zip(dataset.samples, numbers, strict=True) if (number == k) == inside
        ]
        return replace(dataset, samples=samples)

    return [(part(k, False), part(k, True)) for k in range(folds)]


def fold_weights(out: Path, fold: int) -> Path:
    """Where a refinement in ``out`` keeps the classifier of a fold."""
    return out / f"fold-{fold}" / "weights.safetensors"


def fold_model(
    checkpoint: str | Path, others: Dataset, out: Path, resume: bool = False, progress: bool = True
) -> LoadedModel:
    """A classifier trained only on ``others``, with the recipe of ``checkpoint``.

    The result is stored in ``out``, and reused if it exists. Raises `InputError` for a checkpoint without a recipe.
    """
    weights = out / "weights.safetensors"
    if not weights.exists():
        train_recipe(_recipe_of(checkpoint, out, progress), resume=resume, train=others)
    return load_model(weights)


def _recipe_of(checkpoint: str | Path, out: Path, progress: bool) -> Recipe:
    """A checkpoint's recipe, to be run again into ``out`` without testing, at one photo size."""
    _, description = read_checkpoint(checkpoint)
    if not description.get("recipe"):
        raise InputError(
            f"{checkpoint} does not contain its training recipe; give folds.models, one checkpoint per fold"
        )
    given = description["recipe"]
    given["data"] |= {"test": None, "categories": description["categories"]}
    given["test"] |= {"sizes": [description["preprocess"]["input_hw"][0]]}
    given["run"] |= {"out": str(out), "progress": progress}
    given["augment"]["sizes"] = {
        int(k): v for k, v in given["augment"]["sizes"].items()
    }  # JSON turns integer keys into strings
    return make_recipe(given)
