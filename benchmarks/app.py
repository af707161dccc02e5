"""How long does `sightline app` take to answer, through a real browser? From the action to the drawn picture.

    python benchmarks/app.py --write benchmarks/app.md        # needs Debian's Chromium, or CHROME

The first photo of each kind of answer is not counted. The page is looked at every 5 ms.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from chromium import OFFLINE, Chromium, Page, find_chromium
from sightline.demo_photos import photo_path

HEAT = "[...document.querySelectorAll('.sl-heat')].every((one) => one.complete && one.naturalWidth)"
HEAT_SRC = "document.querySelector('.sl-heat')?.src || ''"
PHOTO_SRC = "document.querySelector('.sl-photo')?.src || ''"
BOX = "document.querySelector('.sl-box')?.style.cssText || ''"


def until(page: Page, expression: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not page.js(expression):
        if time.monotonic() > end:
            raise TimeoutError(expression)
        time.sleep(0.005)


def photo(page: Page, turn: int) -> float:
    """Choose a photo; until its heatmap is drawn."""
    page.js(f"window.before = {PHOTO_SRC}")
    started = time.monotonic()
    page.choose_files(".sl-file", photo_path(("coffee", "chelsea", "rocket")[turn % 3]))
    until(page, f"({PHOTO_SRC}) !== window.before && {HEAT}")
    return time.monotonic() - started


def another_class(page: Page, turn: int) -> float:
    page.js(f"window.before = {HEAT_SRC}")
    started = time.monotonic()
    page.js(f"document.querySelectorAll('#sl-top input')[{1 + turn % 4}].click()")
    until(page, f"({HEAT_SRC}) !== window.before && {HEAT}")
    return time.monotonic() - started


def threshold(page: Page, turn: int) -> float:
    page.js(f"window.before = {BOX}")
    slider = "document.querySelector('#sl-threshold input[type=range]')"
    started = time.monotonic()
    page.js(
        f"{slider}.value = {0.35 + 0.2 * (turn % 3)}; {slider}.dispatchEvent(new Event('input', {{bubbles: true}}))"
    )
    until(page, f"({BOX}) !== window.before")
    return time.monotonic() - started


def report(turns: int) -> list[str]:
    program = find_chromium()
    if program is None:
        raise SystemExit("no Chromium: install one, or set CHROME")
    load = os.getloadavg()[0]
    command = [sys.executable, "-m", "sightline", "app", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[3]
            with Chromium(program, OFFLINE) as browser:
                page = browser.page()
                page.open(address)
                page.wait(
                    "!!document.querySelector('.sl-drop') && !!document.querySelector('#sl-methods input')",
                    60,
                )
                rows = []
                for name, act in (
                    ("a new photo", photo),
                    ("another class", another_class),
                    ("the threshold", threshold),
                ):
                    act(page, 0)
                    taken = sorted(act(page, turn) for turn in range(1, turns + 1))
                    rows.append(f"| {name} | {statistics.median(taken):.2f} | {taken[-1]:.2f} |")
        finally:
            server.terminate()
    return [
        "# The web app's answers", "",
        f"`python benchmarks/app.py --turns {turns}`", "",
        f"Python {platform.python_version()}, torch {version('torch')}, gradio {version('gradio')}, "
        f"{platform.machine()}, {os.cpu_count()} CPUs; load {load:.1f} at the start. The default model, `gradcam`; "
        "seconds from the action in headless Chromium to the drawn picture, on the machine that also serves.", "",
        "| action | median (s) | slowest (s) |", "| --- | --- | --- |", *rows, "",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--write", type=Path)
    chosen = parser.parse_args()
    text = "\n".join(report(chosen.turns))
    print(text)
    if chosen.write:
        chosen.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
