"""``sightline label-studio``: boxes as pre-annotations in Label Studio, over HTTP."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from sightline.cli._labels import Method
from sightline.cli._options import Categories, Device, ModelName, Scores, Threshold, Weights


def label_studio(
    photos: Annotated[
        Path, typer.Argument(help="The folder of the project's photos; no other file is read.")
    ],
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    method: Method = "localise-fast",
    threshold: Threshold = None,
    host: Annotated[str, typer.Option(help="Who can ask; 127.0.0.1: only this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 9090,
    device: Device = "auto",
) -> None:
    """A machine-learning backend for Label Studio: each task opens with the model's box.

    ```console
    sightline label-studio photos/ -m mine.safetensors
    sightline label-studio photos/ --method localise --port 9191
    ```

    In Label Studio: Settings, Model, Connect Model, URL http://127.0.0.1:9090. Photos are those of local storage
    (`/data/local-files/?d=…`) or of Label Studio's own media folder. There is no password: leave --host as it is, or
    put a proxy before it. The first line says its process id; Ctrl-C or `kill` stops it.
    """
    from sightline.cli._options import load
    from sightline.labelling.backend import Backend, serve
    from sightline.types import BoxRule

    backend = Backend(
        load(model, weights, categories, device, scores), photos, method, BoxRule.of(threshold=threshold)
    )
    server = serve(backend, host, port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops it as Ctrl-C does
    typer.echo(f"listening on http://{host}:{server.server_port}, process {os.getpid()}")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
