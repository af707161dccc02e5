"""``sightline metrics``: the metrics of `sightline faithfulness`."""

from __future__ import annotations

from typing import Annotated

import typer

from sightline.cli._options import TableJson


def metrics(
    name: Annotated[str | None, typer.Argument(help="One metric: its columns and what they mean.")] = None,
    json: TableJson = False,
) -> None:
    """List the metrics of `sightline faithfulness`, or describe one.

    ```console
    sightline metrics
    sightline metrics road
    ```
    """
    import inspect

    from sightline.cli._print import print_table
    from sightline.metrics.registry import get_metric, list_metrics

    if name is not None:
        metric = get_metric(name)
        description = (inspect.getdoc(metric.function) or "").partition(">>>")[0].strip()
        typer.echo(f"{name}\n\n{description}\n")
        for column in metric.columns.values():
            typer.echo(f"  {column.heading} {column.good}: {column.says}")
        return
    rows = []
    for one, summary in list_metrics().items():
        metric = get_metric(one)
        needs = [*metric.needs, *([] if metric.default else ["to be asked for"])]
        rows.append((one, summary, ", ".join(needs)))
    print_table(("metric", "what it measures", "needs"), rows, json)
