"""`sightline.train` and `sightline.refine`: trainings named by the path of their recipe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sightline.training.recipe import read_recipe
from sightline.training.refine import refine as refine_by
from sightline.training.refine_recipe import read_refine_recipe
from sightline.training.run import train_recipe


def train(recipe: str | os.PathLike[str], overrides: Sequence[str] = (), *, resume: bool = False) -> Path:
    """Train after the recipe in a YAML file; the path of the weights.

    ``overrides`` such as ``"optimiser.lr=0.05"`` replace values of the recipe. ``resume``: a run that was cut short
    goes on. Raises `InputError` for what `read_recipe` refuses.

    >>> train("nowhere.yaml")
    Traceback (most recent call last):
    sightline.errors.InputError: no such recipe: nowhere.yaml
    """
    return train_recipe(read_recipe(Path(recipe), overrides), resume=resume)


def refine(
    recipe: str | os.PathLike[str] | None = None, overrides: Sequence[str] = (), *, resume: bool = False
) -> Path:
    """Train a box regressor on the boxes of a classifier's own maps, after a YAML recipe (None: the defaults).

    Returns the path of the weights; ``overrides`` and ``resume`` as in `train`.
    """
    return refine_by(read_refine_recipe(None if recipe is None else Path(recipe), overrides), resume=resume)
