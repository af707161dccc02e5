"""``sightline models``: the names that ``--model`` takes."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    pattern: Annotated[
        str, typer.Argument(help="Names that match: * and ? stand for anything; timm's begin with timm/.")
    ] = "*",
) -> None:
    """List the models by name, one a line.

    ```console
    sightline models 'resnet*'
    sightline models '*-gap'
    sightline models 'timm/convnext*'
    ```
    """
    from sightline.errors import unknown
    from sightline.models.loading import list_models

    names = list_models(pattern)
    if not names:
        raise unknown("model", pattern, list_models("timm/*" if pattern.startswith("timm/") else "*"))
    typer.echo("\n".join(names))
