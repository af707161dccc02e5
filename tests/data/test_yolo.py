"""YOLO's layout: read back as drawn, and every way to get it wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from dataset_fixtures import write_yolo_fixture
from sightline.data.adapters.yolo import read_yolo
from sightline.errors import InputError

LABELS = "labels/val/0000.txt"


def test_reads_what_was_drawn(tmp_path: Path, same_by_class: Callable[..., None]) -> None:
    drawn = write_yolo_fixture(tmp_path)
    for split in ("train", "val"):
        dataset = read_yolo(tmp_path, split)
        assert len(dataset.categories) == 3
        same_by_class(dataset, drawn[split], 1e-3)


def one(tmp_path: Path, text: str, size_wh: tuple[int, int] = (200, 100)) -> Path:
    """A data set of one photo and two classes."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    PIL.Image.new("RGB", size_wh).save(tmp_path / "images" / "a.jpg")
    PIL.Image.new("RGB", size_wh).save(tmp_path / "images" / "empty.png")
    (tmp_path / "labels" / "a.txt").write_text(text)
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [cat, dog]\n")
    return tmp_path


def test_by_hand(tmp_path: Path) -> None:
    """Shares of a photo of 200×100; a polygon counts by its bounding box; a photo without a file has no sample."""
    text = "0 0.5 0.5 0.5 1\n\n1 0.1 0.2 0.3 0.2 0.2 0.6\n0 0.05 0.1 0.1 0.2\n"
    cat, dog = read_yolo(one(tmp_path, text)).samples
    assert cat.boxes_xyxy.tolist() == [[50, 0, 150, 100], [0, 0, 20, 20]]
    assert dog.boxes_xyxy[0].tolist() == pytest.approx([20, 20, 60, 60])
    assert dog.id == "a.jpg:dog"


def test_a_list_of_photos(tmp_path: Path) -> None:
    root = one(tmp_path, "0 0.5 0.5 0.5 1\n1 0.5 0.5 0.5 1")
    (root / "data.yaml").write_text("path: .\nval: some.txt\ntest: [images]\nnames: {0: cat, 1: dog}\n")
    (root / "some.txt").write_text("./images/a.jpg\nimages/empty.png\n\n")
    assert [s.id for s in read_yolo(root).samples] == ["images/a.jpg:cat", "images/a.jpg:dog"]
    assert len(read_yolo(root, "test")) == 2
    (root / "some.txt").write_text("images/gone.jpg\n")
    with pytest.raises(InputError, match=r"some\.txt, line 1: .*gone\.jpg is missing"):
        read_yolo(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 0.5 0.5 1 1", r"a\.txt, line 1: class 2; expected 0 to 1, as in data\.yaml's names"),
        ("cat 0.5 0.5 1 1", r"line 1: expected a whole number for class, got 'cat'"),
        ("\n0 0.5 0.5 1", r"line 2: expected class x y w h, or a polygon of three points or more; got '0\.5 0\.5 1'"),
        ("0 a b c d", r"line 1: expected class x y w h"),
        ("0 0.5 0.5 0 1", r"line 1: box .* has width 0 and height 100"),
        ("0 0.9 0.5 0.5 1", r"line 1: box .* lies 30 pixels outside its image of 200×100"),
        ("0 nan 0.5 0.5 1", r"line 1: box .* is not finite"),
        ("", r"split 'val' has no image"),
        ("0 0.5 0.5 1 1", r"no image of class 'dog'; allow_empty=True"),
    ],
)  # fmt: skip
def test_broken_labels(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_yolo(one(tmp_path, text))


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("[1]", r"data\.yaml: expected names and splits, got \[1\]"),
        ("val: images", r"expected names: a list, or a mapping from 0, 1, …; got None"),
        ("val: images\nnames: {1: a, 2: b}", r"expected names: a list"),
        ("train: images\nnames: [a]", r"unknown split 'val'"),
        ("val: gone\nnames: [a]", r"gone is neither a folder nor a \.txt list of photos"),
    ],
)
def test_a_broken_description(about: str, message: str, tmp_path: Path) -> None:
    root = one(tmp_path, "0 0.5 0.5 1 1")
    (root / "data.yaml").write_text(about)
    with pytest.raises(InputError, match=message):
        read_yolo(root)
