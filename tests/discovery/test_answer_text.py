"""The VQA challenge's normalisation of answers, case by case."""

from __future__ import annotations

import pytest

from sightline.discovery.answer_text import normalised
from sightline.discovery.answerer import vqa_accuracy


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("T-shirt", "t shirt"),
        ("a dog", "dog"),
        ("yes!", "yes"),
        ("red, white", "red white"),
        ("1,000", "1000"),
        ("2.5", "2.5"),
        ("St. Louis", "st louis"),
        ("None", "0"),
        ("ten", "10"),
        ("dont know", "don't know"),
        ("  the   sky ", "sky"),
        ("", ""),
    ],
)
def test_an_answer(answer: str, expected: str) -> None:
    assert normalised(answer) == expected


def test_answers_that_differ_in_spelling_only_match() -> None:
    assert vqa_accuracy("t shirt", ["t-shirt"] * 9 + ["shirt"]) == 1
    assert vqa_accuracy("Two", ["2"] * 3) == 1
    assert vqa_accuracy("red", ["blue"] * 10) == 0
