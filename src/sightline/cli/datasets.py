"""``sightline datasets``: the layouts that can be read, and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from sightline.cli._options import TableJson


def datasets(
    name: Annotated[str | None, typer.Argument(help="One data set: its layout and its options.")] = None,
    json: TableJson = False,
) -> None:
    """List the data sets for `--dataset`, or describe one.

    ```console
    sightline datasets
    sightline datasets cub
    ```
    """
    import inspect

    from sightline.cli._print import print_table
    from sightline.data import get_dataset, list_datasets

    if name is not None:
        reader = get_dataset(name)
        description = (inspect.getdoc(reader.read) or "").partition(">>>")[0].strip()
        typer.echo(f"{name}\n\n{description}\n")
        for option, parameter in reader.options.items():
            default = parameter.default if isinstance(parameter.default, (str, bool, int, float)) else "…"
            typer.echo(f"  --data-option {option}={default}")
        return
    readers = map(get_dataset, list_datasets())
    rows = [(r.name, r.summary, ", ".join(r.options)) for r in readers]
    print_table(("data set", "what it is", "options"), rows, json)
