"""``sightline app``: the web app, on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from sightline.cli._options import Categories, Device, ModelName, Scores, Weights

LIMITS = "Limits per visitor"


def app(
    model: ModelName = None,
    weights: Weights = None,
    categories: Categories = None,
    scores: Scores = "auto",
    method: Annotated[
        list[str] | None,
        typer.Option(help="A method string to offer; repeatable. [default: those that answer at once]"),
    ] = None,
    device: Device = "auto",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The first port to try; 0: any that is free.")
    ] = 7860,
    megabytes: Annotated[float, typer.Option(min=0.1, help="Largest upload.", rich_help_panel=LIMITS)] = 20.0,
    megapixels: Annotated[
        float, typer.Option(min=0.01, help="Most pixels, of all photos together.", rich_help_panel=LIMITS)
    ] = 40.0,
    photos: Annotated[int, typer.Option(min=1, help="Most photos at a time.", rich_help_panel=LIMITS)] = 24,
    per_minute: Annotated[
        int, typer.Option(min=1, help="Most photos per minute and address.", rich_help_panel=LIMITS)
    ] = 60,
) -> None:
    """Open a page on this machine: drop a photo, see where the network looks, take the boxes home.

    ```console
    sightline app
    sightline app --model resnet50 --method cam --method layercam:flip
    sightline app -m runs/mine/weights.safetensors --port 8000
    ```

    Photos stay in memory and are forgotten when the page is closed. Ctrl-C stops the server.
    """
    from sightline.app.choices import offered_methods
    from sightline.app.limits import Limits
    from sightline.app.server import free_port, serve
    from sightline.app.session import Offer
    from sightline.cli._options import load_saying
    from sightline.errors import require

    require("app", "gradio")
    limits = Limits(megabytes, megapixels, photos, per_minute)
    methods = offered_methods(tuple(method) if method else None)
    port = free_port(host, port)
    offer = Offer(load_saying(model, weights, categories, device, scores), methods, limits)
    serve(offer, host, port, lambda address: typer.echo(f"sightline is at {address} (Ctrl-C stops it)"))
