"""`--json` prints the table as JSON and nothing else; and the shell completes verbs and options."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dataset_fixtures import write_tiny_imagenet_fixture
from sightline.cli import discover, verbs
from sightline.cli._verbs import verbs_in

ROOT = Path(__file__).parents[2]
SERVERS = {"label-studio", "app"}


@pytest.mark.parametrize(
    ("verb", "column"),
    [("methods", "method"), ("datasets", "data set"), ("metrics", "metric"), ("data", "data set")],
)
def test_a_list_as_json(verb: str, column: str, sightline: Any) -> None:
    done = sightline(verb, "--json")
    assert done.code == 0
    rows = json.loads(done.out)
    assert len(rows) > 3
    assert all(row[column] for row in rows)


def test_models_and_layers_as_json(sightline: Any) -> None:
    assert "squeezenet1_1" in json.loads(sightline("models", "squeeze*", "--json").out)
    rows = json.loads(sightline("layers", "squeezenet1_1", "--json").out)
    assert [row["layer"] for row in rows if row["chosen"]] == ["features"]


DISCOVER = verbs_in(discover.__path__, [])


@pytest.mark.parametrize(
    "verb", [*sorted(set(verbs()) - SERVERS - {"discover"}), *(f"discover {name}" for name in DISCOVER)]
)
def test_every_verb_that_ends_has_it(verb: str, sightline: Any) -> None:
    assert "--json" in sightline(*verb.split(), "--help").out


def test_a_report_and_a_plan_as_json(sightline: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_tiny_imagenet_fixture(tmp_path / "data")
    manifest = {"kind": "explain", "images": [], "errors": [], "complete": True}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    done = sightline("report", tmp_path / "out", "--json")
    page = tmp_path / "out" / "report.html"
    assert json.loads(done.out) == {"report": str(page), "bytes": page.stat().st_size}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"data: {{root: {tmp_path / 'data'}, train: train, test: val}}\nmodel: {{name: small-gap}}\n"
    )
    plan = json.loads(sightline("train", recipe, "--dry-run", "--json").out)["plan"]
    assert any("12 photos" in line for line in plan), plan


def test_the_shell_completes(sightline: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("_SIGHTLINE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "sightline lay")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        sightline()
    monkeypatch.delenv("_SIGHTLINE_COMPLETE")
    assert "--install-completion" in sightline("--help").out


def test_llms_txt_names_what_exists() -> None:
    text = (ROOT / "llms.txt").read_text(encoding="utf-8")
    for path in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / path).is_file(), path
    named = re.search(r"`sightline (explain\|[^`]+)`", text, re.S)[1]  # type: ignore[index]
    assert set(re.sub(r"\s", "", named).split("|")) <= set(verbs())
