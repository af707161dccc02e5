"""``sightline train``: train a network from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.cli._options import ResultJson


def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, for example recipes/bundled.yaml.")],
    set_: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a key, e.g. optimiser.lr=0.05; repeatable."
        ),
    ] = [],  # noqa: B006
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume after the run's last finished epoch.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Read the data, build the network and print the plan without training."
        ),
    ] = False,
    json: ResultJson = False,
) -> None:
    """Train a network from a recipe, on image labels only, never on boxes.

    ```console
    sightline train recipes/bundled.yaml --dry-run
    sightline train recipes/bundled.yaml --set optimiser.lr=0.05 --resume
    sightline train recipes/ilsvrc/vgg16-gap.yaml --set run.devices=8 --set run.num_nodes=2 --dry-run
    torchrun --nproc-per-node 8 -m sightline train recipes/ilsvrc/vgg16-gap.yaml
    ```

    The batch size is the total over all devices; see docs/many-devices.md.

    Exit code 0: done; 2: a mistake, or photos that cannot be read; 3: those were left out (data.skip_unreadable=true).
    """
    from sightline.cli._print import end_with_skipped, print_json
    from sightline.files import read_json
    from sightline.training.devices import is_first_process
    from sightline.training.recipe import read_recipe
    from sightline.training.run import plan, train_recipe

    resolved = read_recipe(recipe, set_)
    lines = plan(resolved) if dry_run else []
    weights = None if dry_run else train_recipe(resolved, resume=resume)
    if not is_first_process():
        return
    if json:
        print_json({"plan": lines} if dry_run else {"weights": str(weights)})
    else:
        typer.echo("\n".join(lines) if dry_run else f"weights: {weights}")
    if weights is not None:
        end_with_skipped(read_json(weights.with_name("manifest.json"))["skipped"])
