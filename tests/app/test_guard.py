"""What reaches Gradio, and what does not."""

from __future__ import annotations

import asyncio
import json

import pytest

from sightline.app.guard import Guard, without_elsewhere
from sightline.app.limits import Limits
from sightline.app.server import LOCAL, free_port
from sightline.errors import InputError

PAGE = (
    b'<html><head><link rel="preconnect" href="https://fonts.googleapis.com">'
    b'<script async src="https://cdn.example/x.js"></script><meta property="og:image" content="https://x.example/a.jpg">'
    b'<link rel="stylesheet" href="./assets/a.css"></head><body>here</body></html>'
)


async def inner(scope, receive, send):
    """Stands for Gradio: answers with its page, or with the body that it was sent."""
    message = await receive() if scope["method"] == "POST" else {"body": PAGE}
    kind = b"text/html; charset=utf-8" if scope["method"] == "GET" else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", str(len(message["body"])).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    half = len(message["body"]) // 2
    await send({"type": "http.response.body", "body": message["body"][:half], "more_body": True})
    await send({"type": "http.response.body", "body": message["body"][half:]})


def ask(guard, path="/", method="GET", parts=(b"",), host="127.0.0.1:7860", length=None, client="10.0.0.1"):
    """(status, headers, body) of one request."""
    waiting = [
        {"type": "http.request", "body": p, "more_body": i < len(parts) - 1} for i, p in enumerate(parts)
    ]
    sent = []

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    headers = [(b"host", host.encode())]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    scope = {"type": "http", "path": path, "method": method, "headers": headers, "client": (client, 5)}
    asyncio.run(guard(scope, receive, send))
    body = b"".join(m.get("body", b"") for m in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


@pytest.fixture
def guard():
    return Guard(inner, Limits(megabytes=0.1, requests_per_minute=50), LOCAL)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/upload", "/gradio_api/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/gradio_api/run/predict",
        "/gradio_api/proxy=http://example.com", "/gradio_api/call/x", "/monitoring", "/gradio_api/component_server",
        "/assets/../../etc/passwd", "/docs", "/gradio_api/deep_link", "/gradio_api/stream/a/b/c/playlist.m3u8",
    ],
)  # fmt: skip
def test_what_the_page_does_not_need_is_closed(guard, path):
    assert ask(guard, path)[0] == 404
    assert ask(guard, path, "POST")[0] == 404


def test_the_page_and_its_own_files_are_open(guard):
    for path in (
        "/",
        "/config",
        "/theme.css",
        "/assets/index.js",
        "/gradio_api/queue/data",
        "/gradio_api/heartbeat/ab1",
    ):
        assert ask(guard, path)[0] == 200


def test_the_page_names_no_other_host(guard):
    _, headers, body = ask(guard)
    assert b"https://" not in body
    assert b"./assets/a.css" in body
    assert b"here" in body
    assert int(headers[b"content-length"]) == len(body)
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert without_elsewhere("<a href='https://example.com'>a link is not followed</a>").startswith("<a")


def test_a_request_can_name_no_file_and_no_url(guard):
    join = "/gradio_api/queue/join"
    plain = json.dumps(
        {"data": [0.2, "cam"], "event_data": {"files": [{"name": "a", "data": "AA=="}]}}
    ).encode()
    status, _, body = ask(guard, join, "POST", (plain[:9], plain[9:]))
    assert (status, body) == (200, plain)
    for file in ({"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, {"url": "http://10.0.0.1/"}):
        assert ask(guard, join, "POST", (json.dumps({"data": [[{"deep": file}]]}).encode(),))[0] == 403
    assert ask(guard, join, "POST", (b"not json",))[0] == 403


def test_large_requests_are_cut_off_whatever_they_claim(guard):
    join = "/gradio_api/queue/join"
    assert ask(guard, join, "POST", (b"{}",), length=10**9)[0] == 413
    assert ask(guard, join, "POST", (b"0" * 100_000,) * 3)[0] == 413


def test_hosts_methods_and_rates(guard):
    assert ask(guard, host="evil.example")[0] == 403  # a name elsewhere that resolves to this machine
    assert ask(guard, host="localhost")[0] == 200
    assert ask(guard, method="DELETE")[0] == 405
    assert ask(Guard(inner, Limits()), host="my.machine:80")[0] == 200  # when it listens to everybody
    codes = [ask(guard, client="10.0.0.2")[0] for _ in range(52)]
    assert codes == [200] * 50 + [429] * 2
    assert ask(guard, client="10.0.0.3")[0] == 200


def test_a_free_port_is_found_near_the_one_asked_for():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        assert free_port("127.0.0.1", busy) > busy
        with pytest.raises(InputError, match=f"no port from {busy}"):
            free_port("127.0.0.1", busy, tries=1)
