"""Class folders: read back as drawn, and every way to get them wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dataset_fixtures import write_folder_fixture
from sightline.data.adapters.folder import read_folder
from sightline.errors import InputError


def small(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(root / file)
    return root


def test_reads_what_was_drawn(tmp_path: Path, same: Callable[..., None]) -> None:
    drawn = write_folder_fixture(tmp_path)
    for split in ("train", "val"):
        dataset = read_folder(tmp_path, split)
        same(dataset, drawn[split])
        assert (dataset.name, dataset.split) == ("folder", split)
        assert dataset.categories == ("000 box", "001 disc", "002 box")
    assert dataset[0].id == "000 box/0000.jpg"
    assert dataset[0].source == tmp_path / "val" / "000 box" / "0000.jpg"


def test_literal_boxes_are_half_open_as_written_and_those_of_other_classes_are_not_kept(
    tmp_path: Path,
) -> None:
    small(tmp_path, "val/cat/a.png", "val/cat/deep/b.jpg", "val/dog/c.jpeg")
    (tmp_path / "val" / "boxes.csv").write_text(
        "file,x0,y0,x1,y1,class\ncat/a.png,1,2,5,6,cat\ncat/a.png,0,0,2,2,dog\n\ncat/deep/b.jpg,0.5,0,8,6,cat\n"
    )
    dataset = read_folder(tmp_path)
    assert [(s.id, s.label, s.boxes_xyxy.tolist()) for s in dataset.samples] == [
        ("cat/a.png", 0, [[1, 2, 5, 6]]),
        ("cat/deep/b.jpg", 0, [[0.5, 0, 8, 6]]),
        ("dog/c.jpeg", 1, []),
    ]


def test_without_splits_the_whole_is_called_all(tmp_path: Path) -> None:
    small(tmp_path, "cat/a.png", "dog/c.jpg")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    dataset = read_folder(tmp_path, "train")
    assert (dataset.split, dataset.categories, len(dataset)) == ("all", ("cat", "dog"), 2)


def test_labels_of_val_are_those_of_train(tmp_path: Path) -> None:
    small(tmp_path, "train/cat/a.png", "train/dog/b.png", "train/fox/c.png", "val/cat/d.png", "val/fox/e.png")
    with pytest.raises(InputError, match=r"class folder .*val/dog has no image; allow_empty=True keeps"):
        read_folder(tmp_path)
    assert [s.label for s in read_folder(tmp_path, allow_empty=True).samples] == [0, 2]
    small(tmp_path, "val/elk/f.png")
    with pytest.raises(
        InputError, match=r"unknown class 'elk'; valid: cat, dog, fox \(.*val/elk has no folder in"
    ):
        read_folder(tmp_path, allow_empty=True)


def test_one_table_at_the_root_may_serve_all_splits(tmp_path: Path) -> None:
    small(tmp_path, "train/cat/a.png", "val/cat/b.png")
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\ntrain/cat/a.png,0,0,1,1\nval/cat/b.png,2,2,3,3\n")
    assert read_folder(tmp_path, "train")[0].boxes_xyxy.tolist() == [[0, 0, 1, 1]]
    assert read_folder(tmp_path, "val")[0].boxes_xyxy.tolist() == [[2, 2, 3, 3]]


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    write_folder_fixture(tmp_path)
    shutil.rmtree(tmp_path / "val" / "001 disc")
    (tmp_path / "val" / "001 disc").mkdir()
    (tmp_path / "val" / "boxes.csv").unlink()
    with pytest.raises(InputError, match=r"class folder .*val/001 disc has no image"):
        read_folder(tmp_path)
    assert {s.label for s in read_folder(tmp_path, allow_empty=True).samples} == {0, 2}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "name,x,y\n",
            r"boxes\.csv, line 1: expected the header 'file,x0,y0,x1,y1\[,class\]', got 'name,x,y'",
        ),
        ("", r"boxes\.csv, line 1: expected the header .*, got ''"),
        ("file,x0,y0,x1,y1\ncat/a.png,1,2,3\n", r"line 2: expected 5 columns \(file,x0,y0,x1,y1\), got 4"),
        ("file,x0,y0,x1,y1\ncat/a.png,1,2,3,z\n", "line 2: expected four numbers x0 y0 x1 y1, got '1 2 3 z'"),
        ("file,x0,y0,x1,y1\ncat/a.png,1,2,3,4\ncat/gone.png,1,2,3,4\n", "line 3: .*cat/gone.png is missing"),
        (
            "file,x0,y0,x1,y1\ncat/a.png,5,2,3,4\n",
            "line 2: box x0 y0 x1 y1 = 5 2 3 4 has width -2 and height 2",
        ),
        (
            "file,x0,y0,x1,y1\ncat/a.png,-9,2,3,4\n",
            "line 2: box x0 y0 x1 y1 = -9 2 3 4 lies 9 pixels outside",
        ),
        (
            "file,x0,y0,x1,y1,class\ncat/a.png,1,2,3,4,cap\n",
            r"unknown class 'cap'; did you mean 'cat'\? \(.*line 2\)",
        ),
    ],
)
def test_malformed_tables(tmp_path: Path, table: str, message: str) -> None:
    small(tmp_path, "val/cat/a.png")
    (tmp_path / "val" / "boxes.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        read_folder(tmp_path)


def test_skipping_keeps_the_image_and_counts_the_box(tmp_path: Path) -> None:
    small(tmp_path, "val/cat/a.png")
    (tmp_path / "val" / "boxes.csv").write_text("file,x0,y0,x1,y1\ncat/a.png,5,2,3,4\ncat/a.png,0,0,1,1\n")
    with pytest.warns(UserWarning, match=r"split 'val': skipped 1 of 2 boxes:\n  .*boxes\.csv, line 2: box"):
        dataset = read_folder(tmp_path, bad_boxes="skip")
    assert dataset[0].boxes_xyxy.tolist() == [[0, 0, 1, 1]]


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no class folders with images"):
        read_folder(tmp_path)
    small(tmp_path, "train/cat/a.png")
    with pytest.raises(InputError, match=r"unknown split 'test'; valid: train \(in "):
        read_folder(tmp_path, "test")
