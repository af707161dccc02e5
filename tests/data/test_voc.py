"""PASCAL VOC: read back as drawn, and every way to get it wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dataset_fixtures import write_voc_fixture
from drawings import Drawing
from sightline.data.adapters.voc import CATEGORIES, read_voc
from sightline.errors import InputError
from sightline.types import Dataset

THREE = CATEGORIES[:3]


def truth(
    drawn: list[Drawing], split: str, shapes: int | None = None
) -> list[tuple[str, int, list[list[float]]]]:
    """One entry for each image and class; only the first ``shapes`` of each image count."""
    found = []
    for item in drawn:
        item = Drawing(item.number, item.label, item.size_wh, item.shapes[:shapes])
        found += [(f"2012_{split}{item.number:04d}:{THREE[c]}", c, item.boxes(c)) for c in item.labels]
    return sorted(found)


def content(dataset: Dataset) -> list[tuple[str, int | None, list[list[float]]]]:
    return sorted((s.id, s.label, s.boxes_xyxy.tolist()) for s in dataset.samples)


@pytest.mark.parametrize("inner", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_reads_what_was_drawn(tmp_path: Path, inner: str) -> None:
    drawn = write_voc_fixture(tmp_path)
    dataset = read_voc(tmp_path / inner, "train", categories=THREE)
    assert content(dataset) == truth(drawn["train"], "train")
    assert (dataset.name, dataset.split, dataset.categories) == ("voc", "train", THREE)
    assert any(
        sample.label != item.label for sample, item in zip(dataset.samples, drawn["train"], strict=False)
    )


def test_difficult_objects_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    drawn = write_voc_fixture(tmp_path)  # in val the second shape of an image is difficult
    assert content(read_voc(tmp_path, categories=THREE)) == truth(drawn["val"], "val", shapes=1)
    assert content(read_voc(tmp_path, categories=THREE, keep_difficult=True)) == truth(drawn["val"], "val")


def test_corners_are_one_based_and_inclusive(tmp_path: Path, edit: Callable[..., None]) -> None:
    write_voc_fixture(tmp_path, side=300)
    box = "<bndbox><xmin>1</xmin><ymin>48</ymin><xmax>375</xmax><ymax>240</ymax></bndbox>"  # 375 is the last column
    edit(tmp_path / "VOCdevkit/VOC2012/Annotations/2012_train0000.xml", 5, box)
    assert read_voc(tmp_path, "train", categories=THREE)[0].boxes_xyxy.tolist() == [[0, 47, 375, 240]]


def test_the_twenty_classes_are_the_default(tmp_path: Path) -> None:
    write_voc_fixture(tmp_path)
    with pytest.raises(
        InputError, match="no image of class 'boat', 'bottle', 'bus' and 14 more; allow_empty=True"
    ):
        read_voc(tmp_path)
    assert read_voc(tmp_path, allow_empty=True).categories == CATEGORIES
    assert len(CATEGORIES) == 20
    assert list(CATEGORIES) == sorted(CATEGORIES)


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (
            4,
            "<object><name>plane</name>",
            r"unknown class 'plane'; did you mean 'aeroplane'.*0000\.xml, line 4; for other",
        ),
        (5, "", r"0000\.xml, line 4: this object has no <bndbox><xmin>"),
        (5, "<bndbox>", r"0000\.xml, line \d+: not well-formed XML"),
        (
            5,
            "<bndbox><xmin>9</xmin><ymin>2</ymin><xmax>4</xmax><ymax>9</ymax></bndbox>",
            "line 4: box x0 y0 x1 y1 = 8 1 4 9 has width -4 and height 8",
        ),
        (
            5,
            "<bndbox><xmin>9</xmin><ymin>2</ymin><xmax>64</xmax><ymax>9</ymax></bndbox>",
            "line 4: box x0 y0 x1 y1 = 8 1 64 9 lies 4 pixels outside its image of 60×48 pixels",
        ),
    ],
)
def test_malformed_annotations(
    tmp_path: Path, edit: Callable[..., None], line: int, text: str, message: str
) -> None:
    write_voc_fixture(tmp_path)
    edit(tmp_path / "VOCdevkit/VOC2012/Annotations/2012_train0000.xml", line, text)
    with pytest.raises(InputError, match=message):
        read_voc(tmp_path, "train", categories=THREE)


def test_a_label_without_an_image_and_an_image_without_a_label(tmp_path: Path) -> None:
    write_voc_fixture(tmp_path)
    top = tmp_path / "VOCdevkit" / "VOC2012"
    (top / "JPEGImages" / "2012_val0001.jpg").unlink()
    with pytest.raises(InputError, match=r"Main/val\.txt, line 2: .*JPEGImages/2012_val0001\.jpg is missing"):
        read_voc(tmp_path)
    (top / "Annotations" / "2012_train0002.xml").unlink()
    with pytest.raises(
        InputError, match=r"Main/train\.txt, line 3: .*Annotations/2012_train0002\.xml is missing"
    ):
        read_voc(tmp_path, "train")


def test_splits_and_years(tmp_path: Path) -> None:
    write_voc_fixture(tmp_path)
    (tmp_path / "VOCdevkit/VOC2012/ImageSets/Main/boat_train.txt").write_text("2012_train0000 -1\n")
    with pytest.raises(InputError, match=r"unknown split 'trainval'; did you mean 'train' or 'val'\?"):
        read_voc(tmp_path, "trainval")
    (tmp_path / "VOCdevkit/VOC2007/JPEGImages").mkdir(parents=True)
    with pytest.raises(InputError, match=r"has several years; give one of .*VOC2007, .*VOC2012"):
        read_voc(tmp_path)
