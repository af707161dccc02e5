"""``sightline faithfulness``: do the maps show what the network uses?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sightline.cli._options import (
    DATA,
    BatchSize,
    Categories,
    ClassNames,
    CommonLayers,
    CommonLayout,
    CommonOptions,
    DataOptions,
    Device,
    Flip,
    HeldPerClass,
    InputSize,
    Layout,
    Limit,
    Methods,
    ModelName,
    OnBad,
    ReportFolder,
    ReportJson,
    Resamples,
    Scores,
    Split,
    UnknownClasses,
    View,
    Weights,
)

if TYPE_CHECKING:
    from sightline.types import Dataset

RANDOMISED = 4  # images: the picture shows the first; the correlations are means over all
METRICS = "Metrics"


def faithfulness(
    data: Annotated[Path, typer.Option(help="A folder of photos, or a data set.", rich_help_panel=DATA)],
    dataset: Layout = None,
    split: Split = "val",
    held_per_class: HeldPerClass = 30,
    data_option: DataOptions = None,
    class_names: ClassNames = None,
    limit: Limit = None,
    on_bad: OnBad = "refuse",
    unknown_classes: UnknownClasses = "refuse",
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    method: Methods = None,
    option: CommonOptions = None,
    layer: CommonLayers = None,
    layout: CommonLayout = "auto",
    flip: Flip = False,
    view: View = "whole",
    input_size: InputSize = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="drop, insertion, deletion, road, pointing, sensitivity, or one of a plugin's; repeatable. "
            "[default: all but sensitivity]",
            rich_help_panel=METRICS,
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Steps of insertion and deletion.", rich_help_panel=METRICS)
    ] = 56,
    randomise: Annotated[
        bool,
        typer.Option(
            "--randomise",
            help="Also show how the maps change as the network's weights are randomised.",
            rich_help_panel=METRICS,
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of noise and random maps.", rich_help_panel=METRICS)
    ] = 0,
    resamples: Resamples = 2000,
    out: ReportFolder = Path("out/faithfulness"),
    json: ReportJson = False,
    device: Device = "auto",
    batch_size: BatchSize = 32,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read photos.")] = 1,
) -> None:
    """Score how faithful a model's maps are, compared with a random and a centre map, with intervals.

    Any folder of photos will do; metrics that need true boxes are left out if there are none.

    ```console
    sightline faithfulness --data photos/ --model squeezenet1_1 --method cam --method layercam --limit 40
    sightline faithfulness --data tiny-imagenet-40.zip --metric road --metric pointing --randomise
    sightline faithfulness --data photos/ --plugin mine.py --metric mine --method gradcam
    ```

    Exit code 0: done; 2: a mistake in the command; 3: some images were skipped, the others are done.
    """
    from sightline.cli._options import load
    from sightline.cli._output import prepare_folder
    from sightline.cli._report import finish
    from sightline.evaluation.faithfulness import FaithfulnessOptions, evaluate_faithfulness, first_images
    from sightline.evaluation.randomisation import randomisation_check
    from sightline.methods.spec import parse_methods
    from sightline.progress import progress_bar

    specs = parse_methods(method or ["cam"], option or [], layer or [], flip, layout)
    options = FaithfulnessOptions(
        limit, view, input_size, on_bad, steps, seed, batch_size, workers, resamples, unknown_classes
    )
    photos = _dataset_or_photos(data, dataset, split, held_per_class, data_option or [], class_names)
    prepare_folder(out, "faithfulness")
    loaded = load(model, weights, categories, device, scores)
    with progress_bar("scoring", quiet=json) as progress:
        report = evaluate_faithfulness(
            loaded, photos, specs, metrics=metric or None, options=options, progress=progress
        )
    if randomise:
        images = first_images(loaded, photos, RANDOMISED, view, input_size)
        report.randomisation = randomisation_check(loaded, images, specs, seed=seed)
    finish(report, out, json)


def _dataset_or_photos(
    data: Path,
    dataset: str | None,
    split: str,
    held_per_class: int,
    pairs: list[str],
    class_names: str | None = None,
) -> Dataset:
    """A data set in its layout, or a plain folder of photos."""
    from sightline.data import detect_dataset, load_dataset, parse_data_options
    from sightline.data.items import IMAGE_SUFFIXES
    from sightline.errors import InputError
    from sightline.evaluation.faithfulness import photo_folder

    plain = data.is_dir() and any(path.suffix.lower() in IMAGE_SUFFIXES for path in data.iterdir())
    if dataset is None and plain:
        try:
            detect_dataset(data)
        except InputError:  # it has no layout: just photos
            if split not in ("val", "all"):
                raise InputError(f"{data} is a plain folder of photos and has no split {split!r}") from None
            return photo_folder(data)
    options = parse_data_options(data, dataset, pairs)
    return load_dataset(
        data, dataset, split, held_per_class=held_per_class, class_names=class_names, **options
    )
