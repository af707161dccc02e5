"""``sightline models``: the names that ``--model`` accepts."""

from __future__ import annotations

from typing import Annotated

import typer

from sightline.cli._options import TableJson


def models(
    pattern: Annotated[
        str, typer.Argument(help="A pattern with * and ?; timm's names begin with timm/.")
    ] = "*",
    json: TableJson = False,
) -> None:
    """List the models by name, one per line, or describe a built-in one.

    ```console
    sightline models lite0
    sightline models 'resnet*'
    sightline models '*-gap'
    sightline models 'timm/convnext*'
    ```
    """
    from sightline.cli._print import print_json
    from sightline.errors import unknown
    from sightline.models.loading import about_model, list_models

    if (about := about_model(pattern)) is not None:
        typer.echo(about)
        return
    names = list_models(pattern)
    if not names:
        raise unknown("model", pattern, list_models("timm/*" if pattern.startswith("timm/") else "*"))
    if json:
        print_json(names)
    else:
        typer.echo("\n".join(names))
