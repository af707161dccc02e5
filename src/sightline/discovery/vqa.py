"""The `vqa` experiment: accuracy against the majority answer, and where the answers' maps point."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.data.adapters.vqa import Question
from sightline.data.images import read_image
from sightline.discovery.answerer import (
    EPOCHS,
    Answerer,
    Vocabulary,
    answer_target,
    per_question,
    pooled_model,
    train_answerer,
    vqa_accuracy,
)
from sightline.discovery.features import extract_features
from sightline.discovery.gallery import RIGHT, WRONG, Tile, gallery, mapped
from sightline.discovery.head_maps import heat
from sightline.discovery.result import Result, describe_model
from sightline.errors import InputError
from sightline.metrics.bootstrap import Interval, bootstrap_interval
from sightline.metrics.pointing import box_mask, pointing_game
from sightline.models.families.gapnet import GapNet
from sightline.pipeline import explain
from sightline.progress import tracked
from sightline.reports.tables import percent, spelled

Scores = NDArray[np.float64]


def answer_questions(
    model: nn.Module,
    train: Sequence[Question],
    test: Sequence[Question],
    *,
    fusion: str = "add",
    most_answers: int = 1000,
    epochs: int = EPOCHS,
    batch_size: int = 64,
    cache: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Train on ``train``, answer ``test``, and map every predicted answer (`answerer.Answerer`).

    Baselines: the most frequent answer, that of each question type, and the same layer without the image. For
    questions with boxes: whether the maximum of the predicted answer's map, right or wrong, lies in the box asked
    about, compared with the box's share of the area and with the map of another question about the same image.
    Raises `InputError` if the splits share an image, or if there is only one answer.
    """
    if shared := {str(q.source) for q in train} & {str(q.source) for q in test}:
        raise InputError(
            f"{len(shared)} images of the test questions are also in the training set; test on others"
        )
    vocabulary = Vocabulary.of(train, most_answers)
    images = [list({str(q.source): q.source for q in questions}.values()) for questions in (train, test)]
    found = [
        extract_features(model, i, batch_size=batch_size, cache=cache, progress=progress) for i in images
    ]
    train, values = per_question(train, images[0], found[0])
    test, test_values = per_question(test, images[1], found[1])
    rows = {"majority answer": _majority(train, test, typed=False)}
    rows["majority answer of the question's type"] = _majority(train, test, typed=True)
    predicted: dict[str, Tensor] = {}
    answerers: dict[str, Answerer] = {}
    for kind in dict.fromkeys(("question", fusion)):
        answerers[kind] = train_answerer(vocabulary, train, values, fusion=kind, epochs=epochs, seed=seed)
        bags = vocabulary.bags([q.text for q in test])
        predicted[kind] = answerers[kind](bags, torch.from_numpy(test_values)).argmax(1)
        answers = [vocabulary.answers[i] for i in predicted[kind].tolist()]
        rows[_NAMES[kind]] = np.array(
            [vqa_accuracy(a, q.answers) for a, q in zip(answers, test, strict=True)]
        )
    maps, sizes = answer_maps(
        model,
        answerers[fusion],
        vocabulary,
        test,
        predicted[fusion],
        batch_size=batch_size,
        progress=progress,
    )
    pointing = point(test, maps, sizes)
    settings = {
        "images": len(found[1]), "questions": len(test), "train_images": len(found[0]), "train_questions": len(train),
        "words": len(vocabulary.words), "answers": len(vocabulary.answers), "fusion": fusion, "epochs": epochs,
        "seed": seed, "model": describe_model(model),
    }  # fmt: skip
    result = _result(rows, pointing, test, settings)
    answers = [vocabulary.answers[i] for i in predicted[fusion].tolist()]
    result.pictures = {"answers.png": _picture(test, answers, maps, sizes)}
    result.skipped = {**found[0].errors, **found[1].errors}
    return result


_NAMES = {
    "question": "question alone",
    "add": "question + image features",
    "product": "question ⊙ image features",
}


def _majority(train: Sequence[Question], test: Sequence[Question], typed: bool) -> Scores:
    """The accuracy of each question's majority answer, over all training questions or those of its type."""
    everyone = Counter(q.answer for q in train)
    by_kind: dict[str, Counter[str]] = {}
    for q in train:
        by_kind.setdefault(q.kind, Counter())[q.answer] += 1
    chosen = [(by_kind.get(q.kind, everyone) if typed else everyone).most_common(1)[0][0] for q in test]
    return np.array([vqa_accuracy(a, q.answers) for a, q in zip(chosen, test, strict=True)])


