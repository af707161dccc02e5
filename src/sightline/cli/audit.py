"""``sightline audit``: what a model looks at, as a report to file and a gate for continuous integration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.cli._labels import Method
from sightline.cli._options import (
    BatchSize,
    Categories,
    DataOptions,
    Device,
    Layout,
    Limit,
    ModelName,
    ReportFolder,
    ReportJson,
    Scores,
    Split,
    Threshold,
    View,
    Weights,
)

FAILED = 4


def audit(
    data: Annotated[Path, typer.Option(help="The data set's folder, with labels; boxes if there are any.")],
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    dataset: Layout = None,
    split: Split = "val",
    data_option: DataOptions = None,
    limit: Limit = None,
    method: Method = "gradcam",
    threshold: Threshold = None,
    view: View = "whole",
    checked: Annotated[
        int, typer.Option(min=0, help="Images of the randomisation check and the sensitivity; 0: neither.")
    ] = 8,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(help="Exit with code 4 if this holds: 'heat_in_box<0.5', 'suspects>0'; repeatable."),
    ] = None,
    out: ReportFolder = Path("out/audit"),
    json: ReportJson = False,
    device: Device = "auto",
    batch_size: BatchSize = 16,
) -> None:
    """Audit a model: accuracy, localisation and heat by class, suspects, calibration, sanity checks, limits.

    ```console
    sightline audit --data photos -m mine.safetensors
    sightline audit --data CUB_200_2011 --split test -m mine.safetensors --fail-if 'heat_in_box<0.5'
    ```

    Writes audit.html, which opens without a network, and audit.json beside it. Metrics for --fail-if: accuracy,
    gt_known, heat_in_box, box_area, heat_on_border, gini, entropy, blank, ece, sensitivity, randomisation, suspects,
    sure_suspects, worst_accuracy, worst_heat_in_box. A metric that was not measured fails too.

    Exit code 0: done; 2: a mistake in the command; 3: some images could not be read; 4: a --fail-if holds.
    """
    from sightline.cli import SOME_FAILED
    from sightline.cli._options import load
    from sightline.cli._output import prepare_folder
    from sightline.data import load_dataset, parse_data_options
    from sightline.evaluation.audit import AuditOptions
    from sightline.evaluation.audit import audit as run
    from sightline.evaluation.audit_report import KIND, check_measurable, parse_condition
    from sightline.progress import progress_bar
    from sightline.reports.output_folder import as_json
    from sightline.types import BoxRule

    conditions = fail_if or []
    for condition in conditions:
        parse_condition(condition)
    options = AuditOptions(
        method=method,
        rule=BoxRule.of(threshold=threshold),
        view=view,
        limit=limit,
        batch_size=batch_size,
        checked=checked,
    )
    found = load_dataset(data, dataset, split, **parse_data_options(data, dataset, data_option or []))
    check_measurable(conditions, found)
    prepare_folder(out, KIND)
    loaded = load(model, weights, categories, device, scores)
    with progress_bar("auditing", quiet=json) as progress:
        audited = run(loaded, found, options, progress=progress)
    failed = audited.failed(conditions)
    page = audited.save(out, failed)
    if json:
        typer.echo(as_json({**audited.as_dict(), "failed": failed}))
    else:
        for name, value in audited.metrics.items():
            typer.echo(f"{name:18} {'not measured' if value is None else f'{value:.3f}'}")
        for one in audited.suspects:
            typer.echo(f"suspect: {one.category}: {one.words}")
        typer.echo(f"{page}, audit.json and classes.csv")
    for line in failed:
        typer.echo(f"sightline: failed: {line}", err=True)
    if failed:
        raise typer.Exit(FAILED)
    if audited.skipped:
        raise typer.Exit(SOME_FAILED)
