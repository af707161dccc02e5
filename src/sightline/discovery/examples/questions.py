"""Scenes with template questions in VQA v2's two JSON files; each question records the box it asks about."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from sightline.discovery.examples.canvas import (
    COLOURS,
    SHAPES,
    Corners,
    Cutouts,
    backdrop,
    draw_shape,
    empty_folder,
    paste,
    save,
    slots,
)
from sightline.discovery.examples.captions import article, save_json
from sightline.progress import tracked
from sightline.types import Dataset

KINDS: Mapping[str, Sequence[str]] = {
    "animal": ("lion", "king penguin", "golden retriever", "ladybug", "goldfish"),
    "fruit": ("banana", "orange", "lemon"),
    "thing": ("school bus", "sunglasses", "espresso", "bow tie"),
}
PEOPLE = 10  # answers per question, as in VQA v2; here they all agree


@dataclass(frozen=True)
class TemplateQuestion:
    """One question with its answer and the box it asks about (None for an absent object)."""

    kind: str
    text: str
    answer: str
    box: Corners | None


def make_questions(
    out: Path, train: Dataset, test: Dataset, *, scenes: int = 600, test_scenes: int = 200, seed: int = 0,
    progress: bool = True,
) -> None:  # fmt: skip
    """``v2_OpenEnded_mscoco_{split}_questions.json``, ``v2_mscoco_{split}_annotations.json``, ``{split}/*.jpg``.

    A scene holds an animal, a fruit and a thing from real photos, and a drawn coloured shape. The questions: which
    animal, which fruit, which thing, what colour, what shape, and whether something is there (half the time it
    is). The annotations' ``boxes`` hold where the answer is visible.
    """
    empty_folder(out)
    for split, dataset, count in (("train", train, scenes), ("val", test, test_scenes)):
        cutouts = Cutouts(dataset, [name for names in KINDS.values() for name in names], seed=seed)
        asked: list[dict[str, Any]] = []
        answered: list[dict[str, Any]] = []
        for number in tracked(range(count), f"scenes of {split}", progress):
            picture, found = ask(cutouts, random.Random(f"{seed} {split} {number}"))
            save(picture, out / split / f"COCO_{split}_{number:012d}.jpg")
            for place, one in enumerate(found):
                key = {"question_id": 1000 * number + place, "image_id": number}
                asked.append({**key, "question": one.text})
                answered.append({**key, **_record(one)})
        head = {"data_type": "mscoco", "data_subtype": split}
        save_json(out / f"v2_OpenEnded_mscoco_{split}_questions.json", {**head, "questions": asked})
        save_json(out / f"v2_mscoco_{split}_annotations.json", {**head, "annotations": answered})


def _record(one: TemplateQuestion) -> dict[str, Any]:
    boxes = [] if one.box is None else [_xywh(one.box)]
    answers = [{"answer_id": i + 1, "answer": one.answer} for i in range(PEOPLE)]
    kind = {"question_type": one.kind, "multiple_choice_answer": one.answer}
    return {**kind, "answers": answers, "boxes": boxes}


def _xywh(box: Corners) -> list[int]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]


def ask(cutouts: Cutouts, rng: random.Random) -> tuple[PIL.Image.Image, list[TemplateQuestion]]:
    """A scene and its six questions."""
    picture, places = backdrop(cutouts.dataset, rng), slots(rng, 4)
    there = {kind: rng.choice(list(names)) for kind, names in KINDS.items()}
    boxes = {
        name: paste(picture, cutouts.cut(name, rng), place)
        for name, place in zip(there.values(), places, strict=False)
    }
    colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
    drawn = draw_shape(picture, shape, colour, places[3])
    found = [
        TemplateQuestion(f"which {k}", f"Which {k} is in the picture?", n, boxes[n]) for k, n in there.items()
    ]
    found.append(TemplateQuestion("what colour", "What colour is the shape?", colour, drawn))
    found.append(TemplateQuestion("what shape", "What shape is it?", shape, drawn))
    return picture, [*found, _is_there(there, boxes, rng)]


def _is_there(there: Mapping[str, str], boxes: Mapping[str, Corners], rng: random.Random) -> TemplateQuestion:
    yes = rng.random() < 0.5
    absent = [name for names in KINDS.values() for name in names if name not in boxes]
    name = rng.choice(list(there.values()) if yes else absent)
    return TemplateQuestion(
        "is there a",
        f"Is there {article(name)} {name} in the picture?",
        "yes" if yes else "no",
        boxes.get(name),
    )
