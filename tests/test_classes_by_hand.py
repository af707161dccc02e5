"""Classes by hand: every way in which a user names them, where an output holds their scores, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sightline.errors import InputError
from sightline.targets import (
    ClassScore,
    Contrast,
    MultiLabel,
    Probability,
    Regression,
    Segmentation,
    Setting,
    Similarity,
    bound,
)
from sightline.targets.base import described, index_of
from sightline.targets.classes import CallableTarget, ClassTarget, logits_of, resolve_classes

ROWS = torch.tensor([1, 0, 1])  # a batch that shows image 1, image 0, image 1


# Classes

SCORES = torch.tensor([[1.0, 2, 3], [4, 5, 7]])


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ((SCORES.softmax(1), SCORES), True),  # ultralytics' pair
        ((SCORES.softmax(1), SCORES.double()), False),
        ((SCORES.softmax(1) + 0.01, SCORES), False),
        ((SCORES.softmax(1), SCORES, SCORES), False),
        ([SCORES.softmax(1), SCORES], False),
        ((SCORES, None), False),
        (SimpleNamespace(logits=SCORES), True),
        ({"logits": SCORES, "other": SCORES * 0}, True),
        ({"a": SCORES}, True),
        ({"a": SCORES, "b": SCORES}, False),
    ],
)
def test_the_logits_of_an_output(output: Any, found: bool) -> None:
    logits = logits_of(output)
    assert (logits is not None) == found
    assert logits is None or torch.equal(logits, SCORES)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("top1", [[2], [2]]),
        ("top3", [[2, 1, 0], [2, 1, 0]]),
        (0, [[0], [0]]),
        ("2", [[2], [2]]),
        (["cat", 2], [[0, 2], [0, 2]]),
        (torch.tensor([2, 0]), [[2], [0]]),
        (torch.tensor([[2, 0], [1, 1]]), [[2, 0], [1, 1]]),
        (torch.tensor([0, 1], dtype=torch.int32), [[0], [1]]),
    ],
)
def test_classes_as_a_user_gives_them(classes: Any, expected: list[list[int]]) -> None:
    found = resolve_classes(classes, SCORES, ["cat", "dog", "top"])
    assert found.tolist() == expected
    assert found.dtype == torch.int64


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("top0", "expected top1 to top3 for 3 classes"),
        ("top4", "expected top1 to top3 for 3 classes"),
        (3, "class 3 is out of range; expected 0 to 2"),
        (-1, "class -1 is out of range"),
        (10**30, "out of range; expected 0 to 2"),
        ("-1", "class -1 is out of range"),
        ([], "classes is empty"),
        ([0, 3], "class 3 is out of range"),
        (str(10**30), "out of range; expected 0 to 2"),
        ([True], "class True is a bool"),
        ([1.0], "class 1.0 is a float"),
        (torch.tensor([0]), r"shape \(1,\); expected \(2,\) or \(2, K\) for 2 images"),
        (torch.zeros(2, 0, dtype=torch.int64), r"shape \(2, 0\)"),
        (torch.zeros(2, 1, 1, dtype=torch.int64), r"shape \(2, 1, 1\)"),
        ("cat", "this model has no category names"),
    ],
)
def test_classes_that_are_none(classes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_classes(classes, SCORES)


def test_a_number_that_is_another_class_s_name_is_refused() -> None:
    with pytest.raises(InputError, match="'1' is the name of class 0 and the index of another"):
        resolve_classes("1", SCORES, ["1", "0", "x"])
    assert resolve_classes("1", SCORES, ["0", "1", "x"]).tolist() == [[1], [1]]
    with pytest.raises(InputError, match="out of range: this network has one output, class 0"):
        resolve_classes(1, SCORES[:, :1])
    with pytest.raises(InputError, match="class 1 is out of range: this network has one output"):
        resolve_classes([0, 1], SCORES[:, :1])
    assert resolve_classes(0, SCORES[:, :1]).tolist() == [[0], [0]]
    assert resolve_classes([999, "998"], torch.zeros(1, 1000)).tolist() == [[999, 998]]


def test_targets_follow_their_images() -> None:
    assert ClassTarget(torch.tensor([2, 0])).at(ROWS)(SCORES[ROWS]).tolist() == [4, 3, 4]
    with pytest.raises(InputError, match=r"returns dict, not scores \(N, C\)"):
        ClassTarget(torch.tensor([2, 0]))({})
    plain = CallableTarget(lambda output: output[:, 0])
    assert plain.at(ROWS) is plain
    with pytest.raises(InputError, match=r"target returned \(2, 3\); expected a tensor with one score"):
        CallableTarget(lambda output: output)(SCORES)
    with pytest.raises(InputError, match="target returned float"):
        CallableTarget(lambda output: 1.0)(SCORES)
    moved = CallableTarget(Similarity(torch.eye(2))).at(ROWS)
    assert moved.function.reference.shape == (3, 2)


# Names and numbers of classes


def test_what_was_given_becomes_numbers() -> None:
    setting = Setting(nn.Identity(), (8, 8), ["cat", "dog", "cow, bull"], "sigmoid")
    assert [index_of(c, setting) for c in (2, "1", " 1 ", "bull")] == [2, 1, 1, 2]
    assert bound(ClassScore("dog"), setting)[1] == ClassScore(1)
    assert bound(MultiLabel("dog", "2"), setting)[1] == MultiLabel(1, 2)
    assert bound(Contrast("dog", "cat"), setting)[1] == Contrast(1, 0)
    assert bound(Segmentation("dog", "all"), setting)[1].class_ == 1
    assert bound(Probability("dog"), setting)[1] == Probability(1, "sigmoid")
    assert bound(Probability("dog", "softmax"), setting)[1] == Probability(1, "softmax")
    assert bound(Probability(0), Setting(nn.Identity(), (8, 8)))[1] == Probability(0, "auto")
    with pytest.raises(InputError, match="this model has no category names"):
        index_of("dog", Setting(nn.Identity(), (8, 8)))
    with pytest.raises(InputError, match="target is a str; expected a callable"):
        bound("dog", setting)


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ([torch.zeros(2)], "list of (2,)"),
        ((), "tuple"),
        ({"a": 1, "b": 2}, "dict with 'a', 'b'"),
        (None, "NoneType"),
    ],
)
def test_an_output_in_words(output: Any, text: str) -> None:
    assert described(output) == text


def test_one_output_per_image() -> None:
    assert Regression()(SimpleNamespace(logits=torch.tensor([[2.0], [3]]))).tolist() == [2, 3]
    with pytest.raises(InputError, match="explains one output per image"):
        Regression()(torch.zeros(2, 1, 1))
    with pytest.raises(InputError, match=r"sign=0\); expected 1"):
        Regression(0)
