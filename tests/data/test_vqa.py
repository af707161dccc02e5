"""VQA v2's two files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from sightline.data.adapters.vqa import read_vqa
from sightline.errors import InputError

QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
ANSWERS = "v2_mscoco_val2014_annotations.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two questions about two images, named as the official ones are."""
    asked = [
        {"question_id": 1000, "image_id": 1, "question": "What colour is it?"},
        {"question_id": 2000, "image_id": 2, "question": "Is there a dog?"},
    ]
    told: list[dict[str, Any]] = [
        {"question_id": 2000, "image_id": 2, "question_type": "is there a", "multiple_choice_answer": "yes",
         "answers": [{"answer": "yes"}, {"answer": "no"}, {"answer": "yes"}]},
        {"question_id": 1000, "image_id": 1, "question_type": "what colour", "multiple_choice_answer": "red",
         "answers": [{"answer": "red"}], "boxes": [[10, 20, 5, 6]]},
    ]  # fmt: skip
    (tmp_path / QUESTIONS).write_text(json.dumps({"data_subtype": "val2014", "questions": asked}))
    (tmp_path / ANSWERS).write_text(json.dumps({"annotations": told}))
    (tmp_path / "val2014").mkdir()
    for number in (1, 2):
        PIL.Image.new("RGB", (40, 40)).save(tmp_path / "val2014" / f"COCO_val2014_{number:012d}.jpg")
    return tmp_path


def test_questions_meet_their_answers(root: Path) -> None:
    first, second = read_vqa(root, "val")
    assert (first.id, first.text, first.kind, first.answer) == (
        1000,
        "What colour is it?",
        "what colour",
        "red",
    )
    assert first.boxes_xyxy.tolist() == [[10, 20, 15, 26]]
    assert second.answers == ("yes", "no", "yes")
    assert second.boxes_xyxy.shape == (0, 4)
    assert second.source.name == "COCO_val2014_000000000002.jpg"


def test_images_by_number_alone_in_a_named_folder(root: Path) -> None:
    (root / "val2014" / "COCO_val2014_000000000001.jpg").rename(root / "val2014" / "000000000001.jpg")
    (root / "val2014").rename(root / "photos")
    assert read_vqa(root, "val", images="photos")[0].source == root / "photos" / "000000000001.jpg"


def edit(path: Path, name: str, index: int, **change: Any) -> None:
    content = json.loads(path.read_text())
    content[name][index] |= change
    path.write_text(json.dumps(content))


def test_an_image_that_is_missing(root: Path) -> None:
    (root / "val2014" / "COCO_val2014_000000000002.jpg").unlink()
    with pytest.raises(InputError, match=r"questions\[1\]: .*000000000002.jpg is missing"):
        read_vqa(root, "val")


def test_a_question_without_an_answer(root: Path) -> None:
    edit(root / ANSWERS, "annotations", 0, question_id=3)
    with pytest.raises(InputError, match=r"questions\[1\]: question_id 2000 has no answer"):
        read_vqa(root, "val")


def test_neither_answer(root: Path) -> None:
    edit(root / ANSWERS, "annotations", 0, answers=[], multiple_choice_answer=None)
    with pytest.raises(InputError, match=r"annotations\[0\]: has neither"):
        read_vqa(root, "val")


def test_a_split_that_is_not_there(root: Path) -> None:
    with pytest.raises(InputError, match="unknown split 'train'"):
        read_vqa(root, "train")
