"""A small model and eleven photos for the batch road."""

from __future__ import annotations

from multiprocessing.context import BaseContext
from pathlib import Path

import pytest

import toybatch
from sightline.models.loading import LoadedModel


@pytest.fixture
def model() -> LoadedModel:
    return toybatch.small_model()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toybatch.photos(tmp_path_factory.mktemp("road") / "photos", 11)


@pytest.fixture(scope="session")
def processes() -> BaseContext:
    """Processes that share the import of torch."""
    return toybatch.processes()
