"""wsolevaluation's metadata: read back as drawn, and every way to get it wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_fixtures import write_wsol_fixture
from sightline.data.adapters.wsol_metadata import read_wsol_metadata
from sightline.errors import InputError

META = Path("metadata/CUB")


def test_reads_what_was_drawn(tmp_path: Path, same: Callable[..., None]) -> None:
    drawn = write_wsol_fixture(tmp_path)
    for split in ("train", "val", "test"):
        dataset = read_wsol_metadata(tmp_path / META, split)
        same(dataset, drawn[split])
        assert (dataset.name, dataset.split, dataset.categories) == ("wsol-cub", split, ("0", "1", "2"))
    assert dataset[4].id == "test/1/0004.jpg"
    assert dataset[4].source == tmp_path / "dataset" / "CUB" / "test" / "1" / "0004.jpg"


def test_a_published_line_comes_back_by_subtracting_one(tmp_path: Path, edit: Callable[..., None]) -> None:
    """The first line of the published ILSVRC test metadata; corners reach the last pixel, and one beyond."""
    write_wsol_fixture(tmp_path, name="ILSVRC", side=400)  # images are 500×400
    folder = tmp_path / "metadata" / "ILSVRC"
    edit(
        folder / "test" / "localization.txt",
        1,
        "test/0/0000.jpg,111,108,441,193\ntest/0/0000.jpg,0,0,500,399",
    )
    boxes = read_wsol_metadata(folder)[0].boxes_xyxy
    assert boxes.tolist() == [[111, 108, 442, 194], [0, 0, 501, 400]]


def test_masks_of_openimages(tmp_path: Path) -> None:
    drawn = write_wsol_fixture(tmp_path, name="OpenImages", masks=True)
    dataset = read_wsol_metadata(tmp_path / "metadata" / "OpenImages", "val", categories=["a", "b", "c"])
    assert (dataset.name, dataset.categories) == ("wsol-openimages", ("a", "b", "c"))
    for sample, item in zip(dataset.samples, drawn["val"], strict=True):
        assert [Image.open(mask).getbbox() for mask in sample.masks] == [shape.box for shape in item.shapes]
        assert sample.ignore_mask is not None
        assert np.asarray(Image.open(sample.ignore_mask)).sum() == 255 * item.size_wh[1]
        assert sample.boxes_xyxy.shape == (0, 4)


def test_proxy_images_elsewhere_and_train_without_boxes(tmp_path: Path) -> None:
    write_wsol_fixture(tmp_path)
    (tmp_path / "dataset" / "CUB").rename(tmp_path / "photos")
    (tmp_path / META / "train" / "localization.txt").unlink()
    dataset = read_wsol_metadata(tmp_path / META, "train", images=tmp_path / "photos", proxy=True)
    assert [sample.id for sample in dataset.samples][:2] == ["train/0/0000.jpg", "train/2/0002.jpg"]
    assert len(dataset) == 6
    assert all(sample.boxes_xyxy.shape == (0, 4) for sample in dataset.samples)


def test_without_sizes_the_far_edges_are_not_checked(tmp_path: Path, edit: Callable[..., None]) -> None:
    write_wsol_fixture(tmp_path)
    edit(tmp_path / META / "test" / "localization.txt", 1, "test/0/0000.jpg,0,0,99,9")
    with pytest.raises(
        InputError, match=r"localization\.txt, line 1: box .* = 0 0 100 10 lies 40 pixels outside"
    ):
        read_wsol_metadata(tmp_path / META)
    (tmp_path / META / "test" / "image_sizes.txt").unlink()
    assert read_wsol_metadata(tmp_path / META)[0].boxes_xyxy.tolist() == [[0, 0, 100, 10]]


@pytest.mark.parametrize(
    ("file", "line", "text", "message"),
    [
        (
            "image_ids.txt",
            2,
            "test/9/no.jpg",
            r"image_ids\.txt, line 2: test/9/no\.jpg is not in .*class_labels\.txt",
        ),
        ("image_ids.txt", 2, "a.jpg,1", r"image_ids\.txt, line 2: expected 1 columns \(image_id\), got 2"),
        (
            "class_labels.txt",
            2,
            "test/1/0001.jpg",
            r"class_labels\.txt, line 2: expected 2 columns \(image_id, class\), got 1",
        ),
        (
            "class_labels.txt",
            2,
            "test/1/0001.jpg,x",
            r"class_labels\.txt, line 2: expected a whole number for class, got 'x'",
        ),
        ("class_labels.txt", 2, "test/1/0001.jpg,-1", r"class_labels\.txt: class -1 is negative"),
        ("class_labels.txt", 2, "test/1/0001.jpg,7", "no image of class '3', '4', '5' and 1 more"),
        (
            "image_sizes.txt",
            1,
            "test/0/0000.jpg,60",
            r"image_sizes\.txt, line 1: expected 3 columns \(image_id, width, height\)",
        ),
        (
            "localization.txt",
            1,
            None,
            r"image_ids\.txt, line 1: test/0/0000\.jpg is not in .*localization\.txt",
        ),
        (
            "localization.txt",
            1,
            "test/0/0000.jpg,1,2",
            r"localization\.txt, line 1: .*CUB/1 is missing",
        ),
        (
            "localization.txt",
            2,
            "test/1/0001.jpg,1,2",
            r"localization\.txt, line 2: expected 5 columns as in the first line, got 3",
        ),
        (
            "localization.txt",
            1,
            "test/0/0000.jpg,1,2,3",
            r"line 1: expected 5 columns of a box or 3 of a mask, got 4",
        ),
        (
            "localization.txt",
            1,
            "test/0/0000.jpg,9,2,3,a",
            "line 1: expected four numbers x0 y0 x1 y1, got '9 2 3 a'",
        ),
        (
            "localization.txt",
            1,
            "test/0/0000.jpg,9,2,3,5",
            "line 1: box x0 y0 x1 y1 = 9 2 4 6 has width -5 and height 4",
        ),
    ],
)
def test_malformed_files(
    tmp_path: Path, edit: Callable[..., None], file: str, line: int, text: str | None, message: str
) -> None:
    write_wsol_fixture(tmp_path)
    edit(tmp_path / META / "test" / file, line, text)
    with pytest.raises(InputError, match=message):
        read_wsol_metadata(tmp_path / META)


@pytest.mark.parametrize("file", ["image_ids.txt", "class_labels.txt", "localization.txt"])
def test_missing_files(tmp_path: Path, file: str) -> None:
    write_wsol_fixture(tmp_path)
    (tmp_path / META / "test" / file).unlink()
    with pytest.raises(InputError, match=f"{file} is missing"):
        read_wsol_metadata(tmp_path / META)


def test_missing_images_masks_splits_and_names(tmp_path: Path) -> None:
    write_wsol_fixture(tmp_path, masks=True)
    (tmp_path / "dataset/CUB/test/0/0000_ignore.png").unlink()
    with pytest.raises(InputError, match=r"localization\.txt, line 1: .*test/0/0000_ignore\.png is missing"):
        read_wsol_metadata(tmp_path / META)
    (tmp_path / "dataset/CUB/val/0/0000.jpg").unlink()
    with pytest.raises(InputError, match=r"image_ids\.txt, line 1: .*val/0/0000\.jpg is missing"):
        read_wsol_metadata(tmp_path / META, "val")
    with pytest.raises(InputError, match=r"categories has 2 names; .*train has classes up to 2"):
        read_wsol_metadata(tmp_path / META, "train", categories=["a", "b"])
    shutil.rmtree(tmp_path / META / "val")
    with pytest.raises(InputError, match=r"unknown split 'val'; valid: test, train \(in .*metadata/CUB\)"):
        read_wsol_metadata(tmp_path / META, "val")


def test_the_folder_above_is_named_the_folder_below(tmp_path: Path) -> None:
    write_wsol_fixture(tmp_path)
    with pytest.raises(InputError, match=r"no split with image_ids.txt; .*, such as .*metadata/CUB$"):
        read_wsol_metadata(tmp_path, "test")


def test_skipped_boxes_are_counted(tmp_path: Path, edit: Callable[..., None]) -> None:
    write_wsol_fixture(tmp_path)
    edit(tmp_path / META / "test" / "localization.txt", 1, "test/0/0000.jpg,9,2,3,5")
    with pytest.warns(UserWarning, match=r"skipped 1 of 16 boxes:\n  .*localization\.txt, line 1"):
        assert read_wsol_metadata(tmp_path / META, bad_boxes="skip")[0].boxes_xyxy.shape == (0, 4)
