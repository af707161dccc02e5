"""What every test shares: one thread, fixed seeds, the folder of real data, and `import toynets`."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

TESTS = Path(__file__).resolve().parent
if str(TESTS) not in sys.path:  # importlib mode adds nothing to the path by itself
    sys.path.insert(0, str(TESTS))

# Threads that wait for each other on a busy machine make these small networks five times slower; processes that
# tests start inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# This process is no command line: it gives its memory back, though tests call `sightline.cli.main`.
os.environ.setdefault("SIGHTLINE_MALLOC", "0")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def _same_seeds_for_every_test() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny40_file() -> Path:
    """A small, quick, trained classifier: the 40-class network that recipes/tiny-imagenet made."""
    return TESTS.parent / "recipes" / "tiny-imagenet" / "tiny40" / "sightline-tiny40.safetensors"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights (SIGHTLINE_SHARED, or ../shared beside the repository)."""
    folder = Path(os.environ.get("SIGHTLINE_SHARED", TESTS.parent.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set SIGHTLINE_SHARED")
    return folder
