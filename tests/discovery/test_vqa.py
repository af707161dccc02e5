"""Words and features in one layer; the map of an answer is the answer's image weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from colournet import patch
from sightline import explain
from sightline.data.adapters.vqa import Question
from sightline.discovery.answerer import (
    Answerer,
    Vocabulary,
    answer_target,
    pooled_model,
    train_answerer,
    vqa_accuracy,
)
from sightline.discovery.vqa import answer_questions, point
from sightline.errors import InputError
from sightline.models.loading import LoadedModel
from sightline.types import no_boxes

UPPER, LOWER = (0, 0, 8, 4), (0, 4, 8, 8)


def question(text: str, answer: str, source: str = "a.png", number: int = 0, kind: str = "") -> Question:
    return Question(number, Path(source), text, kind, answer, (answer,), no_boxes())


@pytest.mark.parametrize(
    ("agree", "expected"),
    [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)],  # as the evaluation code of VQA gives them
)
def test_vqa_accuracy(agree: int, expected: float) -> None:
    assert vqa_accuracy("red", ["red"] * agree + ["blue"] * (10 - agree)) == pytest.approx(expected)


def test_fewer_than_ten_people() -> None:
    assert vqa_accuracy("red", ["red", "blue", "red"]) == 1
    assert vqa_accuracy("blue", ["red", "blue", "red"]) == 0


def test_vocabulary() -> None:
    asked = [question("Is it a dog?", "no"), question("is it red", "yes"), question("a", "yes")]
    found = Vocabulary.of(asked)
    assert found.words == ("a", "is", "it")  # dog and red come once
    assert found.answers == ("yes", "no")  # the most frequent first
    assert Vocabulary.of(asked, most_answers=1).targets(asked).tolist() == [-1, 0, 0]
    assert found.bags(["it is it", "never met"]).tolist() == [[0, 1, 1], [0, 0, 0]]
    with pytest.raises(InputError, match="every question has the answer 'no'; expected at least 2 answers"):
        Vocabulary.of([question("a", "no"), question("b", "no")])


@pytest.mark.parametrize("fusion", ["add", "product"])
def test_the_map_is_the_answers_image_weights(colours: LoadedModel, fusion: str) -> None:
    """Grad-CAM of the answer's score is ReLU(Σ_k w_k A_k) / Z; its weights are ∂s/∂f; mean M + the rest = s."""
    answerer = Answerer(2, 3, 4, fusion)
    answerer.mean, answerer.deviation = torch.rand(3), torch.rand(3) + 0.5
    answerer.requires_grad_(False)
    vocabulary = Vocabulary(("cat", "dog"), ("no", "yes", "red", "blue"))
    photos = [patch((200, 40, 10), UPPER), patch((10, 90, 250), LOWER)]
    texts, answers = ["a dog?", "cat or dog"], torch.tensor([2, 3])
    pooled = pooled_model(colours, 3)
    target = answer_target(answerer, vocabulary, texts, answers)
    shown = explain(pooled, photos, method="gradcam", layer="features", target=target)

    images = torch.stack([colours.preprocess.prepare(photo, "whole")[0] for photo in photos])
    features = images.mean((2, 3)).requires_grad_()  # the maps of this network are its input
    bags = vocabulary.bags(texts)
    scores = answerer(bags, features).gather(1, answers[:, None])[:, 0]
    (gradient,) = torch.autograd.grad(scores.sum(), features)
    weights = answerer.image_weights(bags, answers)
    torch.testing.assert_close(weights, gradient)
    maps = (weights[:, :, None, None] * images).sum(1)
    torch.testing.assert_close(shown.maps[:, 0], maps.relu() / 64, rtol=1e-5, atol=1e-7)
    rest = answerer(bags, torch.zeros_like(features)).gather(1, answers[:, None])[:, 0]
    torch.testing.assert_close(maps.mean((1, 2)) + rest, scores.detach())


