"""What the README shows, works: its Python runs, its commands exist, its table is the registry."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from sightline.cli import main
from sightline.demo_photos import photo_path
from sightline.methods import list_methods

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_first_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(photo_path("cat_and_coffee"), tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    example, _ = _blocks("python")
    assert len(example.strip().splitlines()) <= 12
    found: dict[str, object] = {}
    exec(example, found)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "000000_285.png",
        "000000_967.png",
        "manifest.json",
    ]
    assert (tmp_path / "cat.png").is_file()


def test_the_targets_of_the_second_exist() -> None:
    _, targets = _blocks("python")
    compile(targets, "README.md", "exec")
    exec(targets.splitlines()[0], {})


@pytest.mark.parametrize(
    "line",
    [line for block in _blocks("console") for line in block.splitlines() if line.startswith("sightline")],
)
def test_every_option_of_every_command_exists(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, verb, *rest = shlex.split(line)
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in (part for part in rest if part.startswith("-")):
        assert f"{option} " in shown


def test_the_table_of_methods_is_the_registry() -> None:
    named = re.findall(r"^\| `(\w+)` \|.*\| (.+) \|$", README, re.MULTILINE)
    assert sorted(name for name, _ in named) == list(list_methods())
    for name, source in named:
        author = list_methods()[name].split()[0].strip(",")
        assert author in source or name == "gradcam_elementwise"


def test_every_file_that_is_linked_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
