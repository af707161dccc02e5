"""A Chromium for all tests of this folder, without a network; they are skipped where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("websockets")

from chromium import OFFLINE, Chromium, find_chromium


@pytest.fixture(scope="session")
def browser():
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium: install one, or set CHROME")
    with Chromium(program, OFFLINE) as running:
        yield running


@pytest.fixture(scope="session")
def app():
    """The address of ``sightline app`` with the default model."""
    pytest.importorskip("gradio")
    command = [sys.executable, "-m", "sightline", "app", "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            line = server.stdout.readline()
            assert "http://127.0.0.1:" in line, line
            yield line.split()[3]
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


@pytest.fixture
def shots():
    """The folder for screenshots that somebody wants to look at, or None."""
    folder = os.environ.get("SIGHTLINE_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder) if folder else None
