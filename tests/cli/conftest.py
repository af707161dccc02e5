"""Small photos and fixed random weights, so that a whole command runs in a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import pytest
import torch

from sightline.cli import main


class Result(NamedTuple):
    """What a user gets back."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def sightline(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command line in this process."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three photos: a bright square at another place in each."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.jpg", "c.png")):
        pixels = np.full((60, 80, 3), 40, np.uint8)
        pixels[10:30, 20 * number : 20 * number + 25] = (220, 180, 60)
        PIL.Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a SqueezeNet with four classes, the same in every run."""
    from safetensors.torch import save_file
    from torchvision.models import squeezenet1_1

    path = tmp_path_factory.mktemp("weights") / "four.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(squeezenet1_1(num_classes=4).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The names of those four classes."""
    path = tmp_path_factory.mktemp("names") / "names.txt"
    path.write_text("boxer\nbull mastiff\ntabby, tabby cat\ntiger cat\n")
    return path


@pytest.fixture
def model(weights: Path, names: Path) -> list[object]:
    """The options that name that network."""
    return ["--model", "squeezenet1_1", "--weights", weights, "--categories", names, "--device", "cpu"]
