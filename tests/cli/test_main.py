"""What holds for every command: light start, help with examples, one line for a mistake, exit codes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sightline import __version__
from sightline.cli import main, verbs

HEAVY = ("torch", "torchvision", "numpy", "matplotlib", "PIL", "scipy", "cv2", "lightning", "timm")


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_help_of_every_verb_imports_nothing_heavy() -> None:
    code = f"""
import sys
from sightline.cli import main, verbs
for verb in ["", *verbs()]:
    main([verb, "--help"] if verb else ["--help"])
main(["--version"])
print("heavy:", sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = _python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize("verb", verbs())
def test_every_help_has_an_example(verb: str, sightline: Any) -> None:
    result = sightline(verb, "--help")
    assert result.code == 0
    assert any(line.strip().startswith(f"sightline {verb}") for line in result.out.splitlines())


def test_version_and_bare_call(sightline: Any) -> None:
    assert sightline("--version").out == f"sightline {__version__}\n"
    bare = sightline()
    assert bare.code == 0
    assert "sightline demo" in bare.out


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sightline", "explan"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("sightline: No such command 'explan'. Did you mean 'explain'?")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["expln"], "No such command 'expln'. Did you mean 'explain'? (see: sightline --help)"),
        (["explain"], "Missing argument"),
        (["explain", "x.png", "--thresold", "0.2"], "No such option: --thresold"),
        (["explain", "x.png", "--threshold", "many"], "Invalid value for '--threshold'"),
        (["explain", "x.png", "--threshold", "2"], "Invalid value for '--threshold'"),
        (["explain", "x.png", "--batch-size", "0"], "Invalid value for '--batch-size'"),
        (["methods", "gradcm"], "unknown method 'gradcm'; did you mean 'gradcam'"),
        (["models", "resnet5"], "unknown model 'resnet5'; did you mean 'resnet50'"),
        (["layers", "resnet5"], "unknown model 'resnet5'; did you mean"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(arguments: list[str], message: str, sightline: Any) -> None:
    result = sightline(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith(f"sightline: {message}")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "sightline: interrupted\n"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/a.png"),
            2,
            "No space left on device: out/a.png",
        ),
        (MemoryError(), 2, "sightline: out of memory; try a smaller --batch-size"),
    ],
)
def test_what_the_world_does(
    raised: BaseException, code: int, line: str, sightline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(pattern: str) -> list[str]:
        raise raised

    monkeypatch.setattr("sightline.models.loading.list_models", fails)
    result = sightline("models")
    assert result.code == code
    assert line in result.err
    assert result.err.count("\n") == 1


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(pattern: str) -> list[str]:
        raise KeyError("a bug")

    monkeypatch.setattr("sightline.models.loading.list_models", fails)
    with pytest.raises(KeyError, match="a bug"):
        main(["models"])


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    script = tmp_path / "many.py"
    script.write_text(
        "import sys, types\n"
        "fake = sys.modules['sightline.models.loading'] = types.ModuleType('loading')\n"
        "fake.list_models = lambda pattern: ['x' * 80] * 200000\n"
        "fake.about_model = lambda name: None\n"
        "from sightline.cli import main\n"
        "sys.exit(main(['models']))\n"
    )
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == b"x" * 80 + b"\n"
        running.stdout.close()  # as `| head -n 1` does
        assert running.stderr.read() == b""
        assert running.wait(60) in (0, 1)  # as the last write was begun before or after the close
