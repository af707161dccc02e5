"""Phrase detectors from captions (Zhou et al. 2016, section 4), with hard-negative mining."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import ArrayLike, NDArray
from torch import nn

from sightline.data.adapters.captions import CaptionedImage
from sightline.data.images import read_image
from sightline.discovery.features import Features, extract_features
from sightline.discovery.gallery import RIGHT, WRONG, Tile, gallery, mapped
from sightline.discovery.head_maps import head_maps, heat
from sightline.discovery.linear import COSTS, LinearHead, attach_head, fit_linear
from sightline.discovery.result import Result, describe_model
from sightline.errors import InputError
from sightline.metrics.bootstrap import Interval
from sightline.reports.tables import percent, spelled

ROUNDS, RESAMPLES, SHOWN = 2, 500, 6
MARGIN = -1.0  # a negative that scores above this violates the SVM's margin: a hard negative
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of a text, case-folded.

    >>> words("A dog's toy, wet.")
    ['a', "dog's", 'toy', 'wet']
    """
    return _WORD.findall(text.casefold())


def contains(caption: str, phrase: str) -> bool:
    """Whether a caption contains the words of a phrase, in sequence.

    >>> contains("A Sea Bird, flying", "sea bird"), contains("seabirds", "sea"), contains("a bird at sea", "sea bird")
    (True, False, False)
    """
    wanted, given = words(phrase), words(caption)
    return any(given[i : i + len(wanted)] == wanted for i in range(len(given) - len(wanted) + 1))


@dataclass(frozen=True)
class PhraseSplit:
    """Image indices for one phrase: ``positives`` contain it, ``negatives`` contain none of its words.

    ``between``: those with some of its words but not the phrase; not used for training.
    """

    positives: list[int]
    negatives: list[int]
    between: list[int]


def part(images: Sequence[CaptionedImage], phrase: str) -> PhraseSplit:
    """Split images by their captions. Raises `InputError` for a phrase without words."""
    wanted = set(words(phrase))
    if not wanted:
        raise InputError(f"phrase {phrase!r} contains no word")
    found = PhraseSplit([], [], [])
    for i, image in enumerate(images):
        if any(contains(caption, phrase) for caption in image.captions):
            found.positives.append(i)
        elif any(wanted & set(words(caption)) for caption in image.captions):
            found.between.append(i)
        else:
            found.negatives.append(i)
    return found


def hold_out_images(
    images: Sequence[CaptionedImage], share: float = 0.3, seed: int = 0
) -> tuple[list[CaptionedImage], list[CaptionedImage]]:
    """(training, held out): the same split on every machine, whatever the order of the images."""
    order = sorted(images, key=lambda image: random.Random(f"{seed} {image.id}").random())
    held = {image.id for image in order[: round(share * len(order))]}
    return [i for i in images if i.id not in held], [i for i in images if i.id in held]


def mine(
    values: NDArray[np.float32],
    parted: PhraseSplit,
    phrase: str,
    *,
    rounds: int = ROUNDS,
    costs: Sequence[float] = COSTS,
    seed: int = 0,
) -> list[LinearHead]:
    """The detector on random negatives, then after each round of hard-negative mining (Felzenszwalb et al. 2010).

    It starts with as many random negatives as positives. Each round adds the unused negatives that score above -1,
    hardest first and at most as many as there are positives, and retrains; mining stops early when none is left.
    C is chosen by cross-validation (average precision) before the first round. Class 1 of a head is the phrase.
    Raises `InputError` for fewer than 2 positives or negatives.
    """
    for what, count in (("caption with", len(parted.positives)), ("negative for", len(parted.negatives))):
        if count < 2:
            raise InputError(f"{count or 'no'} {what} {phrase!r} to train on; expected 2 images or more")
    chosen = random.Random(seed).sample(parted.negatives, min(len(parted.positives), len(parted.negatives)))
    names = (f"not {phrase}", phrase)
    heads: list[LinearHead] = []
    for _ in range(rounds + 1):
        rows = [*parted.positives, *chosen]
        labels = [1] * len(parted.positives) + [0] * len(chosen)
        known = [heads[0].cost] if heads else costs
        heads.append(
            fit_linear(values[rows], labels, names, costs=known, scoring="average_precision",
                       class_weight="balanced", seed=seed)
        )  # fmt: skip
        left = [i for i in parted.negatives if i not in set(chosen)]
        if not left:
            break
        scores = heads[-1].scores(values[left])[:, 1]
        hard = [left[i] for i in np.argsort(-scores, kind="stable") if scores[i] > MARGIN]
        if not hard:
            break
        chosen = chosen + hard[: len(parted.positives)]
    return heads


