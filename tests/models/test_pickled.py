"""Files of `torch.save`: the inert extras of training scripts are read, and code is named and not run."""

from __future__ import annotations

import argparse
import os
import pathlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sightline.errors import InputError
from sightline.models.pickled import read_pickled
from sightline.models.weights import matched, read_weights


def test_a_timm_checkpoint(tmp_path: Path) -> None:
    args = argparse.Namespace(lr=0.1, output=pathlib.Path("a/b"), windows=None)
    torch.save(
        {
            "state_dict": {"module.fc.weight": torch.zeros(2)},
            "state_dict_ema": {"module.fc.weight": torch.ones(2)},
            "args": args,
            "metric": np.float64(0.5),
            "epoch": np.int64(3),
            "best": np.bool_(True),
            "low": np.float32(1),
            "arch": np.str_("resnet18"),
        },
        tmp_path / "last.pth.tar",
    )
    state, _ = read_weights(tmp_path / "last.pth.tar")
    assert list(state) == ["module.fc.weight"]
    assert state["module.fc.weight"].tolist() == [1, 1]  # the averaged ones, as timm prefers
    found = read_pickled(tmp_path / "last.pth.tar")
    assert (found["args"].lr, found["args"].output, found["metric"]) == (
        0.1,
        pathlib.PurePosixPath("a/b"),
        0.5,
    )
    assert (found["epoch"], found["best"], found["arch"]) == (3, True, "resnet18")


def test_a_path_of_another_system(tmp_path: Path) -> None:
    torch.save({"out": pathlib.PureWindowsPath("c:/x")}, tmp_path / "x.pth")
    content = (tmp_path / "x.pth").read_bytes()
    assert b"PureWindowsPath" in content
    found = read_pickled(tmp_path / "x.pth")
    assert found["out"] == pathlib.PureWindowsPath("c:/x")


class Evil:
    def __reduce__(self) -> Any:
        return (os.system, ("touch was-run",))


NAME = f"{os.system.__module__}.system"  # posix or nt


def write_zip(path: Path) -> None:
    torch.save({"fc.weight": Evil()}, path)


def write_legacy(path: Path) -> None:
    torch.save({"fc.weight": Evil()}, path, _use_new_zipfile_serialization=False)


def pickled(protocol: int) -> Any:
    return lambda path: path.write_bytes(pickle.dumps({"fc.weight": Evil()}, protocol=protocol))


@pytest.mark.parametrize("write", [write_zip, write_legacy, *(pickled(protocol) for protocol in range(6))])
def test_code_is_named_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "evil.pth")
    with pytest.raises(
        InputError, match=rf"evil\.pth holds {NAME}, which is code and is not run; expected only"
    ):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "was-run").exists()


class Settings:
    """A class of the user's own, which another machine may lack."""


def test_a_class_of_ones_own_is_named(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(1)}, "settings": Settings()}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"x\.pth holds \S*Settings, which is code"):
        read_weights(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("stored", "own"),
    [
        ("module.fc.bias", "fc.bias"),
        ("model.module.fc.bias", "fc.bias"),
        ("module.model.fc.bias", "model.fc.bias"),
        ("_orig_mod.module.fc.bias", "fc.bias"),
        ("model.fc.bias", "model.fc.bias"),
        ("backbone.fc.bias", "backbone.fc.bias"),
    ],
)
def test_prefixes_of_wrappers(stored: str, own: str) -> None:
    assert list(matched({stored: torch.zeros(1)}, [own])) == [own]
