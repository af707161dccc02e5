"""``--plugin``: a method of the user's own on the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sightline import plugins
from sightline.methods import list_methods, unregister_method

Run = Any
METHOD = """
from sightline import register_method

@register_method("halfcam", paper="a test")
def halfcam(evidence, target, *, share: float = 0.5):
    \"\"\"Half of the sum over the channels.\"\"\"
    return share * evidence.activations.sum(1)
"""


@pytest.fixture
def halfcam(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "halfcam.py"
    path.write_text(METHOD)
    yield path
    plugins.forget_plugin(path)
    if "halfcam" in list_methods():
        unregister_method("halfcam")


def test_the_command_line_knows_it_before_and_after_the_verb(halfcam: Path, sightline: Run) -> None:
    for arguments in (
        ["--plugin", halfcam, "methods", "halfcam"],
        ["methods", "halfcam", f"--plugin={halfcam}"],
    ):
        result = sightline(*arguments)
        assert (result.code, result.err) == (0, "")
        assert "Half of the sum over the channels." in result.out
        assert "--option share=0.5" in result.out
    assert "SIGHTLINE_PLUGINS" not in os.environ


def test_a_plugin_that_fails_is_one_line_on_the_command_line(tmp_path: Path, sightline: Run) -> None:
    result = sightline("methods", "--plugin", tmp_path / "none.py")
    assert (result.code, result.out) == (2, "")
    assert result.err == f"sightline: plugin {tmp_path / 'none.py'}: no such file\n"
    assert sightline("methods", "--plugin").err.startswith("sightline: No such option: --plugin")
