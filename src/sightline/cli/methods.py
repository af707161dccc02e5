"""``sightline methods``: the methods and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from sightline.cli._options import TableJson


def methods(
    name: Annotated[str | None, typer.Argument(help="One method: its equation and its options.")] = None,
    json: TableJson = False,
) -> None:
    """List the methods with their papers, or describe one.

    Any of them combines with layer=A,B, flip, scales=1,1.5,2, affinity (affinity.power=4, affinity.steps=2,
    affinity.stages=1), smooth (smooth.samples=25, smooth.sigma=0.15, smooth.seed=0) and tencrop, as in
    `--method cam:nwc=true:flip`.

    ```console
    sightline methods
    sightline methods scorecam
    sightline methods localise
    ```
    """
    import inspect

    from sightline.cli._print import print_table
    from sightline.methods import get_method, list_methods
    from sightline.methods.named import named_methods

    named = named_methods()
    if name in named:
        one = named[name]
        typer.echo(f"{name}: {one.summary}\n\n  --method {one.text}\n  boxes: {one.rule.describe()}")
        return
    if name is not None:
        method = get_method(name)
        # Everything before the doctest: the equation, its source, the choices made.
        description = (inspect.getdoc(method.function) or "").partition(">>>")[0].strip()
        typer.echo(f"{name}: {method.paper}\n\n{description}\n")
        if method.normalise != "minmax":
            typer.echo(f"  heatmaps: normalised by {method.normalise} (--normalise {method.normalise})")
        for option, parameter in method.options.items():
            typer.echo(f"  --option {option}={parameter.default}")
        return
    rows = [(name, paper, ", ".join(get_method(name).options)) for name, paper in list_methods().items()]
    rows += [(one.name, f"= {one.text}", f"threshold {one.rule.threshold:g}") for one in named.values()]
    print_table(("method", "paper", "options"), rows, json)
