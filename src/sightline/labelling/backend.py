"""A machine-learning backend for Label Studio: it asks over HTTP, and boxes come back as pre-annotations.

The contract is that of Label Studio's own ML backend: GET /health, POST /setup, POST /predict, POST /webhook. Only
photos below one folder are read, and nothing is fetched from elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sightline.errors import InputError
from sightline.labels.label_studio import VERSION, prediction
from sightline.models.loading import LoadedModel
from sightline.pipeline import explain
from sightline.types import BoxRule

MOST_BYTES = 16 * 1024 * 1024  # of a request: tasks name photos, they do not hold them
_RECTANGLES = re.compile(r"<RectangleLabels\b([^>]*)>(.*?)</RectangleLabels>", re.S)


@dataclass(frozen=True)
class Interface:
    """What a labelling configuration calls its rectangles, and the classes it has."""

    from_name: str = "label"
    to_name: str = "image"
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: str) -> Interface:
        """Read the first ``<RectangleLabels>`` of a labelling configuration.

        >>> Interface.of('<RectangleLabels name="a" toName="b"><Label value="cat"/></RectangleLabels>')
        Interface(from_name='a', to_name='b', classes=('cat',))
        """
        found = _RECTANGLES.search(config or "")
        if not found:
            return cls()
        names = dict(re.findall(r'\b(name|toName)="([^"]*)"', found[1]))
        classes = tuple(re.findall(r'<Label\b[^>]*\bvalue="([^"]*)"', found[2]))
        return cls(names.get("name", "label"), names.get("toName", "image"), classes)


class Backend:
    """Answers Label Studio's requests with the boxes of one model; ``photos`` is the folder it may read.

    With classes of the model among those of the project, the most probable of these is boxed; else the top class.
    """

    def __init__(
        self,
        model: LoadedModel,
        photos: str | Path,
        method: str = "localise",
        rule: BoxRule | None = None,
    ) -> None:
        self.model, self.photos = model, Path(photos).resolve()
        self.method, self.rule = method, rule or BoxRule()
        self._turn = Lock()  # one photo at a time: two would only share the same cores
        if not self.photos.is_dir():
            raise InputError(f"{photos} is not a folder; expected the folder with the project's photos")

    def health(self) -> dict[str, Any]:
        """The answer to GET /health."""
        return {"status": "UP", "model_class": "sightline", "model_version": VERSION}

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to POST /predict: one prediction per task, in order."""
        tasks = request.get("tasks")
        if not isinstance(tasks, list):
            raise InputError("no tasks; expected {'tasks': [{'data': {'image': …}}, …]}")
        interface = Interface.of(str(request.get("label_config") or ""))
        return {"results": [self._predict(task, interface) for task in tasks]}

    def _predict(self, task: Any, interface: Interface) -> dict[str, Any]:
        path = self.path_of(task)
        with self._turn:
            classes = self._classes(interface.classes)
            found = explain(self.model, str(path), self.method, classes)
            if len(classes) > 1 and found.scores is not None and not isinstance(classes, str):
                best = int(found.scores[0].argmax())
                found = found.with_method(self.method, [int(found.classes[0, best])])
            photo = found.labels(self.rule.or_defaults_of(found.rule)).photos[0]
        return prediction(photo, interface.from_name, interface.to_name)

    def _classes(self, wanted: Sequence[str]) -> str | list[str]:
        """The project's classes that the model knows; the top class if it knows none."""
        known = [name for name in wanted if name in (self.model.categories or ())]
        return known or "top1"

    def path_of(self, task: Any) -> Path:
        """The photo of a task; raises `InputError` if its URL does not lead to a file below the folder."""
        data = task.get("data") if isinstance(task, dict) else None
        urls = [value for value in (data or {}).values() if isinstance(value, str)]
        if not urls:
            raise InputError("a task without an image; expected {'data': {'image': URL}}")
        parts = urlsplit(urls[0])
        if parts.scheme or parts.netloc:
            raise InputError(
                f"{urls[0]!r} is elsewhere; expected a photo of the folder, such as /data/local-files/?d=a.jpg"
            )
        named = parse_qs(parts.query).get("d", [unquote(parts.path).removeprefix("/data/")])[0]
        path = (self.photos / named.lstrip("/")).resolve()
        if not path.is_relative_to(self.photos) or not path.is_file():
            raise InputError(f"no photo {named!r} in the folder of this backend")
        return path


def serve(backend: Backend, host: str = "127.0.0.1", port: int = 9090) -> ThreadingHTTPServer:
    """The server, listening but not yet serving: call ``serve_forever()``. Port 0 takes a free one."""
    handler = type("Handler", (_Handler,), {"backend": backend})
    try:
        return ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


class _Handler(BaseHTTPRequestHandler):
    backend: Backend

    def do_GET(self) -> None:
        self._answer({"/": self.backend.health, "/health": self.backend.health})

    def do_POST(self) -> None:
        try:
            request = self._request()
        except InputError as error:
            self._send(400, {"error": str(error)})
            return
        self._answer(
            {
                "/predict": lambda: self.backend.predict(request),
                "/setup": lambda: {"model_version": VERSION},
                "/webhook": lambda: {"status": "ok"},
            }
        )

    def _request(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            raise InputError(f"a request of {length} bytes; expected at most {MOST_BYTES}")
        try:
            found = json.loads(self.rfile.read(int(length)) or b"{}")
        except ValueError:
            raise InputError("the request is not JSON") from None
        if not isinstance(found, dict):
            raise InputError("the request is not a JSON object")
        return found

    def _answer(self, routes: dict[str, Callable[[], dict[str, Any]]]) -> None:
        route = routes.get(urlsplit(self.path).path)
        if route is None:
            self._send(404, {"error": f"no such path; this backend has {', '.join(routes)}"})
            return
        try:
            self._send(200, route())
        except InputError as error:
            self._send(400, {"error": str(error)})

    def _send(self, code: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the requests of a project would fill the terminal."""