def answer_maps(
    model: nn.Module,
    answerer: Answerer,
    vocabulary: Vocabulary,
    questions: Sequence[Question],
    answers: Tensor,
    *,
    batch_size: int = 64,
    progress: bool = True,
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Grad-CAM of each question's answer: raw maps (N, h, w), and the photos' (H, W)."""
    pooled = pooled_model(model, len(answerer.mean))
    layer = "features" if isinstance(pooled.network, GapNet) else None
    maps, sizes = [], []
    for start in tracked(range(0, len(questions), batch_size), "maps", progress):
        part = slice(start, start + batch_size)
        target = answer_target(answerer, vocabulary, [q.text for q in questions[part]], answers[part])
        photos = [q.source for q in questions[part]]
        explanation = explain(pooled, photos, method="gradcam", layer=layer, target=target)
        maps.append(explanation.maps[:, 0].cpu())
        sizes += [geometry.photo_hw for geometry in explanation.geometries]
    return torch.cat(maps), sizes


def point(questions: Sequence[Question], maps: Tensor, sizes: Sequence[tuple[int, int]]) -> dict[str, Scores]:
    """Per question (NaN without a box): does its map's peak lie in the box, does another's, and the box's area.

    The other map is that of the next question about the same image with different boxes.
    """
    found = {name: np.full(len(questions), np.nan) for name in ("pointing", "other", "area")}
    by_image: dict[str, list[int]] = {}
    for i, question in enumerate(questions):
        by_image.setdefault(str(question.source), []).append(i)
    for i, question in enumerate(questions):
        if not len(question.boxes_xyxy):
            continue
        mask = box_mask(question.boxes_xyxy, sizes[i])[None]
        found["area"][i] = float(mask.float().mean())
        found["pointing"][i] = float(pointing_game(heat(maps[i], sizes[i])[None], mask))
        siblings = by_image[str(question.source)]
        after = siblings[siblings.index(i) + 1 :] + siblings[: siblings.index(i)]
        others = [j for j in after if not torch.equal(questions[j].boxes_xyxy, question.boxes_xyxy)]
        if others:
            found["other"][i] = float(pointing_game(heat(maps[others[0]], sizes[i])[None], mask))
    return found


def _result(
    accuracy: dict[str, Scores],
    pointing: dict[str, Scores],
    test: Sequence[Question],
    settings: dict[str, Any],
) -> Result:
    kinds = np.array([q.kind for q in test])
    names = ["all", *dict.fromkeys(kinds.tolist())]
    columns = {**accuracy, **{_POINTING_COLUMNS[name]: values for name, values in pointing.items()}}
    rows, numbers = [], []
    for kind in names:
        of_kind = np.full(len(test), True) if kind == "all" else kinds == kind
        scores = {name: _mean(values[of_kind]) for name, values in columns.items()}
        plain = ("majority answer", "majority answer of the question's type", _POINTING_COLUMNS["area"])
        cells = [percent(s.value) if s and name in plain else spelled(s) for name, s in scores.items()]
        rows.append([kind, str(int(of_kind.sum())), *cells])
        for name, score in scores.items():
            if score is not None:
                numbers.append({"questions": kind, "measure": name, **score._asdict()})
    shown = [i for i in range(len(rows[0])) if any(row[i] for row in rows)]
    headings = ["question type", "questions", *columns]
    notes = [
        f"{settings['train_questions']} questions about {settings['train_images']} images for training, "
        f"{settings['questions']} about {settings['images']} others for testing; {settings['words']} words, "
        f"{settings['answers']} answers, fusion {settings['fusion']}.",
        "Accuracy as in VQA v2. The map is that of the predicted answer, right or wrong; it points if its maximum "
        "lies in the box asked about. Another question's map: that of the next question about the same image.",
        "In per cent; 95 % bootstrap intervals over questions in brackets.",
    ]
    table = [[row[i] for i in shown] for row in rows]
    return Result("Visual question answering", [headings[i] for i in shown], table, settings, notes, numbers)


_POINTING_COLUMNS = {
    "pointing": "its map points",
    "other": "another question's map",
    "area": "share of the area",
}


def _mean(values: Scores) -> Interval | None:
    known = values[~np.isnan(values)]
    return bootstrap_interval(known) if len(known) else None


def _picture(
    questions: Sequence[Question], answers: Sequence[str], maps: Tensor, sizes: Sequence[tuple[int, int]]
) -> PIL.Image.Image:
    """The first four images, one per row: the photo and the map of each question's answer."""
    rows = []
    for source in list(dict.fromkeys(str(q.source) for q in questions))[:4]:
        own = [i for i, q in enumerate(questions) if str(q.source) == source][:6]
        photo = read_image(questions[own[0]].source)
        tiles = [Tile(photo)]
        for i in own:
            right = answers[i] == questions[i].answer
            boxes = questions[i].boxes_xyxy if len(questions[i].boxes_xyxy) else None
            lines = (f"{'✓' if right else '✗'} {answers[i]}", questions[i].text)
            tiles.append(
                Tile(mapped(photo, heat(maps[i], sizes[i]), boxes), lines, RIGHT if right else WRONG)
            )
        rows.append(("", tiles))
    return gallery(rows, "Map of each predicted answer; the box asked about dashed", label=0, tile=150)
