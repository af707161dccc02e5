"""Label Studio's JSON export: read back as drawn, and every way to get it wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from dataset_fixtures import write_label_studio_fixture
from drawings import names
from sightline.data.adapters.label_studio import read_label_studio
from sightline.errors import InputError


def region(kind: str = "rectanglelabels", name: str = "cat", **value: Any) -> dict[str, Any]:
    size = {"original_width": 200, "original_height": 100}
    return {"type": kind, "value": {kind: [name], **value}, **size}


CAT = region(x=10, y=20, width=20, height=40, rotation=0)  # 20 20 60 60 in pixels


def export(tmp_path: Path, task: dict[str, Any], url: str = "/data/local-files/?d=set/b%20c.jpg") -> Path:
    """An export of one task for a photo of 200×100."""
    (tmp_path / "images").mkdir(exist_ok=True)
    PIL.Image.new("RGB", (200, 100)).save(tmp_path / "images" / "b c.jpg")
    (tmp_path / "project-7.json").write_text(json.dumps([{"id": 7, "data": {"image": url}, **task}]))
    return tmp_path


def drawn_by_hand(*regions: dict[str, Any]) -> dict[str, Any]:
    return {"annotations": [{"result": list(regions)}]}


def test_reads_what_was_drawn(tmp_path: Path) -> None:
    drawn = write_label_studio_fixture(tmp_path)
    dataset = read_label_studio(tmp_path)
    assert dataset.categories == tuple(sorted(names(3)))
    found = {sample.id: sample.boxes_xyxy for sample in dataset.samples}
    expected = {
        f"{item.number:04d}.jpg:{names(3)[label]}": item.boxes(label)
        for item in drawn["all"]
        for label in item.labels
    }
    assert found.keys() == expected.keys()
    for key, boxes in expected.items():
        assert torch.allclose(found[key], torch.tensor(boxes).float(), atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        (CAT, [20, 20, 60, 60]),
        # turned by 90° about its first corner (100, 50): what was right of it lies below, what was below, left
        (region(x=50, y=50, width=10, height=10, rotation=90), [90, 50, 100, 70]),
        (region("polygonlabels", points=[[10, 20], [20, 10], [15, 50]]), [20, 10, 40, 50]),
    ],
)
def test_a_region_by_hand(tmp_path: Path, shape: dict[str, Any], box: list[float]) -> None:
    [sample] = read_label_studio(export(tmp_path, drawn_by_hand(shape))).samples
    assert sample.boxes_xyxy[0].tolist() == pytest.approx(box)
    assert (sample.id, sample.source) == ("b c.jpg:cat", tmp_path / "images" / "b c.jpg")


def test_which_annotation_counts(tmp_path: Path) -> None:
    def annotation(name: str, **marks: bool) -> dict[str, Any]:
        return {"result": [region(name=name, x=0, y=0, width=50, height=50)], **marks}

    for given, expected in (
        ([annotation("first"), annotation("last")], "last"),
        ([annotation("first"), annotation("last", was_cancelled=True)], "first"),
        ([annotation("first", ground_truth=True), annotation("last")], "first"),
    ):
        assert read_label_studio(export(tmp_path, {"annotations": given})).categories == (expected,)


@pytest.mark.parametrize(
    "url",
    [
        "/data/upload/3/0a1b2c3d-b%20c.jpg",
        "s3://bucket/set/b c.jpg",
        "http://host/x/images/b%20c.jpg?token=1",
    ],
)
def test_the_photo_is_found_by_the_end_of_its_address(tmp_path: Path, url: str) -> None:
    [sample] = read_label_studio(export(tmp_path, drawn_by_hand(CAT), url)).samples
    assert sample.source == tmp_path / "images" / "b c.jpg"


def test_predictions_only_when_asked(tmp_path: Path) -> None:
    root = export(tmp_path, {"predictions": [{"result": [CAT]}], "annotations": []})
    with pytest.raises(InputError, match="has predictions only; predictions=True reads those"):
        read_label_studio(root)
    [sample] = read_label_studio(root, predictions=True).samples
    assert sample.boxes_xyxy[0].tolist() == pytest.approx([20, 20, 60, 60])


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (
            drawn_by_hand(region("brushlabels")),
            "unknown kind of region 'brushlabels'.*project-7.json, task 7",
        ),
        (drawn_by_hand(region(x=10)), "task 7: a region that cannot be read"),
        (drawn_by_hand(region(x=10, y=0, width=0, height=10)), "task 7: box .* has width 0"),
        (drawn_by_hand({"type": 3}), "task 7: expected regions with type and value"),
        ({"annotations": 5}, "task 7: expected a list of annotations, got 5"),
        ({"annotations": [{"result": "x"}]}, "task 7: expected a list of regions"),
        (drawn_by_hand(CAT) | {"data": {}}, "task 7: expected the photo's address in its data"),
        (drawn_by_hand(CAT) | {"data": {"image": "../../etc/passwd"}}, "names no photo"),
        (drawn_by_hand(CAT) | {"data": {"image": "gone.jpg"}}, r"task 7: no photo 'gone.jpg' in"),
        ({}, "has no image"),
    ],
)
def test_faults_are_named(tmp_path: Path, task: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_label_studio(export(tmp_path, task))


def test_faults_of_the_file(tmp_path: Path) -> None:
    export(tmp_path, {})
    (tmp_path / "tasks.json").write_text("[]")
    with pytest.raises(InputError, match=r"several exports \(tasks.json, project-7.json\)"):
        read_label_studio(tmp_path)
    (tmp_path / "project-7.json").unlink()
    (tmp_path / "tasks.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match=r"tasks\.json: expected a list of tasks, got"):
        read_label_studio(tmp_path)
