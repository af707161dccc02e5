"""``sightline report``: an output folder as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sightline.cli._options import ResultJson


def report(
    folder: Annotated[Path, typer.Argument(help="The output folder of a sightline command.")],
    out: Annotated[Path | None, typer.Option(help="The file to write. [default: FOLDER/report.html]")] = None,
    json: ResultJson = False,
) -> None:
    """One self-contained HTML page of an output folder: tables that sort, curves, contact sheets, options, versions.

    ```console
    sightline report out/explain
    sightline report out/evaluate --out cub.html
    ```

    It opens without a network, prints, and follows the reader's light or dark setting. Folders of `explain`, `batch`,
    `evaluate`, `faithfulness`, `train`, `refine`, `discover`, `boxes`, `masks` and `audit`.
    """
    from sightline.cli._print import print_json
    from sightline.reports.folder_report import folder_report
    from sightline.reports.output_folder import OutputFolder

    text = folder_report(folder)
    path = out or folder / "report.html"
    size = OutputFolder(path.parent).prepare().write_text(path.name, text).stat().st_size
    if json:
        print_json({"report": str(path), "bytes": size})
    else:
        typer.echo(f"{path}: {size / 1e6:.1f} MB")
