"""Phrases in captions: whole words, who is a negative, hard ones, average precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from colournet import patch
from sightline.data.adapters.captions import CaptionedImage
from sightline.discovery.concept import average_precision, concepts, contains, hold_out_images, mine, part
from sightline.errors import InputError
from sightline.models.loading import LoadedModel

Write = Callable[[list[PIL.Image.Image]], list[Path]]


def said(*captions: str) -> list[CaptionedImage]:
    return [CaptionedImage(str(i), Path(f"{i}.png"), (text,)) for i, text in enumerate(captions)]


@pytest.mark.parametrize(
    ("caption", "phrase", "expected"),
    [
        ("A Sea-Bird at sea", "sea-bird", True),
        ("a sea bird", "sea bird", True),
        ("a SEA, bird", "Sea Bird", True),
        ("a bird at sea", "sea bird", False),
        ("catfish", "cat", False),
        ("the cat's toy", "cat", False),
        ("Straße", "STRASSE", True),
    ],
)
def test_whole_words_whatever_the_case(caption: str, phrase: str, expected: bool) -> None:
    assert contains(caption, phrase) is expected


def test_who_is_positive_negative_and_neither() -> None:
    images = said("a yellow fruit", "a yellow bus", "a round fruit", "a dog", "Yellow fruit!")
    parted = part(images, "yellow fruit")
    assert (parted.positives, parted.negatives, parted.between) == ([0, 4], [3], [1, 2])


def test_one_of_several_captions_is_enough() -> None:
    image = CaptionedImage("a", Path("a.png"), ("a dog", "an animal"))
    assert part([image], "animal").positives == [0]
    with pytest.raises(InputError, match="phrase ' , ' contains no word"):
        part([image], " , ")


def test_average_precision_by_hand() -> None:
    """Positives at ranks 1, 3 and 4 of 5: (1/1 + 2/3 + 3/4) / 3."""
    found = average_precision([5, 4, 3, 2, 1], [1, 0, 1, 1, 0])
    assert found.value == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert found.low < found.value <= found.high <= 1
    assert tuple(average_precision([3, 2, 1], [1, 1, 0])) == (1, 1, 1)
    with pytest.raises(InputError, match="no image is positive"):
        average_precision([1.0], [0])


def test_tied_scores_are_one_step_in_the_interval_too() -> None:
    """Without any ranking the average precision is the share of positives, whichever images come first."""
    first, last = [average_precision([0] * 20, truth) for truth in ([1] * 4 + [0] * 16, [0] * 16 + [1] * 4)]
    assert first.value == last.value == pytest.approx(0.2)
    assert first.low < 0.2 < first.high
    assert last.low < 0.2 < last.high


def test_its_interval_is_that_of_scikit_learn_on_the_same_resamples() -> None:
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(3)
    scores, truth = rng.normal(size=60), rng.random(60) < 0.3
    scores += truth
    draws = np.random.default_rng(0)
    order = np.argsort(-scores, kind="stable")
    slow = [
        average_precision_score(truth[order][rows], scores[order][rows])
        for rows in (draws.integers(0, 60, 60) for _ in range(200))
    ]
    found = average_precision(scores, truth, resamples=200)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))


def test_mining_brings_in_the_negatives_that_look_alike() -> None:
    """Positives near x = 1; 60 easy negatives near -1, six near 0.9 that a random draw of eight rarely has."""
    rng = np.random.default_rng(0)
    positive, easy = rng.normal([1, 1], 0.05, (8, 2)), rng.normal([-1, -1], 0.05, (60, 2))
    alike = rng.normal([0.9, -1], 0.05, (6, 2))
    values = np.concatenate([positive, easy, alike]).astype(np.float32)
    images = said(*["a cat"] * 8, *["a dog"] * 66)
    before, *after = mine(values, part(images, "cat"), "cat", costs=[0.01])
    assert len(after) == 2
    ranks = [np.mean(head.scores(values)[68:, 1]) for head in (before, after[-1])]
    assert ranks[1] < ranks[0]
    assert len(mine(values, part(images, "cat"), "cat", rounds=0)) == 1
    margin = after[-1].scores(values)[:, 1]
    assert margin[:8].min() > margin[8:].max()


def test_too_few_to_learn_from() -> None:
    values = np.zeros((4, 2), np.float32)
    with pytest.raises(InputError, match="1 caption with 'cat' to train on; expected 2"):
        mine(values, part(said("a cat", "b", "c", "d"), "cat"), "cat")
    with pytest.raises(InputError, match="no negative for 'a'"):
        mine(values, part(said("a", "a", "a", "a"), "a"), "a")


def test_what_is_held_out_does_not_depend_on_the_order() -> None:
    images = said(*"abcdefghij")
    learnt, held = hold_out_images(images)
    again = hold_out_images(images[::-1])[1]
    assert len(held) == 3
    assert {i.id for i in held} == {i.id for i in again}
    assert {i.id for i in learnt} | {i.id for i in held} == {i.id for i in images}


def captioned(folder: Write, seed: int) -> list[CaptionedImage]:
    rng = np.random.default_rng(seed)
    colours = [(int(rng.integers(150, 256)), 20, 20) for _ in range(8)]
    colours += [(20, int(rng.integers(150, 256)), int(rng.integers(0, 256))) for _ in range(16)]
    text = ["a ripe tomato"] * 8 + ["a leaf"] * 16
    paths = folder([patch(colour, (0, 0, 4, 4)) for colour in colours])
    return [CaptionedImage(p.name, p, (c,)) for p, c in zip(paths, text, strict=True)]


def test_a_phrase_is_found_where_it_is(colours: LoadedModel, folder: Write, tmp_path: Path) -> None:
    train = captioned(folder, 0)
    (tmp_path / "t").mkdir()
    train = [CaptionedImage(i.id, i.source.rename(tmp_path / "t" / i.id), i.captions) for i in train]
    result, (found,) = concepts(colours, ["ripe tomato"], train, captioned(folder, 1), progress=False)
    assert found.mined.value == 1
    assert found.chance == pytest.approx(8 / 24)
    assert (found.positives, found.negatives) == (8, 16)
    weights = found.head.weight[1]
    assert weights[0] > 0 > weights[1]  # red speaks for a tomato, green against it
    assert list(result.pictures) == ["concepts.png"]


def test_a_phrase_that_no_caption_has(colours: LoadedModel, folder: Write) -> None:
    images = captioned(folder, 0)
    with pytest.raises(InputError, match="no caption of the training images contains 'unicorn'"):
        concepts(colours, ["unicorn"], images[::2], images[1::2])
    with pytest.raises(InputError, match="24 held-out images are also in the training set"):
        concepts(colours, ["leaf"], images, images)
