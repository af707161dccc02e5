"""PxAP and mIoU: worked by hand, against counting pixel by pixel, merged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from references import scoremaps
from references import wsol_reference as slow
from sightline.errors import InputError
from sightline.heatmap import make_heatmaps
from sightline.metrics.accumulators import PixelTally
from sightline.metrics.pixels import PxAP, truth_mask
from sightline.types import BoxRule


def maps_and_masks(seed, count=3):
    rng = np.random.default_rng(seed)
    maps = [scoremaps.make(kind, rng, 14, 14) for kind in ("smooth", "plateaus", "specks")[:count]]
    masks = [rng.choice(np.array([0, 0, 1, 255], np.uint8), (224, 224)) for _ in range(count)]
    return maps, masks


def test_pxap_against_counting_every_pixel():
    maps, masks = maps_and_masks(30)
    score = PxAP()
    score.update(maps, masks)
    assert score.compute() == pytest.approx(slow.pxap([slow.scoremap(m) for m in maps], masks), abs=1e-12)


def test_exact_pxap_takes_the_masks_size():
    rng = np.random.default_rng(31)
    raw = torch.from_numpy(scoremaps.make("smooth", rng, 9, 9))
    mask = (rng.random((40, 60)) < 0.3).astype(np.uint8)
    score = PxAP("exact")
    score.update(raw[None], [mask])
    scores = make_heatmaps(raw, (40, 60)).numpy()
    assert score.compute() == pytest.approx(slow.pxap([scores], [mask]), abs=1e-12)


def test_pxap_by_hand():
    """Left half 1, right half 0: of 2 × 224 × 112 pixels, the mask has the upper half."""
    raw = np.zeros((224, 224))
    raw[:, :112] = 1
    mask = np.zeros((224, 224), np.uint8)
    mask[:112] = 1
    score = PxAP()
    score.update([raw], [mask])
    assert score.compute() == 0.5 * 0.5 + 0.5 * 0.5  # P 1/2 at R 1/2, then P 1/2 at R 1
    precision, recall = score.curve()
    assert (precision[0], recall[0], precision[1], recall[1], recall[-1]) == (0, 0, 0.5, 0.5, 1)


@pytest.mark.parametrize("value", [0.0, 0.5, 3.0])
def test_a_constant_map_has_the_share_of_the_object(value):
    mask = np.zeros((224, 224), np.uint8)
    mask[:56] = 1
    mask[200:] = 255
    score = PxAP()
    score.update([np.full((7, 7), value)], [mask])
    assert score.compute() == 56 / 200


def test_ignored_pixels_change_nothing():
    maps, masks = maps_and_masks(32, 1)
    mask = np.where(masks[0] == 255, 0, masks[0]).astype(np.uint8)
    mask[:50] = 255
    first, second = PxAP(), PxAP()
    first.update([slow.scoremap(maps[0])], [mask])
    other = slow.scoremap(maps[0])
    extremes = other == other.min()
    extremes |= other == other.max()
    other[:50][~extremes[:50]] = 0.123
    second.update([other], [mask])
    assert first.compute() == second.compute()


def test_parts_add_up_to_the_whole():
    maps, masks = maps_and_masks(33)
    whole, first, second = PxAP(), PxAP(), PxAP()
    whole.update(maps, masks, workers=2)
    first.update(maps[:1], masks[:1])
    second.update(maps[1:], masks[1:])
    assert np.array_equal((first + second).counts, whole.counts)
    assert (first + second).images == 3
    assert whole.counts.sum() == sum(int((m != 255).sum()) for m in masks)


def test_truth_mask_by_hand():
    one = np.array([[255, 0], [0, 0]], np.uint8)
    two = np.array([[0, 0], [1, 0]], bool)
    ignore = np.array([[1, 1], [0, 0]])
    assert truth_mask([one, two], ignore, None).tolist() == [[1, 255], [1, 0]]
    assert truth_mask([one], None, (4, 4)).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: PxAP().update(np.zeros((1, 7, 7)), [np.zeros((100, 120), np.uint8)]), "the mask is 100×120"),
        (
            lambda: PxAP().update(np.zeros((1, 7, 7)), [np.zeros((224, 224))], map_hw=(14, 14)),
            "the map is 7×7",
        ),
        (lambda: PxAP().update(np.zeros((1, 7, 7)), []), "1 maps and 0 masks"),
        (
            lambda: PxAP().update(np.zeros((1, 7, 7)), [np.full((224, 224), 2)]),
            "values other than 0, 1 and 255",
        ),
        (lambda: PxAP().compute(), "recall is undefined"),
        (lambda: PxAP("wsol-v1"), "unknown protocol"),
        (lambda: PxAP() + PxAP("exact"), "cannot add"),
        (lambda: truth_mask([]), "at least one"),
    ],
)
def test_errors_say_what_was_expected(call, says):
    with pytest.raises(InputError) as caught:
        call()
    assert says in str(caught.value)


@pytest.mark.parametrize("index", range(4))
def test_a_resample_with_one_true_pixel_counts(index):
    # One true pixel, the brightest of all: PxAP is 1 in a resample that has the image, even once, and 0 in one without.
    truth = np.zeros((224, 224), np.uint8)
    truth[100, 50] = 1
    heat = truth.astype(np.float32) + np.linspace(0, 0.1, 224, dtype=np.float32)
    tally = PixelTally(BoxRule(), resamples=1)
    tally.update([heat], [truth], [index])
    (times,) = np.random.default_rng(index).poisson(1, 1)
    assert tally.interval() == (1.0, float(times > 0), float(times > 0))
