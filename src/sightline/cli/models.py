"""``sightline models``: the names that ``--model`` takes."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    pattern: Annotated[
        str, typer.Argument(help="Names that match: * and ? stand for anything; timm's begin with timm/.")
    ] = "*",
) -> None:
    """List the models by name, one a line; say of one of ours what it is.

    ```console
    sightline models lite0
    sightline models 'resnet*'
    sightline models '*-gap'
    sightline models 'timm/convnext*'
    ```
    """
    from sightline.errors import unknown
    from sightline.models.loading import about_model, list_models

    if (about := about_model(pattern)) is not None:
        typer.echo(about)
        return
    names = list_models(pattern)
    if not names:
        raise unknown("model", pattern, list_models("timm/*" if pattern.startswith("timm/") else "*"))
    typer.echo("\n".join(names))
