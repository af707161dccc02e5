"""Registries and plugins: what a user adds is found everywhere, and what fails is told in one line."""

from __future__ import annotations

import operator
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sightline
from sightline import plugins
from sightline.errors import InputError
from sightline.methods import get_method, list_methods, register_method, unregister_method
from sightline.methods.registry import Additions
from sightline.registry import Registry

METHOD = """
from sightline import register_method

@register_method("halfcam", paper="a test")
def halfcam(evidence, target, *, share: float = 0.5):
    \"\"\"Half of the sum over the channels.\"\"\"
    return share * evidence.activations.sum(1)
"""


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Plugins that a test loads are forgotten, and the search for them is as it was."""
    loaded = plugins.loaded_plugins()
    yield
    for name in set(plugins.loaded_plugins()) - set(loaded):
        plugins.forget_plugin(name)
    os.environ.pop("SIGHTLINE_PLUGINS", None)
    plugins.find_plugins()
    if "halfcam" in list_methods():
        unregister_method("halfcam")


@pytest.fixture
def halfcam(tmp_path: Path) -> Path:
    path = tmp_path / "halfcam.py"
    path.write_text(METHOD)
    return path


def distribution(folder: Path, value: str, name: str = "half") -> None:
    """A distribution without code of its own that offers one entry point."""
    info = folder / "half_plugin-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: half-plugin\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[sightline.plugins]\n{name} = {value}\n")


def test_the_user_s_entry_is_found_before_the_built_in_one_and_hides_it_only() -> None:
    own = Registry[int]("thing")
    own.add("a", 1, "mine.module")
    own.add("a", 2, "sightline.methods.a")
    assert own.get("a") == 1
    assert dict(own.own) == {"a": 1}
    own.remove("a")
    assert own.get("a") == 2
    own.remove("a")
    with pytest.raises(InputError, match="unknown thing 'a'"):
        own.remove("a")


def test_a_built_in_method_comes_back() -> None:
    paper = get_method("cam").paper
    with pytest.warns(UserWarning, match=r"method 'cam' of .*test_registry hides the built-in one"):
        register_method("cam", paper="mine")(lambda evidence, target: evidence.activations.sum(1))
    assert list_methods()["cam"] == "mine"
    unregister_method("cam")
    assert list_methods()["cam"] == paper


def test_built_in_entries_are_loaded_at_the_first_look_up() -> None:
    lazy = Registry[int]("module", builtin=("sightline.cli.discover.*",))
    gone = [name for name in sys.modules if name.startswith("sightline.cli.discover.")]
    for name in gone:
        del sys.modules[name]
    assert lazy.names() == []
    assert "sightline.cli.discover.units" in sys.modules


def test_a_file_is_run_once_and_its_methods_are_known(halfcam: Path) -> None:
    module = sightline.load_plugin(halfcam)
    assert list_methods()["halfcam"] == "a test"
    assert sightline.load_plugin(str(halfcam)) is module
    assert str(halfcam) in plugins.loaded_plugins()
    assert sys.modules[module.__name__] is module


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\ny = x.z\n", "line 2: AttributeError: 'int' object has no attribute 'z'"),
        ("def f(:\n", "line 1: SyntaxError: "),
        (
            "import nowhere_to_be_found\n",
            "line 1: ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        ),
        ("raise SystemExit(3)\n", "line 1: SystemExit: 3"),
    ],
)
def test_a_file_that_fails_names_its_line(tmp_path: Path, code: str, message: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(code)
    for _ in range(2):  # a failure is not remembered as success
        with pytest.raises(InputError) as caught:
            sightline.load_plugin(path)
        assert str(caught.value).startswith(f"plugin {path}, {message}")
        assert "\n" not in str(caught.value)


def test_a_module_that_does_not_exist_or_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"plugin 'no_such_thing': no such module; expected FILE\.py"):
        sightline.load_plugin("no_such_thing")
    (tmp_path / "needs_more.py").write_text("import no_such_thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="plugin needs_more: ModuleNotFoundError: No module named"):
        sightline.load_plugin("needs_more")


def test_the_variable_names_plugins(halfcam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_PLUGINS", os.pathsep.join(["", str(halfcam)]))
    plugins.search_again()
    assert get_method("halfcam").options["share"].default == 0.5


@pytest.mark.parametrize("value", ["half_module", "half_module:setup"])
def test_an_installed_distribution_is_found(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = METHOD if value == "half_module" else "def setup():\n" + METHOD.replace("\n", "\n    ")
    (tmp_path / "half_module.py").write_text(body)
    distribution(tmp_path, value)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "half_module", raising=False)
    plugins.search_again()
    assert "halfcam" in list_methods()


def test_an_installed_plugin_that_fails_is_a_warning_that_names_its_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_half.py").write_text("1 / 0\n")
    distribution(tmp_path, "broken_half")
    monkeypatch.syspath_prepend(tmp_path)
    plugins.search_again()
    with pytest.warns(UserWarning, match="could not be loaded") as caught:
        assert "cam" in list_methods()
    assert [str(warning.message) for warning in caught] == [
        "plugin 'half' of half-plugin 1.2 could not be loaded: ZeroDivisionError: division by zero"
    ]
    assert "cam" in list_methods()  # it is said once


def test_another_process_is_told_what_this_one_knows(halfcam: Path) -> None:
    """Plugins by their names; functions that come from no plugin themselves."""
    sightline.load_plugin(halfcam)
    register_method("borrowed", paper="a test")(operator.add)
    try:
        told = Additions.here()
    finally:
        unregister_method("borrowed")
    assert str(halfcam) in told.plugins
    assert [method.name for method in told.methods] == ["borrowed"]
    code = (
        "import pickle, sys; pickle.loads(sys.stdin.buffer.read()).register()\n"
        "from sightline import list_methods; print(list_methods()['halfcam'], list_methods()['borrowed'])"
    )
    there = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(told), capture_output=True)
    assert (there.stdout.split(), there.stderr) == ([b"a", b"test"] * 2, b"")
