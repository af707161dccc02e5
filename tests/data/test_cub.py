"""CUB-200-2011: read back as drawn, and every way to get it wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_fixtures import write_cub_fixture
from sightline.data.adapters.cub import read_cub
from sightline.errors import InputError


@pytest.mark.parametrize("inner", ["", "CUB_200_2011"])
def test_reads_what_was_drawn(tmp_path: Path, same: Callable[..., None], inner: str) -> None:
    drawn = write_cub_fixture(tmp_path)
    for split in ("train", "test"):
        dataset = read_cub(tmp_path / inner, split)
        same(dataset, drawn[split])
        assert (dataset.name, dataset.categories) == ("cub", ("000 box", "001 disc", "002 box"))


def test_the_mask_is_the_birds(tmp_path: Path) -> None:
    write_cub_fixture(tmp_path)
    sample = read_cub(tmp_path)[0]
    (mask,) = sample.masks
    x0, y0, x1, y1 = map(int, sample.boxes_xyxy[0].tolist())
    assert (np.asarray(Image.open(mask))[y0:y1, x0:x1] == 255).all()
    assert (np.asarray(Image.open(mask)) == 255).sum() == (x1 - x0) * (y1 - y0)


def test_without_segmentations_there_are_no_masks(tmp_path: Path) -> None:
    write_cub_fixture(tmp_path, masks=False)
    assert read_cub(tmp_path)[0].masks == ()


def test_literal_lines_of_the_real_files(tmp_path: Path, edit: Callable[..., None]) -> None:
    """Image 1 of the real CUB: 60.0 27.0 325.0 304.0, x y width height."""
    write_cub_fixture(tmp_path, side=400)
    edit(tmp_path / "CUB_200_2011" / "bounding_boxes.txt", 1, "1 60.0 27.0 325.0 304.0")
    edit(tmp_path / "CUB_200_2011" / "classes.txt", 1, "1 001.Black_footed_Albatross")
    dataset = read_cub(tmp_path, "train")
    assert dataset[0].boxes_xyxy.tolist() == [[60, 27, 385, 331]]
    assert dataset.categories[0] == "Black footed Albatross"


def test_there_is_no_val(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"unknown split 'val'; valid: train, test \(CUB has no val: hold out"
    ):
        read_cub(tmp_path, "val")


@pytest.mark.parametrize(
    ("file", "line", "text", "message"),
    [
        ("images.txt", 2, "2", r"images\.txt, line 2: expected 2 columns \(id, file\), got 1: '2'"),
        ("images.txt", 2, "1 a.jpg", r"images\.txt, line 2: '1' is already in line 1"),
        (
            "images.txt",
            2,
            "2 001.000_box/no.jpg",
            r"images\.txt, line 2: .*images/001.000_box/no\.jpg is missing",
        ),
        (
            "image_class_labels.txt",
            3,
            "3 9",
            r"image_class_labels\.txt, line 3: class '9' is not in .*classes\.txt",
        ),
        (
            "image_class_labels.txt",
            3,
            None,
            r"image_class_labels\.txt has no line for image 3 \(.*images\.txt, line 3\)",
        ),
        ("image_class_labels.txt", 3, "99 1", r"line 3: image 99 is not in .*images\.txt"),
        ("train_test_split.txt", 1, "1 yes", r"train_test_split\.txt, line 1: expected 0 or 1, got 'yes'"),
        (
            "bounding_boxes.txt",
            4,
            "4 1 2 3",
            r"bounding_boxes\.txt, line 4: expected 5 columns \(id, x, y, width, height\), got 4",
        ),
        (
            "bounding_boxes.txt",
            4,
            "4 1 2 3 w",
            "line 4: expected four numbers x y width height, got '1 2 3 w'",
        ),
        (
            "bounding_boxes.txt",
            4,
            "4 9 9 -3 5",
            "line 4: box x0 y0 x1 y1 = 9 9 6 14 has width -3 and height 5",
        ),
        (
            "bounding_boxes.txt",
            4,
            "4 -5 0 9 9",
            "line 4: box x0 y0 x1 y1 = -5 0 4 9 lies 5 pixels outside its image",
        ),
    ],
)
def test_malformed_files(
    tmp_path: Path, edit: Callable[..., None], file: str, line: int, text: str | None, message: str
) -> None:
    write_cub_fixture(tmp_path)
    edit(tmp_path / "CUB_200_2011" / file, line, text)
    with pytest.raises(InputError, match=message):
        read_cub(tmp_path, "train")


@pytest.mark.parametrize(
    "file",
    ["images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"],
)
def test_missing_files(tmp_path: Path, file: str) -> None:
    write_cub_fixture(tmp_path)
    (tmp_path / "CUB_200_2011" / file).unlink()
    with pytest.raises(InputError, match=f"{file} is missing"):
        read_cub(tmp_path)


def test_missing_mask_empty_class_and_skipped_box(tmp_path: Path, edit: Callable[..., None]) -> None:
    write_cub_fixture(tmp_path)
    top = tmp_path / "CUB_200_2011"
    edit(top / "bounding_boxes.txt", 1, "1 5 5 0 0")
    with pytest.warns(UserWarning, match="skipped 1 of 12 boxes"):
        assert read_cub(tmp_path, "train", bad_boxes="skip")[0].boxes_xyxy.shape == (0, 4)
    edit(top / "classes.txt", 4, "4 004.Dodo\n")
    with pytest.raises(InputError, match="split 'test' has no image of class 'Dodo'; allow_empty=True"):
        read_cub(tmp_path)
    assert len(read_cub(tmp_path, allow_empty=True)) == 12
    read_cub(tmp_path, allow_empty=True)[0].masks[0].unlink()
    with pytest.raises(
        InputError, match=r"images\.txt, line 13: .*segmentations/001.000_box/test_0000\.png is missing"
    ):
        read_cub(tmp_path, allow_empty=True)
