"""A data set that trains in a second: three colours on noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sightline.training.checkpoint import read_checkpoint
from sightline.training.recipe import Recipe, make_recipe
from sightline.types import Dataset


@dataclass(frozen=True)
class Blind:
    """A sample that says where its photo is and what it shows; whoever asks for a box is found out."""

    id: str
    source: Image.Image
    label: int | None

    @property
    def boxes_xyxy(self) -> Any:
        raise AssertionError("training looked at a box")

    @property
    def masks(self) -> Any:
        raise AssertionError("training looked at a mask")


@pytest.fixture
def colours() -> Any:
    return make_colours


def make_colours(count: int = 24, start: int = 0) -> Dataset:
    """``count`` photos of 12×12 with labels 0, 1, 2: their red, green or blue is bright."""
    samples = []
    for i in range(start, start + count):
        pixels = np.random.default_rng(i).integers(0, 120, (12, 12, 3), dtype=np.uint8)
        pixels[..., i % 3] += 130
        samples.append(Blind(f"photo{i}", Image.fromarray(pixels), i % 3))
    return Dataset("colours", "train", samples, ("red", "green", "blue"))  # type: ignore[arg-type]


@pytest.fixture
def tiny(tmp_path) -> Any:
    """Makes a recipe of a tiny network; keys are overridden like ``optimiser={"lr": 1}``."""

    def make(out: str = "run", **parts: dict[str, Any]) -> Recipe:
        trunk = {"stem": 4, "widths": [8], "blocks": [1], "strides": [2]}
        base: dict[str, dict[str, Any]] = {
            "data": {"root": "in memory", "test": None},
            "model": {"name": "small-gap", "options": trunk},
            "optimiser": {"epochs": 3, "batch_size": 8, "lr": 0.05, "head_lr_factor": 1, "ema": 0.9},
            "augment": {"sizes": {0: 8, 1: 12}, "cutmix": 0.5, "plain_epochs": 1},
            "test": {"sizes": [12, 16]},
            "run": {
                "out": str(tmp_path / out), "accelerator": "cpu", "devices": 1, "progress": False,
                "tensorboard": False, "half_weights": False,
            },
        }  # fmt: skip
        for part, values in parts.items():
            base[part] = {**base[part], **values}
        return make_recipe(base)

    return make


@pytest.fixture
def same_weights() -> Callable[[Path, Path], bool]:
    """Whether two checkpoints hold the same, to the last bit."""

    def same(left: Path, right: Path) -> bool:
        a, b = read_checkpoint(left)[0], read_checkpoint(right)[0]
        return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

    return same


@pytest.fixture
def write_photos() -> Callable[[Path], None]:
    """Writes Tiny ImageNet's layout, 3 classes of 40 photos."""

    def write(root: Path) -> None:
        root.mkdir()
        (root / "wnids.txt").write_text("n01\nn02\nn03\n")
        (root / "words.txt").write_text("n01\tred\nn02\tgreen\nn03\tblue\n")
        for label in range(3):
            wnid = f"n0{label + 1}"
            images = root / "train" / wnid / "images"
            images.mkdir(parents=True)
            for i in range(40):
                pixels = np.random.default_rng((label, i)).integers(0, 120, (64, 64, 3), dtype=np.uint8)
                pixels[..., label] += 130
                Image.fromarray(pixels).save(images / f"{wnid}_{i}.JPEG")
            lines = [f"{wnid}_{i}.JPEG\t0\t0\t63\t63\n" for i in range(40)]
            (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(lines))

    return write
