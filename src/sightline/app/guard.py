"""What stands between the network and Gradio: an ASGI middleware that lets through only what the page needs."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from sightline.app.limits import Limits, RateLimit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Everything else of Gradio's server is closed: uploads, files, proxies, its API pages, monitoring.
_API = r"/gradio_api/(queue/(join|data)|heartbeat/\w+|startup-events|app_id|info|cancel|reset)/?"
ALLOWED = re.compile(
    rf"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static|svelte)/.*|{_API}"
)
METHODS = ("GET", "HEAD", "POST")
# The browser itself refuses what is not from here; 'unsafe-eval': Gradio compiles its templates.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
# Gradio's page links to these; a `preconnect` is a connection even if nothing is fetched.
_ELSEWHERE = re.compile(
    r"<link\b[^>]*\b(?:href=[\"']https?://|rel=[\"'](?:preconnect|dns-prefetch))[^>]*>"
    r"|<script\b[^>]*\bsrc=[\"']https?://[^>]*>\s*</script>"
    r"|<meta\b[^>]*\bcontent=[\"']https?://[^>]*>",
    re.I,
)


class Guard:
    """Paths, methods, host names, sizes and rates are checked before Gradio sees a request.

    ``hosts``: the names in a request's Host header, against pages elsewhere that resolve to this machine; None: any.
    A request that holds Gradio's description of a file is refused: with one, a visitor could name a path or a URL.
    """

    def __init__(self, app: App, limits: Limits, hosts: Sequence[str] | None = None) -> None:
        self.app, self.limits, self.hosts = app, limits, hosts
        self.rate = RateLimit(limits.requests_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await (
                self.app(scope, receive, send)
                if scope["type"] == "lifespan"
                else _refuse(send, 403, "closed")
            )
            return
        if problem := self._problem(scope):
            await _refuse(send, *problem)
            return
        if scope["method"] == "POST":
            body = await _body(receive, self.limits.body_bytes)
            if body is None:
                await _refuse(send, 413, f"more than {self.limits.megabytes:g} MB")
                return
            if not _is_plain(body):
                await _refuse(send, 403, "a file or URL cannot be named")
                return
            receive = _again(body, receive)
        await self.app(scope, receive, _cleaned(send))

    def _problem(self, scope: Scope) -> tuple[int, str] | None:
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        host = re.sub(r":\d+$", "", headers.get("host", "")).strip("[]").lower()
        if self.hosts is not None and host not in self.hosts:
            return 403, "unknown host name"
        if scope["method"] not in METHODS:
            return 405, "not allowed"
        if not ALLOWED.fullmatch(scope["path"]) or ".." in scope["path"]:
            return 404, "not found"
        if int(headers.get("content-length") or 0) > self.limits.body_bytes:
            return 413, f"more than {self.limits.megabytes:g} MB"
        if not self.rate.allows((scope.get("client") or ("", 0))[0]):
            return 429, "too many requests; wait a minute"
        return None


def _is_plain(body: bytes) -> bool:
    """Whether a request's body is JSON without a description of a file.

    >>> _is_plain(b'{"data": [1, {"x": 2}]}'), _is_plain(b'{"data": [{"path": "/etc/passwd", "meta": {}}]}')
    (True, False)
    """
    try:
        todo = [json.loads(body)] if body else []
    except (ValueError, RecursionError):
        return False
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            if "meta" in one or {"path", "url"} & one.keys():
                return False
            todo.extend(one.values())
        elif isinstance(one, list):
            todo.extend(one)
    return True


def without_elsewhere(page: str) -> str:
    """A page without its links to other hosts.

    >>> without_elsewhere('<link rel="preconnect" href="https://fonts.example"><p>here</p>')
    '<p>here</p>'
    """
    return _ELSEWHERE.sub("", page)


async def _body(receive: Receive, limit: int) -> bytes | None:
    """The whole body, or None if it is larger than ``limit``."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            return None
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    given = False

    async def once() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


def _cleaned(send: Send) -> Send:
    """``send`` with the headers above; HTML is held back until it is whole, and then sent without other hosts."""
    start: MutableMapping[str, Any] | None = None
    held: list[bytes] = []

    async def cleaned(message: MutableMapping[str, Any]) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            names = {name.encode() for name in HEADERS}
            kept = [(name, value) for name, value in message["headers"] if name.lower() not in names]
            message["headers"] = [*kept, *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            html = any(n.lower() == b"content-type" and v.startswith(b"text/html") for n, v in kept)
            if html and not any(n.lower() == b"content-encoding" for n, _ in kept):
                start = message
                return
        elif start is not None and message["type"] == "http.response.body":
            held.append(message.get("body", b""))
            if message.get("more_body"):
                return
            page = without_elsewhere(b"".join(held).decode()).encode()
            sizeless = [(n, v) for n, v in start["headers"] if n.lower() != b"content-length"]
            start["headers"] = [*sizeless, (b"content-length", str(len(page)).encode())]
            await send(start)
            start = None
            message = {"type": "http.response.body", "body": page}
        await send(message)

    return cleaned


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
