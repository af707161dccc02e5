"""Object stores on 127.0.0.1, behind a proxy that answers some requests with 500 and others late.

s3   moto's server                  moto[server], s3fs
gs   gcp-storage-emulator           gcp-storage-emulator, gcsfs
az   Azurite, Microsoft's own       `npm install azurite` (its azurite-blob on PATH, or --azurite), adlfs
"""

from __future__ import annotations

import http.client
import logging
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

HOST = "127.0.0.1"
LATE = 0.5  # seconds
AZURE = "devstoreaccount1"  # the account that Azurite has, and its key, which is public
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Moody(BaseHTTPRequestHandler):
    """Passes requests on to the store; some it answers with 500, before or after the store has done them, some late."""

    protocol_version = "HTTP/1.1"
    store = (HOST, 0)
    share = 0.0  # of the requests that fail, and of those that are late
    left = math.inf  # requests until nobody answers any more: the connection is closed,
    silent = False  # or the client waits
    chance = random.Random(0)
    counts: ClassVar[Counter[str]] = Counter()
    watched = "part-00000.parquet"  # `written` says that an object of this name is in the store
    written = threading.Event()

    def _pass_on(self) -> None:
        body = self._body()
        Moody.left -= 1
        if Moody.left < 0:
            self.close_connection = True
            if self.silent:
                time.sleep(3600)
            return
        drawn = self.chance.random()
        self.counts["requests"] += 1
        if drawn < self.share:
            self.counts["failed"] += 1
        elif drawn < 2 * self.share:
            self.counts["late"] += 1
            time.sleep(LATE)
        if drawn >= self.share / 2:
            found, content = self._asked(body)
            name = self.path.encode() + body[:1000]  # gs is told the name in the body
            if self.command in ("PUT", "POST") and found.status < 300 and self.watched.encode() in name:
                self.written.set()
        if drawn < self.share:
            self._answer(500, [], b"<Error><Code>InternalError</Code></Error>")
        else:
            self._answer(found.status, found.getheaders(), content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = _pass_on

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _asked(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("transfer-encoding", "expect")}
        connection = http.client.HTTPConnection(*self.store)
        connection.request(self.command, self.path, body, headers)
        found = connection.getresponse()
        content = found.read()
        connection.close()
        return found, content

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "keep-alive", "content-length"):
                self.send_header(name, value)
        given = {name.lower(): value for name, value in headers}
        length = given.get("content-length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


class Proxy(ThreadingHTTPServer):
    """Without a word about a client that is gone: one is killed."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*_)


@contextmanager
def loopback(store: str, azurite: str | None = None) -> Iterator[None]:
    """Run a store and its proxy, and let its package find the proxy, in this process and in those it starts."""
    address, stop = {"s3": _moto, "gs": _google, "az": lambda: _azurite(azurite)}[store]()
    Moody.store = address
    proxy = Proxy((HOST, 0), Moody)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    os.environ.update(environment(store, f"http://{HOST}:{proxy.server_address[1]}"))
    try:
        yield
    finally:
        proxy.shutdown()
        stop()


def environment(store: str, url: str) -> dict[str, str]:
    """What tells a store's package where the store is and who asks."""
    if store == "s3":
        keys = {"FSSPEC_S3_KEY": "any", "FSSPEC_S3_SECRET": "any", "AWS_DEFAULT_REGION": "us-east-1"}
        return {**keys, "FSSPEC_S3_ENDPOINT_URL": url}
    if store == "gs":  # the last: ask no gRPC service which kind of bucket this is; the emulator has none
        keys = {"FSSPEC_GS_TOKEN": "anon", "FSSPEC_GS_PROJECT": "any"}
        return {**keys, "STORAGE_EMULATOR_HOST": url, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    account = f"AccountName={AZURE};AccountKey={AZURE_KEY};BlobEndpoint={url}/{AZURE};"
    return {"AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;{account}"}


Started = tuple[tuple[str, int], Callable[[], object]]  # where it listens, and what stops it


def _moto() -> Started:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer(ip_address=HOST, port=0, verbose=False)
    server.start()
    return server.get_host_and_port(), server.stop


def _google() -> Started:
    from gcp_storage_emulator.server import create_server

    for name in ("gcp_storage_emulator", "api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a line for each object that is not there
    port = _free_port()
    server = create_server(HOST, port, in_memory=True)
    server.start()
    return (HOST, port), server.stop


def _azurite(program: str | None) -> Started:
    program = program or shutil.which("azurite-blob")
    if program is None:
        raise SystemExit("no azurite-blob on PATH; `npm install azurite`, and give --azurite")
    port = _free_port()
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    command = [program, "--blobHost", HOST, "--blobPort", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    for _ in range(300):
        with socket.socket() as tried:
            if tried.connect_ex((HOST, port)) == 0:
                return (HOST, port), lambda: (process.terminate(), process.wait())
        time.sleep(0.1)
    process.kill()
    raise SystemExit(f"{program} does not listen after 30 s")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        port: int = one.getsockname()[1]
        return port
