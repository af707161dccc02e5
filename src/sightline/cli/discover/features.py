"""``sightline discover features``: GAP features of any network, and a linear SVM on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from sightline.cli._options import Categories, Device, Scores
from sightline.cli.discover._common import (
    CACHE,
    DATA,
    MODEL,
    OUTPUT,
    BatchSize,
    Cache,
    DatasetName,
    HeldPerClass,
    Json,
    OnlyClass,
    View,
)

if TYPE_CHECKING:
    from sightline.discovery.features import Features, Source
    from sightline.models.loading import LoadedModel
    from sightline.types import Dataset


def features(
    paths: Annotated[
        Optional[list[str]], typer.Argument(help="Photos, folders or patterns: extract their features.")
    ] = None,
    data: Annotated[
        Optional[Path],
        typer.Option(
            help="Use a data set instead: its folder (or Tiny ImageNet's zip).", rich_help_panel=DATA
        ),
    ] = None,
    dataset: DatasetName = None,
    train: Annotated[
        str, typer.Option(help="Split to extract features from and to train on.", rich_help_panel=DATA)
    ] = "train",
    test: Annotated[
        Optional[str],
        typer.Option(help="Fit a linear SVM and test it on this split.", rich_help_panel=DATA),
    ] = None,
    choose_threshold_on: Annotated[
        Optional[str],
        typer.Option(
            help="Choose the maps' threshold on this split. [default: 0.2, fixed]", rich_help_panel=DATA
        ),
    ] = None,
    held_per_class: HeldPerClass = 30,
    only_class: OnlyClass = None,
    new_classes: Annotated[
        bool,
        typer.Option("--new-classes", help="Only classes unknown to the first model.", rich_help_panel=DATA),
    ] = False,
    model: Annotated[
        Optional[list[str]],
        typer.Option(
            "--model", "-m", help="As for `explain`; repeatable. [default: lite0]", rich_help_panel=MODEL
        ),
    ] = None,
    weights: Annotated[
        Optional[list[str]],
        typer.Option(help="One per --model, in order; - for its own.", rich_help_panel=MODEL),
    ] = None,
    categories: Categories = None,
    scores: Scores = "auto",
    method: Annotated[
        str,
        typer.Option(
            help="cam, or cam:nwc=true to drop negative weights from the maps.", rich_help_panel=MODEL
        ),
    ] = "cam",
    view: View = "whole",
    batch_size: BatchSize = 64,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the cross-validation folds.")] = 0,
    form: Annotated[
        str,
        typer.Option("--format", help="Format of the feature files: npz or parquet.", rich_help_panel=OUTPUT),
    ] = "npz",
    cache: Cache = CACHE,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the features, table, picture and manifest.json.", rich_help_panel=OUTPUT
        ),
    ] = Path("out/features"),
    json: Json = False,
) -> None:
    """Save GAP features; with --test, fit a linear SVM on them and map its classes with its weights.

    ```console
    sightline discover features photos/ --model resnet50 --format parquet
    sightline discover features --data my-classes/ --train train --test val --model resnet50
    sightline discover features --data tiny-imagenet-40.zip --train train-fit --test val \\
        --choose-threshold-on train-heldout --new-classes --model runs/thirty/weights.safetensors
    ```

    Exit codes: 0 success; 2 usage error; 3 some images could not be read (the others are done).
    """
    from sightline.cli._options import load_models
    from sightline.cli._output import prepare_folder
    from sightline.errors import InputError, unknown

    if (data is None) == (not paths):
        raise InputError("give either photos or --data with a data set")
    if form not in ("npz", "parquet"):
        raise unknown("format", form, ["npz", "parquet"])
    prepare_folder(out, "discover")
    given = [None if file == "-" else file for file in weights or []]
    models = load_models(model or [], given, categories, device, scores)
    options: dict[str, Any] = {"view": view, "batch_size": batch_size, "cache": cache, "progress": not json}
    if data is None:
        from sightline.data.items import expand_paths

        _extract_only(expand_paths(paths or []), None, models, out, form, **options)
        return
    from sightline.data import load_dataset
    from sightline.discovery.subsets import only_classes

    wanted = only_class
    if new_classes:
        if only_class:
            raise InputError("give --class or --new-classes, not both")
        first = load_dataset(data, dataset, train, held_per_class=held_per_class)
        wanted = _unknown_to(next(iter(models.values())), first)
    splits = [
        only_classes(load_dataset(data, dataset, split, held_per_class=held_per_class), wanted)
        if split
        else None
        for split in (train, test, choose_threshold_on)
    ]
    assert splits[0] is not None
    if splits[1] is None:
        if choose_threshold_on is not None:
            raise InputError("--choose-threshold-on needs --test")
        _extract_only(splits[0].samples, splits[0], models, out, form, **options)
        return
    from sightline.cli.discover._common import finish
    from sightline.discovery.generic_features import generic_features

    result, evaluated = generic_features(
        models, splits[0], splits[1], choose_on=splits[2], method=method, seed=seed, **options
    )
    saved = []
    for one in evaluated:
        for split in splits[:2]:
            assert split is not None
            saved.append(
                _save(one.features[split.split], split, out / f"{_file_safe(one.name)}-{split.split}.{form}")
            )
        saved.append(one.head.save(out / f"{_file_safe(one.name)}-svm.npz"))
    finish(result, out, json, saved)


def _extract_only(
    sources: Sequence[Source],
    split: Dataset | None,
    models: Mapping[str, LoadedModel],
    out: Path,
    form: str,
    **options: Any,
) -> None:
    """Save one feature file per model; for a split, with its labels and class names."""
    from sightline.cli._print import end_with_skipped
    from sightline.discovery.features import extract_features

    errors: dict[str, str] = {}
    for name, model in models.items():
        found = extract_features(model, sources, **options)
        tail = "" if split is None else f"-{split.split}"
        file = _save(found, split, out / f"{_file_safe(name)}{tail}.{form}")
        layer = found.key["layer"]
        typer.echo(f"{file}: {len(found)} images, {found.values.shape[1]} features of layer {layer}")
        errors.update(found.errors)
    end_with_skipped(errors)


def _save(found: Features, split: Dataset | None, path: Path) -> Path:
    if split is None:
        return found.save(path)
    labels = found.of([-1 if sample.label is None else sample.label for sample in split.samples])
    names = ["" if label < 0 else split.categories[label] for label in labels]
    return found.save(path, label=labels, category=names)


def _file_safe(name: str) -> str:
    """A model's name, safe for use in a file name.

    >>> _file_safe("timm/resnet18")
    'timm-resnet18'
    """
    return "".join(c if c.isalnum() or c in "._-+" else "-" for c in name)


def _unknown_to(model: LoadedModel, dataset: Dataset) -> list[str]:
    """The data set's classes whose names the model does not know."""
    from sightline.errors import InputError

    known = {part.strip().lower() for name in model.categories or () for part in name.split(",")}
    new = [
        name for name in dataset.categories if not known & {part.strip().lower() for part in name.split(",")}
    ]
    if not new or model.categories is None:
        why = "has no class names" if model.categories is None else f"knows every class of {dataset.name}"
        raise InputError(f"--new-classes: {model.name} {why}; choose classes with --class")
    return new
