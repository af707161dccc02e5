"""The documentation is true: its Python runs, its commands exist, its site builds without a warning."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sightline.cli import main
from sightline.demo_photos import photo_path, photo_paths

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# These pages have tests of their own, beside the verbs that they describe.
ELSEWHERE = ("batch.md", "export.md", "discover/")
PAGES = sorted(
    page
    for page in (str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
    if not page.startswith(ELSEWHERE)
)
BLOCK = re.compile(r"^(<!-- not run: .+ -->\n)?```(python|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: str, language: str) -> list[tuple[bool, str]]:
    """Whether to run it, and the text, of each block of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [(not note, code) for note, kind, code in BLOCK.findall(text) if kind == language]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(photo_path("cat_and_coffee"), tmp_path / "photo.jpg")
    (tmp_path / "photos").mkdir()
    for path in photo_paths():
        shutil.copy(path, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for run, code in blocks(page, "python"):
        compiled = compile(code, page, "exec")
        if run:
            exec(compiled, names)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "console")])
def test_every_option_of_a_page_exists(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(block for _, block in blocks(page, "console")).replace("\\\n", " ")
    lines = text.splitlines()
    for line in (line for line in lines if line.startswith("sightline ")):
        words = shlex.split(line, comments=True)[1:]
        verb = words[:2] if words[0] == "discover" else words[:1]
        if verb[0].startswith("-"):
            continue
        assert main([*verb, "--help"]) == 0, line
        shown = re.sub(r"\s+", " ", capsys.readouterr().out)
        for option in (word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)):
            assert re.search(rf"(^|[\s,]){re.escape(option)}\b", shown), f"{line}: {option}"


def test_each_message_of_the_troubleshooting_page_is_one_that_is_printed() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # one text over two lines of code
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    entries = re.findall(r'^### "(.+)"$', page, re.MULTILINE)
    assert len(entries) > 15
    assert [entry for entry in entries if entry not in source] == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    assert [
        str(path.relative_to(DOCS))
        for path in DOCS.rglob("*.md")
        if f" {path.relative_to(DOCS).as_posix()}\n" not in navigation
    ] == []


@pytest.mark.skipif(not importlib.util.find_spec("mkdocstrings"), reason="needs the extra [docs]")
def test_the_site_builds_without_a_warning_and_asks_no_other_host(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "messages" / "index.html").read_text(encoding="utf-8")
    assert page.count("<li><code>") > 600  # the list of every message, made from the source
    assert "captions are read from .json (COCO) or .csv" in page
    page = (tmp_path / "reference" / "explain" / "index.html").read_text(encoding="utf-8")
    assert "sightline.load_model" in page
    asked = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?://[^\"\s>]+)", page)
    assert asked == []
