"""COCO: read back as drawn, and every way to get it wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataset_fixtures import write_coco_fixture
from drawings import names
from sightline.data.adapters.coco import read_coco
from sightline.errors import InputError

VAL = "annotations/instances_val2017.json"


def change(path: Path, spoil: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))


def test_reads_what_was_drawn(tmp_path: Path) -> None:
    drawn = write_coco_fixture(tmp_path)
    for split in ("train", "val"):
        dataset = read_coco(tmp_path, split)
        assert [(s.id, s.label, s.boxes_xyxy.tolist()) for s in dataset.samples] == [
            (f"{item.number:012d}.jpg:{names(3)[label]}", label, item.boxes(label))
            for item in drawn[split]
            for label in item.labels
        ]
        # The file's category ids are 7, 4, 1: labels follow the ids.
        assert dataset.categories == ("000 box", "001 disc", "002 box")
        assert dataset[0].source == tmp_path / f"{split}2017" / "000000000000.jpg"


def test_literal_box_and_crowds(tmp_path: Path) -> None:
    write_coco_fixture(tmp_path)

    def crowd(content: dict[str, Any]) -> None:
        content["annotations"][0]["bbox"] = [1.5, 2.25, 10, 20.5]
        content["annotations"].append(
            {"id": 99, "image_id": 100, "category_id": 4, "bbox": [0, 0, 60, 48], "iscrowd": 1}
        )

    change(tmp_path / VAL, crowd)
    first = read_coco(tmp_path)
    assert first[0].boxes_xyxy.tolist() == [[1.5, 2.25, 11.5, 22.75]]
    assert first[1].id == "000000000001.jpg:001 disc"
    assert read_coco(tmp_path, keep_crowds=True)[1].id == "000000000000.jpg:001 disc"


def test_other_places(tmp_path: Path) -> None:
    write_coco_fixture(tmp_path)
    (tmp_path / VAL).rename(tmp_path / "labels.json")
    (tmp_path / "images").mkdir()
    (tmp_path / "val2017").rename(tmp_path / "images" / "mine")
    assert len(read_coco(tmp_path, annotations="labels.json", images="images/mine")) == 16
    (tmp_path / "train2017").rename(tmp_path / "images" / "train2017")
    assert len(read_coco(tmp_path, "train")) == 16
    with pytest.raises(InputError, match=r"unknown split 'val'; valid: train2017 \(in "):
        read_coco(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.pop("categories"), "has no list 'categories'; expected images, annotations, categories"),
        (lambda c: c["annotations"].insert(2, 5), r"annotations\[2\]: expected an object, got int"),
        (lambda c: c["annotations"][3].pop("bbox"), r"annotations\[3\]: expected 'bbox' as list, got None"),
        (
            lambda c: c["annotations"][3].update(bbox=[1, 2, 3]),
            r"\[3\]: expected four numbers x y width height, got '1 2 3'",
        ),
        (
            lambda c: c["annotations"][3].update(bbox=[9, 9, -2, 5]),
            r"\[3\]: box .* = 9 9 7 14 has width -2 and height 5",
        ),
        (
            lambda c: c["annotations"][3].update(bbox=[9, 9, 99, 5]),
            r"\[3\]: box .* = 9 9 108 14 lies 48 pixels outside its image of 60×48 pixels",
        ),
        (
            lambda c: c["annotations"][3].update(image_id=7),
            r"annotations\[3\]: image_id 7 is not among the images",
        ),
        (
            lambda c: c["annotations"][3].update(category_id=9),
            r"\[3\]: category_id 9 is not among the categories",
        ),
        (lambda c: c["images"][1].pop("id"), r"images\[1\]: expected 'id' as int, got None"),
        (lambda c: c["images"][1].update(file_name="no.jpg"), r"images\[1\]: .*val2017/no\.jpg is missing"),
        (
            lambda c: c["categories"].append({"id": 50, "name": "yeti"}),
            "no image of class 'yeti'; allow_empty=True",
        ),
        (lambda c: c["annotations"].clear(), "split 'val' has no image"),
    ],
)
def test_malformed_records(tmp_path: Path, spoil: Callable[[dict[str, Any]], object], message: str) -> None:
    write_coco_fixture(tmp_path)
    change(tmp_path / VAL, spoil)
    with pytest.raises(InputError, match=message):
        read_coco(tmp_path)


def test_skipping_keeps_the_image(tmp_path: Path) -> None:
    write_coco_fixture(tmp_path)
    change(tmp_path / VAL, lambda c: c["annotations"][0].update(bbox=[9, 9, 0, 5]))
    with pytest.warns(UserWarning, match=r"skipped 1 of 16 boxes:\n  .*annotations\[0\]"):
        assert read_coco(tmp_path, bad_boxes="skip")[0].boxes_xyxy.shape == (0, 4)


def test_broken_json_names_line_and_column(tmp_path: Path, edit: Callable[..., None]) -> None:
    write_coco_fixture(tmp_path)
    edit(tmp_path / VAL, 4, '   "id" 100,')
    with pytest.raises(InputError, match=r"instances_val2017\.json, line 4, column 9: not JSON"):
        read_coco(tmp_path)


def test_several_years(tmp_path: Path) -> None:
    write_coco_fixture(tmp_path)
    (tmp_path / "annotations" / "instances_val2014.json").write_text("{}")
    with pytest.raises(
        InputError,
        match=r"has several: instances_val2014\.json, instances_val2017\.json; choose one with annotations=",
    ):
        read_coco(tmp_path)
