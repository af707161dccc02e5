"""``--scores`` and the numbers that follow from it, from a checkpoint of one output to the screen and the files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from sightline import load_model
from sightline.cli import build_app
from sightline.training.checkpoint import save_checkpoint


@pytest.fixture
def one_output(tmp_path: Path) -> Path:
    """A network whose one logit is that of 0.7 %, whatever the photo."""
    network = load_model("squeezenet1_1", weights="none", categories=["ill"]).network
    last = network.get_submodule("classifier.1")
    last.weight.data.zero_()
    # A ReLU follows the class convolution: the logit cannot be negative, so the positive one, of 99.3 %.
    last.bias.data.fill_(math.log(0.993 / 0.007))
    save_checkpoint(
        tmp_path / "one.safetensors", network, {"architecture": "squeezenet1_1", "categories": ["ill"]}
    )
    return tmp_path / "one.safetensors"


def run(sightline: Any, photos: Path, out: Path, *more: object) -> tuple[str, dict[str, Any]]:
    result = sightline("explain", photos / "a.png", "--out", out, *more)
    assert result.code == 0, result.err
    return result.out, json.loads((out / "manifest.json").read_text())


def test_one_output_is_shown_by_its_sigmoid(sightline: Any, photos: Path, one_output: Path, tmp_path: Path):
    out, manifest = run(sightline, photos, tmp_path / "out", "--model", one_output, "--method", "eigencam")
    assert "99.3 %" in out
    assert manifest["model"]["scores"] == "auto"
    assert manifest["methods"]["eigencam"]["scores"] == "sigmoid"
    assert manifest["images"][0]["results"][0]["score"] == pytest.approx(0.993)


def test_a_regression_is_shown_as_a_number(sightline: Any, photos: Path, one_output: Path, tmp_path: Path):
    more = ("--model", one_output, "--method", "eigencam", "--scores", "none")
    out, manifest = run(sightline, photos, tmp_path / "out", *more)
    assert "4.955" in out
    assert "%" not in out
    assert manifest["model"]["scores"] == manifest["methods"]["eigencam"]["scores"] == "none"


def test_batches_say_the_rule_with_each_row(sightline: Any, photos: Path, one_output: Path, tmp_path: Path):
    from pyarrow.parquet import read_table

    more = ("--model", one_output, "--method", "eigencam", "--engine", "local", "--workers", 0)
    _, manifest = run(sightline, photos, tmp_path / "out", *more)
    rows = read_table(tmp_path / "out" / "results").to_pylist()
    assert [(row["score"], row["score_rule"]) for row in rows] == [(pytest.approx(0.993), "sigmoid")]
    assert manifest["model"]["scores"] == "auto"


def test_a_wrong_rule_is_one_line(sightline: Any, photos: Path, one_output: Path):
    result = sightline("explain", photos / "a.png", "--model", one_output, "--scores", "sofmax")
    assert result.code == 2
    assert result.err == "sightline: unknown scores 'sofmax'; did you mean 'softmax'?\n"


def _commands(group: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    for verb, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name}{verb} ")
        else:
            yield f"{name}{verb}", command


def test_every_verb_that_takes_a_model_takes_a_rule() -> None:
    options = {
        verb: {option for parameter in command.params for option in parameter.opts}
        for verb, command in _commands(typer.main.get_command(build_app()))
    }
    with_model = {verb for verb, names in options.items() if names & {"--model", "--categories"}}
    assert {"explain", "evaluate", "export", "discover units"} <= with_model
    # The model of `refine` is a key of its recipe; a checkpoint brings its own rule.
    assert {verb for verb in with_model if "--scores" not in options[verb]} == {"refine"}
