"""Headless Chromium by its DevTools protocol: the few commands that the browser tests need, over one WebSocket."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--hide-scrollbars",
    "--remote-debugging-port=0", "--remote-allow-origins=*", "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)  # fmt: skip
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"


def find_chromium() -> str | None:
    """``CHROME``, or a Chromium on the path."""
    given = os.environ.get("CHROME")
    return given if given else next((found for name in NAMES if (found := shutil.which(name))), None)


class Chromium:
    """A browser with an empty profile; closed, and its files removed, at the end of the ``with``."""

    def __init__(self, program: str, *flags: str) -> None:
        self.sockets = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="chromium-"))
        self.process = subprocess.Popen(
            [program, *FLAGS, *flags, f"--user-data-dir={self.folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self.sockets.close()
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def port(self) -> int:
        file = self.folder / "DevToolsActivePort"
        wait_for(lambda: file.is_file() and file.read_text().strip(), 30)
        return int(file.read_text().split()[0])

    def page(self, width: int = 1440, height: int = 1000, scale: float = 1, *, dark: bool = False) -> Page:
        """A new tab of this size."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request) as answer:
            url = json.load(answer)["webSocketDebuggerUrl"]
        return Page(self.sockets.enter_context(connect(url, max_size=None)), width, height, scale, dark)


class Page:
    """One tab. ``requests``: every URL it asked for; ``problems``: exceptions and errors in its console."""

    def __init__(self, socket: ClientConnection, width: int, height: int, scale: float, dark: bool) -> None:
        self.socket = socket
        self.number = 0
        self.requests: list[str] = []
        self.problems: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.command(f"{domain}.enable")
        self.resize(width, height, scale)
        if dark:
            scheme = {"name": "prefers-color-scheme", "value": "dark"}
            self.command("Emulation.setEmulatedMedia", features=[scheme])

    def command(self, method: str, **parameters: object) -> dict:
        """Send one command and return its result."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message)

    def _note(self, message: dict) -> None:
        given = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown":
            details = given["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif message.get("method") == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.problems.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )

    def open(self, url: str) -> None:
        self.command("Page.navigate", url=url)

    def js(self, expression: str) -> object:
        """The value of a JavaScript expression; a promise is waited for."""
        found = self.command("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", "failed"))
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 20) -> object:
        """Wait until a JavaScript expression is true."""
        return wait_for(lambda: self.js(expression), seconds, f"{expression}; problems: {self.problems}")

    def choose_files(self, selector: str, *paths: Path) -> None:
        """Put files into an ``<input type=file>``."""
        root = self.command("DOM.getDocument")["root"]["nodeId"]
        node = self.command("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.command("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def press(self, key: str) -> None:
        """A key, such as "Enter" or "ArrowRight", where the focus is."""
        text = {"text": "\r"} if key == "Enter" else {}
        codes = {"Enter": 13, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        for kind in ("keyDown", "keyUp"):
            self.command(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes.get(key, 0),
                **(text if kind == "keyDown" else {}),
            )

    def save_downloads(self, folder: Path) -> None:
        self.command("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        found = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


def wait_for(condition, seconds: float = 20, what: str = "a condition") -> object:
    """Call ``condition`` until it gives something true."""
    end = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.05)
