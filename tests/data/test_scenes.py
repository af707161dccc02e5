"""Scenes with objects, in three layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from sightline.data.adapters.scenes import read_scenes
from sightline.errors import InputError

LABELME = """<annotation><object><name> Lamp </name><deleted>0</deleted><polygon>
<pt><x>1</x><y>0</y></pt><pt><x>3</x><y>0</y></pt><pt><x>3</x><y>1</y></pt><pt><x>1</x><y>1</y></pt>
</polygon></object><object><name>wall</name><deleted>1</deleted><polygon></polygon></object></annotation>"""


def photo(path: Path, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size).save(path)


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    """Two images of two scenes; object 2 in the upper left, object 5 in the lower right of the first."""
    index = np.zeros((4, 6), np.uint8)
    index[:2, :3], index[3, 5] = 2, 5
    for name, mask in (("ADE_train_1", index), ("ADE_train_2", np.zeros((4, 6), np.uint8))):
        photo(tmp_path / "images" / "training" / f"{name}.jpg")
        target = tmp_path / "annotations" / "training" / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(mask).save(target)
    (tmp_path / "sceneCategories.txt").write_text("ADE_train_1 kitchen\nADE_train_2 attic\nADE_val_1 attic\n")
    (tmp_path / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n2\t0.1\t1\t1\t0\tlamp, light\n5\t0.1\t1\t1\t1\tfloor\n"
    )
    return tmp_path


def test_ade20k(ade: Path) -> None:
    scenes = read_scenes(ade, "train")
    assert scenes.dataset.categories == ("attic", "kitchen")
    assert [s.label for s in scenes.dataset.samples] == [1, 0]
    objects = scenes.objects["ADE_train_1"]((4, 6))
    assert sorted(objects) == ["floor", "lamp"]
    assert objects["lamp"].astype(int).tolist() == [[1, 1, 1, 0, 0, 0]] * 2 + [[0] * 6] * 2
    assert scenes.objects["ADE_train_2"]((4, 6)) == {}


def test_a_mask_of_another_size(ade: Path) -> None:
    with pytest.raises(InputError, match=r"ADE_train_1.png is 6×4, its photo 7×4; expected the same"):
        read_scenes(ade, "train").objects["ADE_train_1"]((4, 7))


def test_an_index_without_a_name(ade: Path) -> None:
    PIL.Image.fromarray(np.full((4, 6), 9, np.uint8)).save(ade / "annotations/training/ADE_train_1.png")
    with pytest.raises(InputError, match=r"object index 9 is not in objectInfo150.txt"):
        read_scenes(ade, "train").objects["ADE_train_1"]((4, 6))


def test_a_mask_in_colours(ade: Path) -> None:
    PIL.Image.new("RGB", (6, 4)).save(ade / "annotations/training/ADE_train_1.png")
    with pytest.raises(InputError, match="expected a mask of object indices"):
        read_scenes(ade, "train").objects["ADE_train_1"]((4, 6))


def test_what_ade20k_lacks(ade: Path) -> None:
    with pytest.raises(InputError, match="unknown split 'val'; valid: training"):
        read_scenes(ade, "val")
    (ade / "annotations/training/ADE_train_2.png").unlink()
    with pytest.raises(InputError, match=r"ADE_train_2.png is missing"):
        read_scenes(ade, "train")
    (ade / "sceneCategories.txt").write_text("ADE_train_2 attic\n")
    with pytest.raises(InputError, match="has no line for ADE_train_1"):
        read_scenes(ade, "train")


def test_sun(tmp_path: Path) -> None:
    photo(tmp_path / "Images" / "c" / "church" / "outdoor" / "one.jpg")
    outlines = tmp_path / "Annotations" / "c" / "church" / "outdoor" / "one.xml"
    outlines.parent.mkdir(parents=True)
    outlines.write_text(LABELME)
    scenes = read_scenes(tmp_path, "all")
    assert scenes.dataset.categories == ("church/outdoor",)
    (mask,) = scenes.objects["c/church/outdoor/one.jpg"]((4, 6)).values()
    assert mask.astype(int).tolist() == [[0, 1, 1, 1, 0, 0]] * 2 + [[0] * 6] * 2
    with pytest.raises(InputError, match="unknown split 'val'"):
        read_scenes(tmp_path, "val")
    outlines.write_text(LABELME.replace("<pt><x>1</x><y>0</y></pt>", "").replace("<y>1</y>", "<y></y>"))
    with pytest.raises(InputError, match=r"one.xml, object 1: expected a number for y, got ''"):
        read_scenes(tmp_path, "all")


def test_coco_boxes_and_an_image_without_objects(tmp_path: Path) -> None:
    content = {
        "images": [
            {"id": 1, "file_name": "kitchen/a.jpg", "height": 4, "width": 6},
            {"id": 2, "file_name": "b.jpg", "height": 4, "width": 6, "scene": "attic"},
        ],
        "annotations": [{"image_id": 1, "category_id": 3, "bbox": [1, 0, 2, 3]}],
        "categories": [{"id": 3, "name": "lamp"}],
    }
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "instances_val.json"
    path.write_text(json.dumps(content))
    for name in ("kitchen/a.jpg", "b.jpg"):
        photo(tmp_path / "images" / "val" / name)
    scenes = read_scenes(tmp_path, "val")
    assert [(s.id, s.label) for s in scenes.dataset.samples] == [("kitchen/a.jpg", 1), ("b.jpg", 0)]
    assert scenes.objects["b.jpg"]((4, 6)) == {}
    lamp = scenes.objects["kitchen/a.jpg"]((4, 6))["lamp"]
    assert lamp.astype(int).tolist() == [[0, 1, 1, 0, 0, 0]] * 3 + [[0] * 6]


def test_no_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is neither ADE20K"):
        read_scenes(tmp_path)


def test_a_part_held_out(ade: Path) -> None:
    for n in (3, 4, 5, 6):
        for kind, folder in (("jpg", "images"), ("png", "annotations")):
            source = ade / folder / "training" / f"ADE_train_{2 - n % 2}.{kind}"
            (source.with_name(f"ADE_train_{n}.{kind}")).write_bytes(source.read_bytes())
    names = "".join(f"ADE_train_{n} {('attic', 'kitchen')[n % 2]}\n" for n in range(1, 7))
    (ade / "sceneCategories.txt").write_text(names)
    fit, held = (read_scenes(ade, f"train-{part}", held_per_class=1) for part in ("fit", "heldout"))
    assert [s.label for s in held.dataset.samples] == [1, 0]
    assert len(fit.dataset) == 4
    assert {s.id for s in fit.dataset.samples}.isdisjoint({s.id for s in held.dataset.samples})
