"""``sightline layers``: the names that ``--layer`` accepts."""

from __future__ import annotations

from typing import Annotated

import typer

from sightline.cli._options import TableJson


def layers(
    model: Annotated[str, typer.Argument(help="A name from `sightline models`, or a checkpoint.")],
    json: TableJson = False,
) -> None:
    """List the layers that can be explained, the map and layout of each, and the one that is chosen automatically.

    ```console
    sightline layers resnet50
    sightline layers timm/convnext_tiny
    ```
    """
    import torch

    from sightline.cli._print import print_table
    from sightline.inspection.naming import describe_layers
    from sightline.inspection.structure import inspect_network
    from sightline.models.loading import list_models, load_model

    named = model in list_models("timm/*" if model.startswith("timm/") else "*")
    loaded = load_model(
        model, weights="none" if named else None
    )  # a name needs no weights to show its layers
    height, width = loaded.preprocess.input_hw if loaded.preprocess else (224, 224)
    images = torch.zeros(1, 3, height, width)
    structure = inspect_network(loaded.network, images)
    rows = [
        ("→" if row.chosen else "", row.name, row.type, " × ".join(map(str, row.shape)), str(row.layout))
        for row in describe_layers(loaded.network, images)
    ]
    if json:
        names = ("chosen", "layer", "type", "shape", "layout")
        print_table(names, [("yes" if row[0] else "", *row[1:]) for row in rows], json=True)
        return
    print_table(("", "layer", "type", "channels × height × width", "layout"), rows)
    target = f"→ {structure.target} is chosen automatically" if structure.target else structure.why_no_target
    head = f"cam applies: {structure.head.module}" if structure.head else f"no cam: {structure.why_no_head}"
    typer.echo(f"input {height} × {width}; {target}; {head}")
