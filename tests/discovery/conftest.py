"""The colour network as a loaded model, and photos as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from colournet import PLAIN, Colours
from sightline.models.loading import LoadedModel


@pytest.fixture
def colours() -> LoadedModel:
    return LoadedModel(Colours(), "colours", ("reddish", "greenish"), PLAIN)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[list[PIL.Image.Image]], list[Path]]:
    """Photos as PNG files."""

    def write(photos: list[PIL.Image.Image]) -> list[Path]:
        paths = []
        for number, photo in enumerate(photos):
            paths.append(tmp_path / f"{number}.png")
            photo.save(paths[-1])
        return paths

    return write
