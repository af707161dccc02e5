"""``sightline train RECIPE.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, for example recipes/bundled.yaml.")],
    set_: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. optimiser.lr=0.05; repeatable."),
    ] = [],  # noqa: B006
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last finished epoch of this run.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Read the data, build the network, print the plan; train nothing."),
    ] = False,
) -> None:
    """Train a network on image labels after a recipe; boxes are never looked at.

    ```console
    sightline train recipes/bundled.yaml --dry-run
    sightline train recipes/bundled.yaml --set optimiser.lr=0.05 --resume
    ```
    """
    from sightline.training.recipe import read_recipe
    from sightline.training.run import plan, train_recipe

    resolved = read_recipe(recipe, set_)
    if dry_run:
        for line in plan(resolved):
            typer.echo(line)
        return
    weights = train_recipe(resolved, resume=resume)
    typer.echo(f"weights: {weights}")
