"""The allocation policy changes no bit and is never forced on anybody; a start imports no compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import sightline
from sightline import runtime
from sightline.cli import main
from sightline.demo_photos import photo_path
from sightline.errors import InputError
from sightline.runtime import import_light, in_fast_format, tune_cpu, without_compiler

ONE_PROCESS = f"""
import sys, tempfile, torch
import sightline
from sightline import runtime
torch.set_num_threads(1)
photo, out = {str(photo_path("coffee"))!r}, tempfile.mkdtemp()
model = sightline.load_model()
heatmaps = lambda: sightline.explain(model, [photo] * 2, method="layercam", classes="top2").heatmaps()
before = heatmaps()
assert runtime._tuned is None, "the library set the policy by itself"
from sightline.cli import main
assert main(["explain", photo, "--out", out + "/default"]) == 0
assert runtime._tuned is (runtime._glibc() is not None)
print("bits:", torch.equal(before, heatmaps()))
print("default:", sorted({{"torch._dynamo", "torchvision", "timm", "pandas", "sympy"}} & set(sys.modules)))
random = ["--weights", "none", "--out"]
assert main(["explain", photo, "--model", "timm/test_resnet", *random, out + "/timm"]) == 0
assert main(["explain", photo, "--model", "squeezenet1_1", *random, out + "/torchvision"]) == 0
print("others:", sorted({{"torch._dynamo", "torch._inductor", "matplotlib.pyplot", "sympy"}} & set(sys.modules)))
"""


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A C library that writes down what it is told, in a process that was told nothing yet."""
    told: list[tuple[int, int]] = []

    def mallopt(what: int, value: int) -> int:
        told.append((what, value))
        return 1

    monkeypatch.setattr(runtime, "_glibc", lambda: SimpleNamespace(mallopt=mallopt))
    monkeypatch.setattr(runtime, "_tuned", None)
    monkeypatch.delenv(runtime.VARIABLE, raising=False)
    return told


def test_the_policy_changes_no_bit_and_a_start_imports_no_compiler() -> None:
    """The costly imports are counted here, never timed: torch's compiler costs as much as torch itself."""
    environment = {name: value for name, value in os.environ.items() if name != runtime.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", ONE_PROCESS], capture_output=True, text=True, env=environment, timeout=200
    )
    assert done.returncode == 0, done.stderr
    told = [
        line for line in done.stdout.splitlines() if line.split(" ")[0] in ("bits:", "default:", "others:")
    ]
    others = "['sympy']" if torch.__version__.startswith("2.7.") else "[]"  # PyTorch 2.7 itself imports it
    assert told == ["bits: True", "default: []", f"others: {others}"]


def test_glibc_is_told_once(library: list[tuple[int, int]]) -> None:
    assert sightline.tune_cpu()
    assert tune_cpu()
    assert library == [(-4, 0), (-1, -1), (-2, 64 * 1024 * 1024)]  # malloc.h


@pytest.mark.parametrize("off", ["0", "off", " False "])
def test_switched_off(library: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, off: str) -> None:
    monkeypatch.setenv(runtime.VARIABLE, off)
    assert not tune_cpu()
    assert library == []


def test_nonsense_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(runtime.VARIABLE, "jemalloc")
    with pytest.raises(InputError, match=r"SIGHTLINE_MALLOC='jemalloc'; expected 1 .* or 0"):
        tune_cpu()
    assert main(["methods"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("library", [OSError("no such library"), SimpleNamespace(mallopt=None)])
def test_without_glibc_nothing_happens_silently(monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
    def load(name: None) -> Any:
        if isinstance(library, OSError):
            raise library
        return library  # musl: it has no gnu_get_libc_version

    monkeypatch.setattr(runtime, "ctypes", SimpleNamespace(CDLL=load))
    monkeypatch.setattr(runtime, "_tuned", None)
    monkeypatch.setenv(runtime.VARIABLE, "1")
    assert not tune_cpu()
    monkeypatch.setattr(runtime.sys, "platform", "darwin")
    assert not tune_cpu()


def test_the_fast_format_agrees_and_leaves_networks_of_tokens() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip
    images = torch.rand(2, 3, 20, 24)
    before = sightline.explain(net, images, method="layercam").maps
    assert in_fast_format(net) is net
    assert net[2].weight.is_contiguous(memory_format=torch.channels_last)
    after = sightline.explain(net, images, method="layercam").maps
    assert torch.allclose(after, before, atol=1e-5 * float(before.max()))
    patches = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(), nn.Linear(8, 2))
    assert in_fast_format(patches)[0].weight.is_contiguous()


def test_the_stand_ins_are_gone_afterwards_and_ask_the_compiler_when_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "_dynamo" in vars(
        torch
    ):  # bound where another test has loaded the compiler; asking torch for it would load it
        monkeypatch.delattr(torch, "_dynamo")
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    monkeypatch.delitem(sys.modules, "torch._dynamo.utils", raising=False)
    with without_compiler():
        from torch._dynamo.utils import is_compile_supported

        doubled = torch.compiler.disable(lambda x: 2 * x)
    assert "torch._dynamo" not in sys.modules
    assert doubled(3) == 6  # no compiler, nothing to disable
    compiler = SimpleNamespace(eval_frame=None, disable=lambda f, recursive, **_: lambda x: -f(x))
    monkeypatch.setitem(sys.modules, "torch._dynamo", compiler)  # type: ignore[arg-type]
    utils = SimpleNamespace(is_compile_supported=lambda device: device == "cuda")
    monkeypatch.setitem(sys.modules, "torch._dynamo.utils", utils)  # type: ignore[arg-type]
    assert doubled(3) == -6
    assert (is_compile_supported("cuda"), is_compile_supported("cpu")) == (True, False)


def test_a_package_that_is_not_there() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        import_light("no_such_package")
