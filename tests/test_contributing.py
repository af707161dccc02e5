"""The how-tos of CONTRIBUTING.md, each followed once from an empty folder: files saved, commands and Python run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

import sightline
from sightline import demo_photos, plugins
from sightline.cli import main
from sightline.data import unregister_dataset
from sightline.errors import InputError
from sightline.methods import unregister_method
from sightline.metrics.registry import unregister_metric

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
PHOTO = Path(demo_photos.__file__).parent / "chelsea.jpg"


class HowTo(NamedTuple):
    """One how-to: the file to save, the commands to give, the Python to run."""

    file: str
    code: str
    commands: list[str]
    python: str


def how_to(title: str) -> HowTo:
    section = re.split(r"^### ", TEXT, flags=re.M)
    (body,) = [part for part in section if part.startswith(title + "\n")]
    code, python = [*re.findall(r"```python\n(.*?)```", body, flags=re.S), ""][:2]
    (file,) = re.findall(r"Save this as\s+`(\w+\.py)`", body)
    commands = [
        line for block in re.findall(r"```console\n(.*?)```", body, flags=re.S) for line in block.splitlines()
    ]
    return HowTo(file, code, commands, python)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a photo, a folder of photos, and a data set of two; what plugins register is taken out again."""
    for name in (
        "photo.jpg",
        "photos/a.jpg",
        "photos/b.jpg",
        "data/val/tabby/a.jpg",
        "data/val/goldfish/b.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PHOTO, tmp_path / name)
    lines = ("val,val/tabby/a.jpg,tabby,100,20,399,279", "val,val/goldfish/b.jpg,goldfish,10,10,59,59")
    (tmp_path / "data" / "objects.csv").write_text("\n".join([*lines, "test,x,x,0,0,1,1"]))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in plugins.loaded_plugins():
        if name.startswith(str(tmp_path)):
            plugins.forget_plugin(name)
    for unregister, name in (
        (unregister_method, "mine"),
        (unregister_dataset, "mine"),
        (unregister_metric, "kept"),
    ):
        with suppress(InputError):
            unregister(name)


def follow(recipe: HowTo, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    """Do what it says; what each command and the Python printed."""
    (folder / recipe.file).write_text(recipe.code, encoding="utf-8")
    printed = []
    for command in recipe.commands:
        verb = shlex.split(command)
        assert verb[0] == "sightline"
        code = main(verb[1:])
        captured = capsys.readouterr()
        assert code == 0, f"{command}: {captured.err}"
        printed.append(captured.out)
    exec(compile(recipe.python, "CONTRIBUTING.md", "exec"), {})
    return printed, capsys.readouterr().out


def test_a_method(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed, python = follow(how_to("Add a method"), folder, capsys)
    assert "M = ReLU(Σ_k g^k ⊙ A^k)^power" in printed[0]
    assert " mine " in printed[1]
    assert "2 images" in printed[2]
    assert "tensor([[" in python


def test_a_data_set(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed, python = follow(how_to("Add a data set"), folder, capsys)
    assert "--data-option kinds=" in printed[0]
    assert "mine, split val: 2 images" in printed[1]
    assert python == "2 ('tabby', 'goldfish')\n"


@pytest.mark.parametrize(
    ("corners", "expected"),
    [("abc,0,1,1", "expected numbers"), ("9,0,3,1", "expected x0 <= x1 and y0 <= y1")],
)
def test_a_data_set_s_faults_name_their_line(folder: Path, corners: str, expected: str) -> None:
    (folder / "mine_dataset.py").write_text(how_to("Add a data set").code, encoding="utf-8")
    plugins.load_plugin(folder / "mine_dataset.py")
    (folder / "data" / "objects.csv").write_text(f"val,a,b,0,0,1,1\nval,a,b,{corners}\n")
    with pytest.raises(InputError, match=rf"objects\.csv, line 2: corners .*; {expected}"):
        sightline.load_dataset(folder / "data", "mine")


def test_a_metric(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed, python = follow(how_to("Add a faithfulness metric"), folder, capsys)
    assert "kept ↑: share of the probability that is left" in printed[0]
    assert "kept ↑" in printed[1]
    assert "| gradcam |" in python


def test_a_layout(folder: Path) -> None:
    """A script of its own: what is found automatically and what is named give the same maps."""
    recipe = how_to("Add a layout")
    (folder / recipe.file).write_text(recipe.code, encoding="utf-8")
    done = subprocess.run([sys.executable, recipe.file], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("['norm'] True (2, 1, 6, 5)\n", "")
