"""The app under many visitors at once: no error, no growth, and nobody sees another's photo.

python tools/soak_app.py --users 20 --minutes 5

The app listens on 127.0.0.1, and every visitor has a loopback address of its own (Linux), as the limits count per
address. Every visitor opens photos of a size and a colour that nobody else has, moves the threshold and asks for other
classes, and waits a second or two between, as people do.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIGHTLINE = (sys.executable, "-m", "sightline")
SETTINGS = [
    ["gradcam"],
    None,
    None,
    "",
    "automatic",
    0.2,
    "max",
    "minmax",
    "largest",
    "turbo",
]  # the page's widgets


@contextmanager
def server(model: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`sightline app` and its port."""
    command = [*SIGHTLINE, "app", *model, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        said = next(line for line in lines if "http://127.0.0.1:" in line)
        threading.Thread(target=lambda: list(lines), daemon=True).start()
        port = int(said.split("http://127.0.0.1:")[1].split()[0].strip("/"))
        _wait_for(port)
        yield process, port
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            print("the server did not end within 20 s of SIGTERM")
            process.kill()


def _wait_for(port: int, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.1)
        else:
            return


class Visitor(threading.Thread):
    """Opens photos of one colour and size that nobody else has, and checks that every answer is about them."""

    def __init__(self, number: int, port: int, until: float) -> None:
        super().__init__(daemon=True)
        self.number, self.port, self.until = number, port, until
        self.session = uuid.uuid4().hex[:11]
        self.times: list[tuple[str, float]] = []
        self.problems: list[str] = []

    def run(self) -> None:
        chance = random.Random(self.number)
        try:
            events = self._events()
            while time.monotonic() < self.until:
                size, colour = (100 + self.number, 80), tuple(chance.randrange(256) for _ in range(3))
                self._open(events["photo"], size, colour)
                for _ in range(3):
                    time.sleep(chance.uniform(0.5, 2))
                    self._boxes(events["threshold"], chance.random())
                    self._look(events["wanted"], chance.randrange(900))
                time.sleep(chance.uniform(1, 4))
        except Exception as error:
            self.problems.append(f"visitor {self.number}: {type(error).__name__}: {error}")

    def _request(self, method: str, path: str, body: Any = None) -> bytes:
        here = (f"127.0.1.{self.number + 1}", 0)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120, source_address=here)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:200]!r}")
        return content

    def _events(self) -> dict[str, int]:
        """The numbers of the page's functions: a photo, the threshold, a class."""
        config = json.loads(self._request("GET", "/config"))
        names = {one["id"]: one["props"].get("elem_id") for one in config["components"]}
        wanted = {
            ("sl-photo", "photo"): "photo",
            ("sl-threshold", "input"): "threshold",
            ("sl-search", "input"): "wanted",
        }
        found = {}
        for number, one in enumerate(config["dependencies"]):
            for target, event in one["targets"]:
                if (names.get(target), event) in wanted:
                    found[wanted[names[target], event]] = one.get("id", number)
        return found

    def _call(self, what: str, function: int, data: list[Any], event: Any = None) -> list[Any]:
        started = time.monotonic()
        body = {
            "data": data,
            "event_data": event,
            "fn_index": function,
            "session_hash": self.session,
            "trigger_id": 1,
        }
        self._request("POST", "/gradio_api/queue/join", body)
        stream = self._request("GET", f"/gradio_api/queue/data?session_hash={self.session}").decode()
        self.times.append((what, time.monotonic() - started))
        messages = [json.loads(line[5:]) for line in stream.splitlines() if line.startswith("data:")]
        last = next((one for one in messages if one["msg"] == "process_completed"), None)
        if last is None or not last["success"]:
            raise RuntimeError(f"{what}: {str(messages[-1:])[:300]}")
        return list(last["output"]["data"])

    def _open(self, function: int, size: tuple[int, int], colour: tuple[int, ...]) -> None:
        file = io.BytesIO()
        Image.new("RGB", size, colour).save(file, "PNG")
        sent = {"files": [{"name": f"{self.number}.png", "data": base64.b64encode(file.getvalue()).decode()}]}
        stage = self._call("a photo", function, SETTINGS, sent)[0]
        stage = stage.get("value", stage)
        if tuple(stage["size"]) != size:
            self.problems.append(f"visitor {self.number} sees a photo of {stage['size']}, sent {size}")
        shown = Image.open(io.BytesIO(base64.b64decode(stage["photo"].partition(",")[2]))).convert("RGB")
        apart = np.abs(np.asarray(shown, float).mean((0, 1)) - colour).max()
        if apart > 6:
            self.problems.append(f"visitor {self.number} sees another colour, {apart:.0f} off")

    def _boxes(self, function: int, threshold: float) -> None:
        settings = [*SETTINGS[:5], threshold, *SETTINGS[6:]]
        self._call("a threshold", function, settings)

    def _look(self, function: int, index: int) -> None:
        self._call("a class", function, [SETTINGS[0], index, *SETTINGS[2:]])


def resident(process: int) -> float:
    """The memory of a process in MiB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def soak(users: int, minutes: float, model: Sequence[str]) -> int:
    with server(model) as (process, port):
        started, until = time.monotonic(), time.monotonic() + 60 * minutes
        visitors = [Visitor(number, port, until) for number in range(users)]
        for visitor in visitors:
            visitor.start()
        memory = []
        while any(visitor.is_alive() for visitor in visitors):
            time.sleep(1)
            memory.append((time.monotonic() - started, resident(process.pid)))
    problems = [problem for visitor in visitors for problem in visitor.problems]
    times = [one for visitor in visitors for one in visitor.times]
    quarter = [m for t, m in memory if 15 * minutes <= t < 30 * minutes]  # the second quarter, then the last
    last = [m for t, m in memory if 45 * minutes <= t]
    print(f"{users} visitors, {minutes:g} minutes, {len(times)} answers, {len(problems)} problems")
    for what in dict.fromkeys(name for name, _ in times):
        some = sorted(t for name, t in times if name == what)
        print(
            f"{what}: {len(some)} times, median {some[len(some) // 2]:.2f} s, p95 {some[int(0.95 * len(some))]:.2f} s"
        )
    print(f"memory: {np.mean(quarter):.0f} MiB in the second quarter, {np.mean(last):.0f} MiB in the last")
    print("memory by minute:", *(f"{m:.0f}" for t, m in memory if int(t) % 60 == 0), "MiB")
    print(*problems[:20], sep="\n")
    return int(bool(problems))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument(
        "--model", default="", help="a model for `sightline app --model` (default: the installed one)"
    )
    given = parser.parse_args()
    return soak(given.users, given.minutes, ["--model", given.model] if given.model else [])


if __name__ == "__main__":
    raise SystemExit(main())
