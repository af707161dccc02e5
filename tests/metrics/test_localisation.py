"""The accumulators: worked by hand, against the slow loop, merged, and a threshold carried over."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from references import scoremaps
from references import wsol_reference as slow
from sightline.errors import InputError
from sightline.metrics.localisation import BoxAccuracy, MaxBoxAcc, MaxBoxAccV2, best_threshold, grid_index
from sightline.metrics.protocols import TAUS
from sightline.types import BoxRule


def steps(*pieces):
    """An image's IoU at every τ: (value, until τ) pieces."""
    ious, start = np.zeros(1000), 0
    for value, until in pieces:
        ious[start : round(until * 1000)] = value
        start = round(until * 1000)
    return ious[None]


def test_max_box_acc_by_hand():
    score = MaxBoxAcc()
    score.add_ious(steps((0.4, 0.2), (0.5, 0.6), (0.1, 1)))  # fits from .2 to .6: exactly 0.5 fits
    score.add_ious(steps((0.9, 0.3), (0.49, 1)))  # fits below .3
    score.add_ious(steps((0.1, 0.25), (0.8, 0.9), (0, 1)))  # fits from .25 to .9
    assert score.compute() == 1.0
    assert best_threshold(score) == 0.25
    assert [score.at(tau) for tau in (0.0, 0.2, 0.25, 0.3, 0.7, 0.9)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0]
    )


def test_v2_takes_each_deltas_own_best_threshold():
    score = MaxBoxAccV2()
    score.add_ious(steps((0.75, 0.5), (0.35, 1)))
    score.add_ious(steps((0.25, 0.5), (0.55, 1)))
    # δ .3: both above .5; δ .5: one each; δ .7: one below .5
    assert score.accuracies.max(1).tolist() == [1.0, 0.5, 0.5]
    assert score.compute() == pytest.approx(2 / 3)
    assert (best_threshold(score, 0.3), best_threshold(score, 0.7)) == (0.5, 0.0)
    assert best_threshold(score) == 0.0  # the mean over δ is 1.5 / 3 below and above: the lowest τ of equals
    assert score.at(0.5) == pytest.approx(0.5)


def test_best_threshold_of_the_mean():
    score = MaxBoxAccV2()
    score.add_ious(steps((0.35, 0.5), (0.75, 1)))
    assert best_threshold(score) == 0.5
    assert score.at(0.5) == 1


def some_maps(seed, count=5):
    rng = np.random.default_rng(seed)
    maps = np.stack([scoremaps.make("smooth", rng, 14, 14) for _ in range(count)])
    return (
        maps,
        [torch.from_numpy(scoremaps.boxes(rng, 100, 150)) for _ in range(count)],
        [(100, 150)] * count,
    )


def test_a_split_against_the_slow_loop():
    maps, boxes, places = some_maps(20, 4)
    v1, v2 = MaxBoxAcc(), MaxBoxAccV2()
    v1.update(maps, boxes, places)
    v2.update(maps, boxes, places)
    taus = TAUS[::50]
    ious = [
        slow.contour_ious((slow.scoremap(m) * 255).astype(np.uint8), slow.true_boxes(b.numpy(), hw), taus)
        for m, b, hw in zip(maps, boxes, places, strict=True)
    ]
    one, every = (np.stack([pair[i] for pair in ious]) for i in (0, 1))
    np.testing.assert_array_equal(v1.accuracies[0, ::50], (one >= 0.5).mean(0))
    for d, delta in enumerate((0.3, 0.5, 0.7)):
        np.testing.assert_array_equal(v2.accuracies[d, ::50], (every >= delta).mean(0))


@pytest.mark.parametrize("keep", [False, True])
def test_parts_add_up_to_the_whole(keep):
    maps, boxes, places = some_maps(21)
    whole, first, second = (MaxBoxAccV2(keep=keep) for _ in range(3))
    whole.update(maps, boxes, places, workers=2)
    first.update(maps[:2], boxes[:2], places[:2])
    second.update(maps[2:], boxes[2:], places[2:])
    total = pickle.loads(pickle.dumps(first)) + second
    assert type(total) is MaxBoxAccV2
    assert total.images == whole.images == 5
    assert np.array_equal(total.hits, whole.hits)
    assert total.compute() == whole.compute()
    if keep:
        assert np.array_equal(total.per_image, whole.per_image)
        assert np.array_equal(whole.per_image.sum(0), whole.hits)
        assert whole.per_image.shape == (5, 3, 1000)


def test_memory_does_not_grow_with_the_images():
    score = MaxBoxAcc()
    score.add_ious(np.random.default_rng(0).random((300, 1000)))
    small = len(pickle.dumps(score))
    score.add_ious(np.random.default_rng(1).random((3000, 1000)))
    assert len(pickle.dumps(score)) == small


def test_a_threshold_chosen_on_one_split_and_used_on_another():
    val, test = MaxBoxAcc(), MaxBoxAcc()
    val.add_ious(steps((0.9, 0.4), (0, 1)))
    test.add_ious(np.concatenate([steps((0.9, 0.1), (0, 1)), steps((0, 0.5), (0.9, 1))]))
    assert (best_threshold(val), test.at(best_threshold(val)), test.compute()) == (0.0, 0.5, 0.5)


def test_every_tau_of_the_grid_is_found():
    assert [grid_index(float(tau)) for tau in TAUS] == list(range(1000))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: MaxBoxAcc().compute(), "no image has been scored"),
        (lambda: MaxBoxAcc().per_image, "keep=True"),
        (lambda: MaxBoxAcc() + MaxBoxAccV2(), "cannot add"),
        (lambda: MaxBoxAcc() + MaxBoxAcc(rule=BoxRule(normalise="ivr")), "cannot add"),
        (lambda: MaxBoxAcc("wsol-v3"), "did you mean 'wsol-v"),
        (lambda: BoxAccuracy("exact", (0.5,)).add_ious(np.zeros((2, 10))), "(N, 1000)"),
        (lambda: MaxBoxAcc().at(0.2), "no image has been scored"),
        (lambda: grid_index(0.2005), "not on the grid"),
        (lambda: grid_index(1.0), "not on the grid"),
        (lambda: best_threshold(MaxBoxAcc(), 0.7), "unknown delta"),
    ],
)
def test_errors_say_what_was_expected(call, says):
    with pytest.raises(InputError) as caught:
        call()
    assert says in str(caught.value)
