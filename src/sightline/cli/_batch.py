"""``sightline explain`` on the batch road: which arguments ask for it, and what is said of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sightline.cli._settings import Settings
from sightline.errors import InputError, require, unknown

if TYPE_CHECKING:
    from sightline.batch.run import Engine
    from sightline.models.loading import LoadedModel

ENGINES = ("local", "ray")
SHOWN = 5  # failures that are printed; all are in errors.parquet


def asked_for(engine: str | None, paths: Sequence[str], only_here: dict[str, Any]) -> bool:
    """Whether the batch road is to be taken: by name, or because a list or a tar is given.

    Raises `InputError` for an engine that does not exist, and for options of the batch road without it.

    >>> asked_for(None, ["a.jpg"], {}), asked_for("local", ["a.jpg"], {}), asked_for(None, ["a.tar"], {})
    (False, True, True)
    """
    if engine is not None and engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    lists = ("csv", "parquet", "tar", "tar.gz", "tgz")
    if engine is not None or any(
        path.lower().endswith(tuple(f".{suffix}" for suffix in lists)) for path in paths
    ):
        return True
    if given := [name for name, value in only_here.items() if value]:
        raise InputError(f"{', '.join(given)} belongs to the batch road; add --engine local or --engine ray")
    return False


def spare(out: Path) -> None:
    """Refuse to lay panels, and their manifest, over the folder of a batch run: it could not go on then."""
    import json

    try:
        kind = json.loads((out / "manifest.json").read_text(encoding="utf-8")).get("kind")
    except (OSError, ValueError, AttributeError):
        return
    if kind == "batch":
        raise InputError(f"--out {out} holds a batch run; give another --out, or --engine to go on with it")


def make_engine(name: str | None, workers: int | None, address: str | None, device: str) -> Engine:
    """The engine that the options name; a cluster that cannot be reached is an `InputError` now."""
    if name == "ray":
        require("ray", "ray")
        from sightline.batch.ray_engine import Ray

        if workers is not None:
            raise InputError("--workers belongs to --engine local; Ray shares out the cores itself")
        return Ray(address, device)
    from sightline.batch.local_engine import Local

    if address is not None:
        raise InputError("--address belongs to --engine ray")
    return Local(workers)


def run(
    model: LoadedModel,
    paths: Sequence[str],
    settings: Settings,
    out: Path,
    engine: Engine,
    extra: dict[str, Any],
) -> dict[str, Any]:
    """Explain everything into ``out``; returns the manifest."""
    from sightline.batch.run import explain_batch
    from sightline.batch.worker import BatchOptions
    from sightline.cli._print import bar

    quiet = bool(extra.pop("quiet"))
    (method,) = settings.methods
    work = BatchOptions(
        method=method,
        method_options=settings.method_options.get(method, {}),
        classes=settings.classes if isinstance(settings.classes, str) else list(settings.classes),
        layers=list(settings.layers),
        view=settings.view,
        colormap=settings.colormap,
        rule=settings.rule,
        **{name: value for name, value in extra.items() if value is not None},
    )
    with bar("explaining", quiet) as progress:
        return explain_batch(model, paths, out, work, engine, progress)


def one_method(methods: Sequence[str]) -> list[str]:
    """The one method of a run: a folder of results holds one."""
    if len(methods) > 1:
        raise InputError(f"the batch road takes one --method; got {', '.join(methods)}: run it once for each")
    return list(methods)


def tell(manifest: dict[str, Any], out: Path, json: bool) -> None:
    """Say what was done and, on stderr, what failed; exit code 3 if some images failed, 2 if all did."""
    from sightline.cli import MISTAKE, SOME_FAILED
    from sightline.cli._print import model_notes

    images, rows, shards = manifest["images"], manifest["rows"], manifest["shards"]
    if json:
        from sightline.cli._run import as_json

        typer.echo(as_json(manifest))
    else:
        found = [
            f"{n} {what}{'s' * (n != 1)}" for n, what in ((images, "image"), (rows, "row"), (shards, "shard"))
        ]
        typer.echo("\n".join(model_notes(manifest["about_model"])))
        typer.echo(f"{found[0]}, {found[1]} in {found[2]}: {out / 'results'}")
    if not manifest["errors"]:
        return
    from pyarrow.parquet import read_table

    reasons = read_table(out / "errors.parquet")["reason"].slice(0, SHOWN).to_pylist()
    more = manifest["errors"] - len(reasons)
    total = images + manifest["errors"]
    print(f"sightline: {manifest['errors']} of {total} images could not be read:", file=sys.stderr)
    for reason in reasons:
        print(f"  {reason}", file=sys.stderr)
    if more:
        print(f"  … and {more} more in {out / 'errors.parquet'}", file=sys.stderr)
    raise typer.Exit(SOME_FAILED if images else MISTAKE)
