"""``sightline methods``: what can be asked for, and what each takes."""

from __future__ import annotations

from typing import Annotated

import typer


def methods(
    name: Annotated[str | None, typer.Argument(help="One method: its equation and its options.")] = None,
) -> None:
    """List the methods with their papers, or say all about one.

    ```console
    sightline methods
    sightline methods scorecam
    ```
    """
    import inspect

    from sightline.cli._print import print_table
    from sightline.methods import get_method, list_methods

    if name is not None:
        method = get_method(name)
        # All that stands before the doctest: the equation, its source, the choices taken.
        description = (inspect.getdoc(method.function) or "").partition(">>>")[0].strip()
        typer.echo(f"{name}: {method.paper}\n\n{description}\n")
        for option, parameter in method.options.items():
            typer.echo(f"  --option {option}={parameter.default}")
        return
    rows = [(name, paper, ", ".join(get_method(name).options)) for name, paper in list_methods().items()]
    print_table(("method", "paper", "options"), rows)
