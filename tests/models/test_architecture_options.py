"""What a checkpoint's metadata may not do: read a file, fetch a URL, run code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sightline.errors import InputError
from sightline.models.architecture_options import checked_architecture_options
from sightline.models.loading import load_model


class Marker:
    """A pickle that writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def checkpoint(path: Path, architecture: str, options: object) -> Path:
    text = json.dumps({"architecture": architecture, "architecture_options": options})
    save_file({"w": torch.zeros(1)}, path, metadata={"sightline": text})
    return path


@pytest.mark.parametrize("architecture", ["timm/test_resnet", "timm/test_resnet-gap", "refined"])
def test_metadata_names_no_file_to_unpickle(tmp_path: Path, architecture: str) -> None:
    marker, evil = tmp_path / "ran", tmp_path / "evil.pth"
    evil.write_bytes(pickle.dumps({"state_dict": Marker(marker)}))
    options: object = {"checkpoint_path": str(evil)}
    if architecture == "refined":
        options = {"base": "timm/test_resnet-gap", "base_options": options}
    with pytest.raises(InputError, match=r"cannot be built with .'checkpoint_path'"):
        load_model(checkpoint(tmp_path / "a.safetensors", architecture, options))
    assert not marker.exists()


@pytest.mark.parametrize(
    "options",
    [
        {"pretrained": True, "pretrained_cfg_overlay": {"url": "http://127.0.0.1:1/x.pth"}},
        {"pretrained_cfg": {"file": "x.pth"}},
        {"trunk_weights": "x.pth"},
        {"weights": "DEFAULT"},
        {"norm_layer": "builtins.exec"},
    ],
)
def test_metadata_fetches_nothing(
    tmp_path: Path, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    for architecture in ("timm/test_resnet", "resnet18", "resnet18-gap"):
        with pytest.raises(InputError, match="cannot be built with"):
            load_model(checkpoint(tmp_path / "a.safetensors", architecture, options))


def test_metadata_names_no_hub_and_no_folder(tmp_path: Path) -> None:
    for name in ("timm/hf-hub:someone/net", "timm/local-dir:/tmp", "timm/local-dir:/tmp-gap"):
        with pytest.raises(InputError, match="unknown"):
            load_model(checkpoint(tmp_path / "a.safetensors", name, {}))
    options = {"base": "timm/local-dir:/tmp-gap"}
    with pytest.raises(InputError, match="unknown"):
        load_model(checkpoint(tmp_path / "a.safetensors", "refined", options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([1], "architecture_options is a list; expected an object"),
        ({"theta": "0.1"}, "theta='0.1' for small-gap; expected a number"),
        ({"widths": [1, -1]}, "expected a list of counts"),
        ({"widths": [10**9]}, "expected a list of counts"),
        ({"stem": True}, "expected a count"),
        ({"norm": "../x"}, "expected batch or group"),
        ({"base_options": {"base_options": {"base_options": {"base_options": {}}}}}, "nested too deep"),
    ],
)
def test_values_are_plain(options: object, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        checked_architecture_options(options, "a.safetensors", "small-gap")
