"""``sightline data``: the data sets of the documents, from their official archives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.cli._options import TableJson


def data(
    name: Annotated[str | None, typer.Argument(help="One data set. [default: list them]")] = None,
    source: Annotated[
        list[Path] | None,
        typer.Option("--from", help="An official archive, or a folder with its files; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to make. [default: data/NAME]")] = None,
    check: Annotated[Path | None, typer.Option(help="A copy to check.")] = None,
    json: TableJson = False,
) -> None:
    """Say where a data set of the documents is, make the part of it that they use, and check it.

    Nothing is downloaded: most of these sites ask for an account or for consent. Which photos are used is listed in
    this package.

    ```console
    sightline data
    sightline data cub-50
    sightline data cub-50 --from CUB_200_2011.tgz
    sightline data cub-50 --check data/cub-50
    ```
    """
    from sightline.cli._print import print_table
    from sightline.data.subsets import SUBSETS, check_subset, get_subset, make_subset
    from sightline.errors import InputError

    if name is None:
        if source or check:
            raise InputError(f"--from and --check need a data set: {', '.join(SUBSETS)}")
        print_table(("data set", "what it is"), [(one.name, one.title) for one in SUBSETS.values()], json)
        return
    subset = get_subset(name)
    folder = check or out or Path("data") / name
    if source:
        typer.echo(f"{name}: {make_subset(name, source, folder):,} photos in {folder}")
    elif check:
        typer.echo(f"{name}: {check_subset(name, check):,} photos in {check}, complete")
    else:
        sources = " ".join(f"--from {Path(one.split()[-1]).name}" for one in subset.needs)
        typer.echo(
            f"{name}: {subset.title}\nkept:     {subset.how}\nsite:     {subset.where}\n"
            f"needs:    {', '.join(subset.needs)}\nterms:    {subset.terms}\n"
            f"make it:  sightline data {name} {sources}\nuse it:   {_use(subset.use, folder)}"
        )


def _use(use: str, folder: Path) -> str:
    return use if use.startswith("(") else f"sightline evaluate {use.format(folder=folder)}"
