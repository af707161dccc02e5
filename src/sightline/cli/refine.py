"""``sightline refine [RECIPE.yaml]``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Optional

import typer

from sightline.cli._options import ResultJson


def refine(
    recipe: Annotated[
        Optional[Path], typer.Argument(help="A YAML recipe, for example recipes/refine-bundled.yaml.")
    ] = None,
    set_: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. teacher.spread=0.3; repeatable."),
    ] = [],  # noqa: B006
    model: Annotated[
        Optional[str], typer.Option("--model", "-m", help="The trained classifier: a checkpoint, or bundled.")
    ] = None,
    data: Annotated[Optional[Path], typer.Option(help="The folder or archive of the data.")] = None,
    dataset: Annotated[Optional[str], typer.Option(help="Its layout, e.g. tiny-imagenet, cub.")] = None,
    split: Annotated[Optional[str], typer.Option(help="The split to learn from, e.g. train-fit.")] = None,
    method: Annotated[
        list[str], typer.Option(help="The method whose maps give the boxes; several are averaged.")
    ] = [],  # noqa: B006
    threshold: Annotated[
        Optional[float],
        typer.Option(help="Threshold of the maps. [default: chosen on the held-out part]"),
    ] = None,
    folds: Annotated[
        Optional[int],
        typer.Option(help="K classifiers; each photo's box comes from one that was not trained on it."),
    ] = None,
    fold_model: Annotated[
        list[str], typer.Option(help="Checkpoints of those classifiers, fold by fold; repeatable.")
    ] = [],  # noqa: B006
    out: Annotated[Optional[Path], typer.Option(help="Output folder.")] = None,
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
    """Train a box regressor on boxes from a classifier's maps; no true box is used.

    ```console
    sightline refine recipes/refine-bundled.yaml
    sightline refine --model bundled --data tiny-imagenet-40.zip --method layercam --threshold 0.3
    ```
    """
    from sightline.cli._print import end_with_skipped, print_json
    from sightline.files import read_json
    from sightline.training.refine import plan
    from sightline.training.refine import refine as run
    from sightline.training.refine_recipe import read_refine_recipe

    named = {
        "teacher.model": model,
        "data.root": data,
        "data.dataset": dataset,
        "data.train": split,
        "teacher.methods": method or None,
        "teacher.threshold": threshold,
        "folds.count": folds if folds is not None else len(fold_model) or None,
        "folds.models": fold_model or None,
        "run.out": out,
    }
    resolved = read_refine_recipe(recipe, [*set_, *_overrides(named)])
    if dry_run:
        lines = plan(resolved)
        if json:
            print_json({"plan": list(lines)})
        else:
            typer.echo("\n".join(lines))
        return
    weights = run(resolved, resume=resume)
    manifest, scores = read_json(weights.with_name("manifest.json")), weights.with_name("scores.md")
    if json:
        print_json({"weights": str(weights), **manifest})
    else:
        if scores.exists():
            typer.echo(scores.read_text(encoding="utf-8"))
        typer.echo(f"weights: {weights}")
    end_with_skipped(manifest["skipped"])


def _overrides(named: Mapping[str, object]) -> list[str]:
    """``key=value`` for every given option, the value as YAML.

    >>> _overrides({"teacher.methods": ["cam"], "run.out": None, "folds.count": 2})
    ['teacher.methods=["cam"]', 'folds.count=2']
    """
    import json

    given = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in named.items()
        if value is not None
    }
    return [f"{key}={json.dumps(value)}" for key, value in given.items()]
