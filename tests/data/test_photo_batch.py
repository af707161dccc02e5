"""`PhotoBatch`: photos of every kind become one tensor, with where each pixel lies and what could not be read."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sightline.data.items import Item
from sightline.data.photos import PhotoBatch
from sightline.errors import ImageError, InputError
from sightline.models.preprocess import Preprocess

PLAIN = Preprocess((4, 8), 4, mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest")
PIXELS = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_every_kind_of_photo_gives_the_same_tensor(path: Path) -> None:
    sources = [path, str(path), Image.open(path), PIXELS, Item("a", str(path))]
    batch = PhotoBatch.load(sources, PLAIN)
    assert batch.images.shape == (5, 3, 4, 8)
    wanted = torch.from_numpy(PIXELS).permute(2, 0, 1) / 255
    assert all(torch.equal(image, wanted) for image in batch.images)
    assert batch.photos is not None
    assert all(np.array_equal(np.asarray(photo), PIXELS) for photo in batch.photos)
    assert batch.sources[0] is path
    assert (batch.indices, batch.errors, batch.view) == ([0, 1, 2, 3, 4], {}, "whole")


def test_the_view_decides_the_geometry() -> None:
    photo = Image.new("RGB", (40, 10))
    whole, crop = (PhotoBatch.load([photo], PLAIN, view) for view in ("whole", "crop"))
    assert whole.geometries[0].shown_xyxy == (0, 0, 40, 10)
    assert crop.geometries[0].shown_xyxy == (10, 0, 30, 10)


@pytest.mark.parametrize("workers", [1, 3])
def test_what_cannot_be_read_is_collected_in_place(path: Path, workers: int) -> None:
    batch = PhotoBatch.load([path, "gone.png", PIXELS, "no.png"], PLAIN, on_error="collect", workers=workers)
    assert (len(batch), batch.indices) == (2, [0, 2])
    assert batch.errors == {
        1: "no such file or folder: 'gone.png'",
        3: "no such file or folder: 'no.png'",
    }
    with pytest.raises(ImageError, match=r"no such file or folder: 'gone\.png'"):
        PhotoBatch.load([path, "gone.png"], PLAIN, workers=workers)


def test_nothing_could_be_read() -> None:
    batch = PhotoBatch.load(["gone.png"], PLAIN, on_error="collect")
    assert (batch.images.shape, batch.geometries, batch.photos) == ((0, 3, 4, 8), [], [])


def test_checksums_are_of_the_file(path: Path) -> None:
    batch = PhotoBatch.load([path, PIXELS], PLAIN, checksums=True, keep_photos=False)
    assert batch.sha256[0] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert batch.sha256[1] == hashlib.sha256(b"8 4 " + PIXELS.tobytes()).hexdigest()
    assert batch.photos is None


def test_it_goes_where_the_model_is() -> None:
    batch = PhotoBatch.of_tensor(torch.rand(2, 3, 4, 4))
    assert batch.to(nn.Linear(2, 2).double()).images.dtype == torch.float64
    assert batch.to(nn.ReLU()) is batch
    fast = batch.to(memory_format=torch.channels_last)
    assert fast.images.is_contiguous(memory_format=torch.channels_last)


def test_selected_rows_keep_what_belongs_to_them(path: Path) -> None:
    batch = PhotoBatch.load([path, "gone.png", Image.new("RGB", (2, 2))], PLAIN, on_error="collect")
    last = batch.select([1])
    assert (last.indices, last.geometries[0].photo_hw) == ([2], (2, 2))
    assert torch.equal(last.images, batch.images[1:])
    assert last.photos is not None
    assert last.photos[0].size == (2, 2)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.zeros(3, 4, 4),
            "batch has shape (3, 4, 4); expected (N, 3, H, W); add the batch dimension: x[None]",
        ),
        (torch.zeros(0, 3, 4, 4), "batch has shape (0, 3, 4, 4)"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "batch is torch.uint8; expected a float tensor"),
    ],
)
def test_tensors_that_are_no_batch(images: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        PhotoBatch.of_tensor(images)


def test_unknown_choices() -> None:
    with pytest.raises(InputError, match="unknown view 'hole'; did you mean 'whole'"):
        PhotoBatch.load([PIXELS], PLAIN, "hole")
    with pytest.raises(InputError, match="unknown on_error 'colect'; did you mean 'collect'"):
        PhotoBatch.load([PIXELS], PLAIN, on_error="colect")
