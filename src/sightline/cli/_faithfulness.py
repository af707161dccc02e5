"""What ``evaluate --faithfulness`` does besides reading its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.data import load_dataset
from sightline.data.items import IMAGE_SUFFIXES
from sightline.errors import InputError
from sightline.evaluation.faithfulness import DEFAULT, evaluate_faithfulness, first_images, photo_folder
from sightline.evaluation.faithfulness_report import FaithfulnessReport
from sightline.evaluation.randomisation import Randomisation, randomisation_check
from sightline.evaluation.run import Progress
from sightline.methods.spec import MethodSpec
from sightline.models.loading import LoadedModel
from sightline.types import Dataset

RANDOMISED = 4  # images: the picture shows the first, the correlations are means


def dataset_or_photos(data: Path, dataset: str | None, split: str, options: Mapping[str, Any]) -> Dataset:
    """A data set in its layout; a folder that holds photos itself, without any layout, is read as it is."""
    plain = data.is_dir() and any(path.suffix.lower() in IMAGE_SUFFIXES for path in data.iterdir())
    if dataset is None and plain:
        return photo_folder(data)
    return load_dataset(data, dataset, split, **options)


def one_model(models: Mapping[str, LoadedModel]) -> LoadedModel:
    """The model, where there is but one."""
    if len(models) > 1:
        raise InputError(f"--faithfulness takes one --model; got {', '.join(models)}")
    return next(iter(models.values()))


def measured(
    model: LoadedModel,
    dataset: Dataset,
    specs: Sequence[MethodSpec],
    metrics: Sequence[str] | None,
    progress: Progress,
    **choices: Any,
) -> FaithfulnessReport:
    """The table."""
    return evaluate_faithfulness(
        model, dataset, specs, metrics=metrics or DEFAULT, progress=progress, **choices
    )


def randomised(
    model: LoadedModel,
    dataset: Dataset,
    specs: Sequence[MethodSpec],
    seed: int,
    view: str,
    input_size: int | None,
) -> Randomisation:
    """The randomisation check on the first images."""
    images = first_images(model, dataset, RANDOMISED, view, input_size)
    return randomisation_check(model, images, specs, seed=seed)
