"""A few seconds of `tools/soak_app.py`: three visitors at once, each of whom sees only what is theirs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(sys.platform != "linux", reason="every visitor needs a loopback address of its own"),
]


def test_visitors_at_once() -> None:
    tool = Path(__file__).parents[2] / "tools" / "soak_app.py"
    command = [sys.executable, str(tool), "--users", "3", "--minutes", "0.05"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith("3 visitors")
    assert "0 problems" in run.stdout.splitlines()[0]
    assert "a class: " in run.stdout