def average_precision(
    scores: ArrayLike, truth: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Σ_n (R_n - R_{n-1}) P_n over the ranking, with a 95 % bootstrap interval over images.

    Tied scores are one step of the ranking, in the value and in the resamples. Resamples without a positive are
    skipped. Raises `InputError` if there is no positive.

    >>> average_precision([3.0, 2.0, 1.0], [1, 0, 1], resamples=20).value
    0.833
    """
    from sklearn.metrics import average_precision_score

    ranked, true = np.asarray(scores, np.float64), np.asarray(truth, bool)
    if not true.any():
        raise InputError("no image is positive; average precision needs at least one")
    rng, drawn = np.random.default_rng(seed), list[float]()
    order = np.argsort(-ranked, kind="stable")
    ordered = true[order]
    steps = np.append(
        np.flatnonzero(np.diff(ranked[order])), len(true) - 1
    )  # the last image of each tied group
    for _ in range(resamples):
        times = np.bincount(rng.integers(0, len(true), len(true)), minlength=len(true))
        found = np.cumsum(times * ordered)[steps]
        if found[-1]:
            precision = found / np.maximum(np.cumsum(times)[steps], 1)
            drawn.append(float(np.diff(found, prepend=0) @ precision / found[-1]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(average_precision_score(true, ranked)), float(low), float(high))


@dataclass(frozen=True)
class Concept:
    """The result for one phrase; ``random`` and ``mined`` are average precisions on held-out images."""

    phrase: str
    head: LinearHead
    positives: int
    negatives: int
    rounds: int
    random: Interval
    mined: Interval
    chance: float
    held_positives: int


def concepts(
    model: nn.Module,
    phrases: Sequence[str],
    train: Sequence[CaptionedImage],
    test: Sequence[CaptionedImage],
    *,
    rounds: int = ROUNDS,
    batch_size: int = 64,
    cache: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Result, list[Concept]]:
    """A linear detector per phrase, s = w · GAP(A) + b, and its map Σ_k w_k A_k for the top-ranked images.

    It is trained on ``train`` by `mine` and ranks ``test`` by s. Average precision counts every held-out image
    without the phrase as a negative, including those with some of its words; chance is the share of positives.
    Raises `InputError` for a phrase missing from the captions of either split, and if the splits share an image.
    """
    if shared := {str(image.source) for image in train} & {str(image.source) for image in test}:
        raise InputError(f"{len(shared)} held-out images are also in the training set; hold out others")
    plans = [(phrase, part(train, phrase), part(test, phrase)) for phrase in dict.fromkeys(phrases)]
    for phrase, here, there in plans:
        for what, parted in (("training", here), ("held-out", there)):
            if not parted.positives:
                raise InputError(f"no caption of the {what} images contains {phrase!r}")
    fit, new = (
        extract_features(
            model, [i.source for i in images], batch_size=batch_size, cache=cache, progress=progress
        )
        for images in (train, test)
    )
    kept_train, kept_test = fit.of(train), new.of(test)
    found = [_learn(phrase, kept_train, kept_test, fit, new, rounds, seed) for phrase, _, _ in plans]
    settings = {
        "images": len(kept_test), "train_images": len(kept_train), "phrases": [one.phrase for one in found],
        "rounds": rounds, "seed": seed, "model": describe_model(model),
    }  # fmt: skip
    result = _result(found, settings)
    result.skipped = {**fit.errors, **new.errors}
    result.pictures = {"concepts.png": _picture(model, found, kept_test, new, batch_size, progress)}
    return result, found


def _learn(
    phrase: str,
    train: Sequence[CaptionedImage],
    test: Sequence[CaptionedImage],
    fit: Features,
    new: Features,
    rounds: int,
    seed: int,
) -> Concept:
    parted, held = part(train, phrase), part(test, phrase)
    heads = mine(fit.values, parted, phrase, rounds=rounds, seed=seed)
    truth = np.isin(np.arange(len(test)), held.positives)
    first, last = (average_precision(head.scores(new)[:, 1], truth) for head in (heads[0], heads[-1]))
    return Concept(
        phrase, heads[-1], len(parted.positives), len(parted.negatives), len(heads) - 1, first, last,
        float(truth.mean()), len(held.positives),
    )  # fmt: skip


def _result(found: Sequence[Concept], settings: dict[str, object]) -> Result:
    headings = ["phrase", "positives", "held out", "AP, random negatives", "AP, mined", "rounds", "chance"]
    rows = [
        [one.phrase, str(one.positives), str(one.held_positives), spelled(one.random), spelled(one.mined),
         str(one.rounds), percent(one.chance)]
        for one in found
    ]  # fmt: skip
    numbers = [
        {"phrase": one.phrase, "positives": one.positives, "negatives": one.negatives, "rounds": one.rounds,
         "held_positives": one.held_positives, "chance": one.chance, "C": one.head.cost,
         **{f"{name}_{end}": value for name, score in (("ap_random", one.random), ("ap_mined", one.mined))
            for end, value in score._asdict().items()}}
        for one in found
    ]  # fmt: skip
    notes = [
        f"Linear SVM on GAP features of {settings['train_images']} captioned images; average precision on "
        f"{settings['images']} held-out ones.",
        "Positives contain the phrase; training negatives contain none of its words; held-out negatives are all "
        "images without the phrase. Chance: share of positives.",
        "In per cent; 95 % bootstrap intervals over images in brackets.",
    ]
    return Result("Concepts from captions", headings, rows, settings, notes, numbers)


def _picture(
    model: nn.Module,
    found: Sequence[Concept],
    test: Sequence[CaptionedImage],
    new: Features,
    batch_size: int,
    progress: bool,
) -> PIL.Image.Image:
    """One row per phrase: the top-ranked held-out images under the phrase's map."""
    rows = []
    for one in found:
        with_head, held = attach_head(model, one.head), set(part(test, one.phrase).positives)
        scores = one.head.scores(new)[:, 1]
        best = [int(i) for i in np.argsort(-scores, kind="stable")[:SHOWN]]
        maps, sizes = head_maps(
            with_head,
            [test[i].source for i in best],
            [1] * len(best),
            batch_size=batch_size,
            progress=progress,
        )
        tiles = [
            Tile(mapped(read_image(test[i].source), heat(raw, size)),
                 (f"{'✓' if i in held else '✗'} {test[i].captions[0]}",), RIGHT if i in held else WRONG)
            for i, raw, size in zip(best, maps, sizes, strict=True)
        ]  # fmt: skip
        rows.append(
            (f"“{one.phrase}”\nAP {percent(one.mined.value)} %\nchance {percent(one.chance)} %", tiles)
        )
    return gallery(rows, "Top-scoring held-out images of each phrase, under its map")
