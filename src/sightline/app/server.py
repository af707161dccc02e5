"""The server: Gradio's page behind the guard, on 127.0.0.1 unless told otherwise."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Callable
from typing import Any

from sightline.app.guard import Guard
from sightline.app.session import Offer
from sightline.errors import InputError, need

LOCAL = ("127.0.0.1", "localhost", "::1")
PORT = 7860


def build_server(offer: Offer, host: str = "127.0.0.1", port: int = PORT) -> Any:
    """The ASGI application; raises `MissingExtraError` without Gradio."""
    gradio = need("gradio", "app")
    fastapi = need("fastapi", "app")
    from sightline.app.widgets import Page, asset, theme

    blocks = Page(offer).build()
    blocks.queue(max_size=64, api_open=False)
    wanted: dict[str, Any] = {
        "server_name": host,
        "server_port": port,
        "footer_links": [],
        "run_history": False,
        "show_error": False,
        "ssr_mode": False,
        "max_file_size": 1,
        "enable_monitoring": False,
        "pwa": False,
        "mcp_server": False,
        "theme": theme(),
        "css": asset("app.css"),
    }
    known = inspect.signature(gradio.mount_gradio_app).parameters  # some came after 6.0
    settings = {name: value for name, value in wanted.items() if name in known}
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app = gradio.mount_gradio_app(app, blocks, "/", **settings)
    hosts = LOCAL if host in LOCAL else None
    return Guard(app, offer.limits, hosts)


def free_port(host: str, port: int, tries: int = 20) -> int:
    """``port``, or the next one that is free; 0: any. Raises `InputError` where none is, or for an unknown host."""
    for candidate in [0] if port == 0 else range(port, port + tries):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
            except socket.gaierror:
                raise InputError(f"--host {host}: no such address on this machine") from None
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise InputError(f"no port from {port} to {port + tries - 1} is free on {host}; give --port")


def serve(offer: Offer, host: str, port: int, ready: Callable[[str], None] = print) -> None:
    """Serve until interrupted; ``ready`` is called with the address."""
    uvicorn = need("uvicorn", "app")
    app = build_server(offer, host, port)
    shown = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="critical",
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=2,
    )
    ready(f"http://{shown}:{port}")
    uvicorn.Server(config).run()
