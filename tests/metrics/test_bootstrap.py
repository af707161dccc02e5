"""Bootstrap intervals against the formulas they must agree with, and their cover of the truth."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.errors import InputError
from sightline.metrics.bootstrap import bootstrap_interval, paired_difference


def test_the_interval_of_a_share_is_the_binomial_one():
    hits = np.repeat([1, 0], [300, 700])
    value, low, high = bootstrap_interval(hits, resamples=4000)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert value == 0.3
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.003)


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        _, low, high = bootstrap_interval(rng.random(150) < 0.6, resamples=400, seed=trial)
        covered += low <= 0.6 <= high
    assert 180 <= covered <= 198


def test_one_seed_one_answer():
    hits = np.random.default_rng(1).random(50)
    assert bootstrap_interval(hits, seed=3) == bootstrap_interval(hits, seed=3)
    assert bootstrap_interval(hits, seed=3) != bootstrap_interval(hits, seed=4)


def test_a_maximum_over_thresholds_against_a_loop():
    hits = np.random.default_rng(2).random((30, 7)) < 0.4
    found = bootstrap_interval(hits, resamples=50, seed=9)
    drawn = np.random.default_rng(9).integers(0, 30, (50, 30))
    scores = [hits[rows].mean(0).max() for rows in drawn]
    assert found.value == pytest.approx(hits.mean(0).max())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])), abs=1e-6)


def test_three_deltas_each_at_their_own_best():
    hits = np.random.default_rng(3).random((30, 3, 5)) < 0.5
    found = bootstrap_interval(hits, resamples=40, seed=1)
    drawn = np.random.default_rng(1).integers(0, 30, (40, 30))
    scores = [hits[rows].mean(0).max(-1).mean() for rows in drawn]
    assert found.value == pytest.approx(hits.mean(0).max(-1).mean())
    assert found.high == pytest.approx(np.quantile(scores, 0.975), abs=1e-6)


def test_pairs_are_drawn_together():
    rng = np.random.default_rng(4)
    hard = rng.random(400) < 0.5
    a, b = hard.astype(float), hard.astype(float)
    b[:8] = 1 - b[:8]
    paired = paired_difference(a, b)
    alone = bootstrap_interval(a)
    assert paired.value == pytest.approx(a.mean() - b.mean())
    assert paired.high - paired.low < 0.4 * (alone.high - alone.low)
    assert paired_difference(a, a) == (0.0, 0.0, 0.0)


def test_a_paired_difference_of_means_is_the_interval_of_the_differences():
    rng = np.random.default_rng(5)
    a, b = rng.random(80), rng.random(80)
    assert paired_difference(a, b) == pytest.approx(bootstrap_interval(a - b))


def test_many_images_are_drawn_in_chunks(monkeypatch):
    values = np.random.default_rng(6).random(40)
    whole = bootstrap_interval(values, resamples=30)
    monkeypatch.setattr("sightline.metrics.bootstrap.CHUNK", 100)
    assert bootstrap_interval(values, resamples=30) == pytest.approx(whole)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: bootstrap_interval([]), "N > 0"),
        (lambda: bootstrap_interval(np.zeros((2, 2, 2, 2))), "(N, D, T)"),
        (lambda: paired_difference([1, 0], [1]), "the same images"),
    ],
)
def test_errors_say_what_was_expected(call, says):
    with pytest.raises(InputError) as caught:
        call()
    assert says in str(caught.value)
