"""Saved maps on disk: how they are found, and the size of a photo without reading it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from sightline.data.images import photo_size
from sightline.data.saved_maps import SavedMaps, read_map
from sightline.errors import ImageError
from sightline.types import Sample, ZipMember


def sample(image_id: str, size: tuple[int, int] = (6, 4)) -> Sample:
    return Sample(image_id, PIL.Image.new("RGB", size), 0)


@pytest.mark.parametrize("name", ["train/cat/1.jpg", "train/cat/1"])
def test_ids_with_folders_and_suffixes(tmp_path: Path, name: str) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    np.save(tmp_path / f"{name}.npy", np.arange(24.0).reshape(4, 6))
    maps = SavedMaps(tmp_path, [sample("train/cat/1.jpg"), sample("train/cat/2.jpg")])
    found, photo_hw = maps.read(sample("train/cat/1.jpg"))
    assert photo_hw == (4, 6)
    assert found[3, 5] == 23
    assert (maps.missing, maps.strangers) == (["train/cat/2.jpg"], [])


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int32", "float16", "float32", "float64", "uint16"])
def test_numbers_of_every_kind(tmp_path: Path, dtype: str) -> None:
    values = np.array([[0, 1], [1, 0]]).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    found = read_map(tmp_path / "a.npy")
    assert found.tolist() == [[0, 1], [1, 0]]
    assert found.dtype == ("float64" if dtype == "float64" else "float32")


def test_a_16_bit_png_keeps_its_values(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.array([[0, 40000]], np.uint16)).save(tmp_path / "a.png")
    assert read_map(tmp_path / "a.png").tolist() == [[0, 40000]]


def test_the_size_of_a_photo_lying_on_its_side(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (8, 5)).save(tmp_path / "lying.jpg", exif=exif)
    PIL.Image.new("RGB", (8, 5)).save(tmp_path / "upright.jpg")
    assert photo_size(tmp_path / "lying.jpg") == (8, 5)
    assert photo_size(tmp_path / "upright.jpg") == (5, 8)
    assert photo_size(PIL.Image.new("RGB", (8, 5))) == (5, 8)


def test_the_size_of_a_photo_in_an_archive(tmp_path: Path) -> None:
    import zipfile

    PIL.Image.new("RGB", (8, 5)).save(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "a.png")
    assert photo_size(ZipMember(tmp_path / "a.zip", "a.png")) == (5, 8)


def test_a_photo_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(ImageError, match="is not an image of a known format"):
        photo_size(tmp_path / "a.jpg")
