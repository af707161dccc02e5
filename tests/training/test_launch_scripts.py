"""The launch scripts of recipes/ilsvrc: what they start, with torchrun and SLURM played by small scripts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dataset_fixtures import write_ilsvrc_fixture
from sightline.cli import main

RECIPES = Path(__file__).parents[2] / "recipes" / "ilsvrc"


def started(script: str, folder: Path, *arguments: str, **environment: str) -> list[str]:
    """The command line that torchrun gets."""
    tools = {
        "torchrun": 'printf "%s\\n" "$@"',
        "srun": 'exec "$@"',
        "scontrol": '[ "$*" = "show hostnames a[1-2]" ] && printf "a1\\na2\\n"',
    }
    for name, body in tools.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    done = subprocess.run(
        ["bash", str(RECIPES / script), *arguments],
        env={"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def dry_run(
    line: list[str], world: int, local: int, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> list[str]:
    """The plan of what torchrun would start, made in this process, on photos drawn here."""
    write_ilsvrc_fixture(data)
    for name, value in (
        ("TORCHELASTIC_RUN_ID", "a"),
        ("WORLD_SIZE", world),
        ("LOCAL_WORLD_SIZE", local),
        ("RANK", 0),
    ):
        monkeypatch.setenv(name, str(value))
    start = line.index("-m")
    assert line[start : start + 3] == ["-m", "sightline", "train"]
    changes = [
        "--set", f"data.root={data}", "--set", "model.pretrained=false", "--set", "data.workers=0",
    ]  # fmt: skip
    assert main([*line[start + 2 :], *changes, "--dry-run"]) == 0
    return capsys.readouterr().out.splitlines()


def test_one_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    recipe = str(RECIPES / "alexnet-gap.yaml")
    line = started("one-node.sh", tmp_path, recipe, "--set", "run.out=here")
    assert line[:3] == ["--standalone", "--nproc-per-node", "8"]
    assert started("one-node.sh", tmp_path, recipe, GPUS="4")[2] == "4"
    told = dry_run(line, 8, 8, tmp_path / "data", monkeypatch, capsys)
    assert told[3].endswith(", 32 on each of 1 × 8 devices")
    assert told[4] == "result: here"


def test_several_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    slurm = {"SLURM_JOB_NODELIST": "a[1-2]", "SLURM_NNODES": "4", "SLURM_JOB_ID": "17"}
    line = started("several-nodes.sbatch", tmp_path, str(RECIPES / "alexnet-gap.yaml"), **slurm)
    assert line[: line.index("-m")] == [
        "--nnodes", "4", "--nproc-per-node", "8",
        "--rdzv-id", "17", "--rdzv-backend", "c10d", "--rdzv-endpoint", "a1:29500",
    ]  # fmt: skip
    told = dry_run(line, 32, 8, tmp_path / "data", monkeypatch, capsys)
    assert told[3].endswith(", 32 on each of 4 × 8 devices")