def test_what_add_cannot_and_product_can() -> None:
    """Is it red? Is it green? The answer is yes where question and image agree: no sum of the two tells."""
    rng = np.random.default_rng(0)
    asked, features = [], []
    for _ in range(400):
        word, colour = rng.integers(2), rng.integers(2)
        text = ("is it red", "is it green")[word]
        asked.append(question(text, "yes" if word == colour else "no"))
        features.append(np.eye(2)[colour] + rng.normal(scale=0.1, size=2))
    values = np.asarray(features, np.float32)
    vocabulary = Vocabulary.of(asked)
    right = {}
    for fusion in ("question", "add", "product"):
        answerer = train_answerer(vocabulary, asked, values, fusion=fusion)
        said = answerer(vocabulary.bags([q.text for q in asked]), torch.from_numpy(values)).argmax(1)
        right[fusion] = float((said == vocabulary.targets(asked)).float().mean())
    assert right["product"] > 0.99
    assert right["add"] < 0.8  # at most three of the four cases
    assert right["question"] < 0.6


def test_training_leaves_the_callers_random_numbers() -> None:
    asked = [question("is it", "yes"), question("is it", "no")] * 4
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    train_answerer(Vocabulary.of(asked), asked, np.random.rand(8, 3).astype(np.float32), epochs=1)
    assert torch.equal(torch.rand(1), expected)


def test_an_unknown_fusion() -> None:
    with pytest.raises(InputError, match="unknown fusion 'mul'; valid: add, product, question"):
        Answerer(1, 1, 2, "mul")


def test_pointing_beside_another_question() -> None:
    """Two questions about one photo, one map above and one below; a third question has no box."""
    above, below = torch.tensor([[1.0, 0.9], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.9, 1.0]])
    boxes = [torch.tensor([[0.0, 0, 8, 4]]), torch.tensor([[0.0, 4, 8, 8]]), no_boxes()]
    asked = [Question(i, Path("a.png"), "", "", "x", ("x",), box) for i, box in enumerate(boxes)]
    found = point(asked, torch.stack([above, above, below]), [(8, 8)] * 3)
    np.testing.assert_array_equal(found["pointing"], [1, 0, np.nan])
    np.testing.assert_array_equal(found["other"], [1, 1, np.nan])  # of the second: the third, which is below
    np.testing.assert_array_equal(found["area"], [0.5, 0.5, np.nan])


def asked_of(folder: Path, seed: int, count: int = 24) -> list[Question]:
    """One colour in the upper half, one in the lower; which of red and green, and which of blue and none."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    found = []
    for i in range(count):
        bright = int(rng.integers(150, 256))
        red, blue = i % 2 == 0, (i // 2) % 2 == 0
        photo = patch((bright, 0, 0) if red else (0, bright, 0), UPPER)
        photo.paste((0, 0, bright) if blue else (0, 0, 20), LOWER)
        path = folder / f"{i}.png"
        photo.save(path)
        upper, lower = torch.tensor([UPPER]).float(), torch.tensor([LOWER]).float()
        answers = ("red" if red else "green", "blue" if blue else "dark")
        found.append(Question(2 * i, path, "what is above", "above", answers[0], answers[:1], upper))
        found.append(Question(2 * i + 1, path, "what is below", "below", answers[1], answers[1:], lower))
    return found


def test_answers_and_where_they_are_seen(colours: LoadedModel, tmp_path: Path) -> None:
    train, test = asked_of(tmp_path / "train", 0), asked_of(tmp_path / "val", 1)
    result = answer_questions(colours, train, test, progress=False, epochs=200)
    found = {(row["questions"], row["measure"]): row["value"] for row in result.numbers}
    assert found["all", "question + image features"] == 1
    assert found["all", "question alone"] == pytest.approx(0.5, abs=0.01)
    assert found["all", "majority answer"] == 0.25
    assert found["above", "majority answer of the question's type"] == 0.5
    assert found["above", "its map points"] == 1
    assert found["above", "share of the area"] == 0.5
    assert isinstance(result.pictures["answers.png"], PIL.Image.Image)
    with pytest.raises(InputError, match="24 images of the test questions are also in the training set"):
        answer_questions(colours, train, train)
