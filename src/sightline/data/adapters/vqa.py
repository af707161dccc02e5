"""Questions about images, with answers: VQA v2 (Goyal et al. 2017), in its two JSON files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sightline.data.reading import Files, boxes_tensor, four_numbers
from sightline.data.records import field, read_json, read_lists, records
from sightline.errors import InputError, unknown
from sightline.files import reader
from sightline.types import checked_boxes


@dataclass(frozen=True, eq=False)
class Question:
    """One question about one image.

    ``answer`` is the most frequent answer, ``answers`` those of all annotators. ``boxes_xyxy`` (B, 4), in photo
    pixels, are the boxes of what is asked about; the official files have none.
    """

    id: int
    source: Path
    text: str
    kind: str
    answer: str
    answers: tuple[str, ...]
    boxes_xyxy: Tensor


@reader
def read_vqa(
    root: str | Path,
    split: str = "train",
    *,
    questions: str | Path | None = None,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
) -> list[Question]:
    """Read the questions of a split: ``*{split}*questions.json`` and ``*{split}*annotations.json`` in ``root``.

    Images are ``COCO_{data_subtype}_{image_id:012d}.jpg`` (or without the prefix) in
    ``root/{data_subtype}``, ``root/images/{data_subtype}`` or ``images``. Annotation records may have ``boxes``,
    [x, y, width, height], of what is asked about: sightline's own addition, not part of VQA. Raises `InputError`
    naming the record.

    >>> read_vqa("nowhere")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere: no such folder
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    questions_path = root / questions if questions else _find(root, split, "questions")
    annotations_path = root / annotations if annotations else _find(root, split, "annotations")
    question_list = read_lists(questions_path, "questions")["questions"]
    subtype = str(read_json(questions_path).get("data_subtype", split))
    answered: dict[int, tuple[str, dict[str, Any]]] = {}
    for where, record in records(
        annotations_path, "annotations", read_lists(annotations_path, "annotations")["annotations"]
    ):
        answered[field(record, "question_id", int, where)] = (where, record)
    folder = Path(root / images) if images else _folder(root, subtype)
    found, photos = [], _Photos(folder, subtype)
    for where, record in records(questions_path, "questions", question_list):
        number = field(record, "question_id", int, where)
        if number not in answered:
            raise InputError(f"{where}: question_id {number} has no answer in {annotations_path}")
        source = photos.of(field(record, "image_id", int, where), where)
        found.append(_question(number, source, field(record, "question", str, where), *answered[number]))
    if not found:
        raise InputError(f"{questions_path} has no question")
    return found


def _question(number: int, source: Path, text: str, where: str, record: dict[str, Any]) -> Question:
    given = record.get("answers", [])
    if not isinstance(given, list):
        raise InputError(f"{where}: expected 'answers' as list, got {given!r}")
    answers = [
        field(answer, "answer", str, f"{where}, answers[{i}]") if isinstance(answer, dict) else str(answer)
        for i, answer in enumerate(given)
    ]
    most = record.get("multiple_choice_answer") or (
        Counter(answers).most_common(1)[0][0] if answers else None
    )
    if not isinstance(most, str):
        raise InputError(f"{where}: has neither 'multiple_choice_answer' nor 'answers'")
    boxes = []
    for box in record.get("boxes", []):
        x, y, width, height = four_numbers([str(value) for value in box], where, "x y width height")
        boxes.append((x, y, x + width, y + height))
    kind = str(record.get("question_type", ""))
    boxes_xyxy = checked_boxes(boxes_tensor(boxes), f"{where}: boxes")
    return Question(number, source, text, kind, most, tuple(answers) or (most,), boxes_xyxy)


def _find(root: Path, split: str, what: str) -> Path:
    found = sorted(root.glob(f"*{split}*{what}.json"))
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{root} has several: {', '.join(path.name for path in found)}; choose one")
    others = sorted(path.name for path in root.glob(f"*{what}.json"))
    if others:
        raise unknown("split", split, others, hint=f"(in {root})")
    raise InputError(f"{root} has no *{split}*{what}.json")


def _folder(root: Path, subtype: str) -> Path:
    places = (root / subtype, root / "images" / subtype, root / "images")
    return next((place for place in places if place.is_dir()), places[0])


class _Photos:
    """Finds images by their number."""

    def __init__(self, folder: Path, subtype: str) -> None:
        self.folder, self.files = folder, Files()
        self.names = (f"COCO_{subtype}_{{:012d}}.jpg", "{:012d}.jpg")

    def of(self, number: int, where: str) -> Path:
        paths = [self.folder / name.format(number) for name in self.names]
        existing = next((path for path in paths if self.files.has(path)), None)
        return existing or self.files.require(paths[0], where)
