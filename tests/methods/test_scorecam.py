"""Score-CAM and Ablation-CAM against one channel at a time, and by hand."""

from __future__ import annotations

import math

import pytest
import torch

import sightline
from references.plain import each
from references.scorecam import ablationcam, scorecam
from sightline.errors import InputError
from toynets import ALL_TOYS, HandGap, build, image, make_images

PICKED = torch.tensor([[2, 0], [1, 3]])


@pytest.mark.parametrize("name", ALL_TOYS)
def test_scorecam_equals_the_reference(name: str) -> None:
    net, x = build(name), make_images()
    maps = sightline.explain(net, x, method="scorecam", classes=PICKED).maps
    expected = each(scorecam, net, x, PICKED)
    assert expected.max() > 1e-2
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_scorecam_does_not_depend_on_the_chunk(chunk: int) -> None:
    net, x = build("vgg end"), make_images()
    maps = sightline.explain(net, x, method="scorecam", classes=PICKED, chunk=chunk).maps
    torch.testing.assert_close(maps, each(scorecam, net, x, PICKED), rtol=0, atol=1e-10)


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_scorecam_keeps_the_channels_of_largest_deviation(channels: int) -> None:
    net, x = build("gap"), make_images()
    maps = sightline.explain(net, x, method="scorecam", classes=PICKED, channels=channels).maps
    torch.testing.assert_close(maps, each(scorecam, net, x, PICKED, channels=channels), rtol=0, atol=1e-10)


def test_scorecam_by_hand() -> None:
    # x = A, of the size of the image, so nothing is resized. H1 = [[0, 1], [0, 1]], H2 = [[1, 0], [0, 0]],
    # channel 3 is constant and takes no part (counted with a mask of 0 or 1 it would draw weight away).
    # y = F1 - 2 F2 + F3 with F the means. x ⊙ H1: F = (4/4, 2/4, 6/4): y = 1 - 1 + 1.5 = 1.5.
    # x ⊙ H2: F = (0, 4/4, 3/4): y = -2 + 0.75 = -1.25. α1 = 1/(1 + e^-2.75), α2 = 1 - α1.
    x = image([[[0, 2], [0, 2]], [[4, 1], [1, 1]], [[3, 3], [3, 3]]])
    net = HandGap([[1, -2, 1]], [0])
    maps = sightline.explain(net, x, method="scorecam", classes=0, layer="body").maps
    a1 = 1 / (1 + math.exp(-2.75))
    a2 = 1 - a1
    expected = torch.tensor([[4 * a2, 2 * a1 + a2], [a2, 2 * a1 + a2]], dtype=torch.float64)
    torch.testing.assert_close(maps[0, 0], expected, rtol=0, atol=1e-12)


def test_scorecam_with_only_constant_channels_is_zero() -> None:
    x = image([[[2, 2], [2, 2]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]])
    maps = sightline.explain(HandGap([[1, 1, 1]], [0]), x, method="scorecam", classes=0, layer="body").maps
    assert torch.equal(maps, torch.zeros(1, 1, 2, 2, dtype=torch.float64))


@pytest.mark.parametrize("nwc", [False, True])
@pytest.mark.parametrize("name", ALL_TOYS)
def test_ablationcam_equals_the_reference(name: str, nwc: bool) -> None:
    net, x = build(name), make_images()
    explanation = sightline.explain(net, x, method="ablationcam", classes=PICKED, nwc=nwc)
    expected = each(ablationcam, net, x, PICKED, nwc=nwc)
    assert expected.max() > 1e-2
    torch.testing.assert_close(explanation.maps, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(explanation.logits, net(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_ablationcam_does_not_depend_on_the_chunk(chunk: int) -> None:
    net, x = build("vgg end"), make_images()
    maps = sightline.explain(net, x, method="ablationcam", classes=PICKED, chunk=chunk).maps
    torch.testing.assert_close(maps, each(ablationcam, net, x, PICKED), rtol=1e-10, atol=1e-10)


def test_ablationcam_by_hand() -> None:
    # F = (2.5, 0.5, 0), w = (1, -2, 7), b = 0.5: y = 2. On a linear head the drop of channel k is w_k F_k:
    # w1 = 2.5/2 = 1.25, w2 = -1/2, w3 = 0. 1.25 A1 - 0.5 A2 = [[1.25, 2], [3.75, 4.5]]. NWC leaves out A2.
    # Class 1 is -y: the drops change sign, the divisor |y| does not, and the ReLU leaves nothing of
    # [[-1.25, -2], [-3.75, -4.5]]; NWC leaves 0.5 A2.
    net = HandGap([[1, -2, 7], [-1, 2, -7]], [0.5, -0.5])
    x = image([[[1, 2], [3, 4]], [[0, 1], [0, 1]], [[0, 0], [0, 0]]])
    both = torch.tensor([[0, 1]])
    maps = sightline.explain(net, x, method="ablationcam", classes=both, layer="body").maps
    assert maps[0].tolist() == [[[1.25, 2], [3.75, 4.5]], [[0, 0], [0, 0]]]
    positive = sightline.explain(net, x, method="ablationcam", classes=both, layer="body", nwc=True).maps
    assert positive[0].tolist() == [[[1.25, 2.5], [3.75, 5]], [[0, 0.5], [0, 0.5]]]


def test_channels_must_be_positive() -> None:
    with pytest.raises(InputError, match="channels"):
        sightline.explain(build("gap"), make_images(), method="scorecam", channels=0)


def test_scorecam_masks_are_independent_of_the_other_images_in_the_batch() -> None:
    # `channels` picks the channels of each image by itself
    net, x = build("gap"), make_images(3)
    together = sightline.explain(net, x, method="scorecam", classes=1, channels=2).maps
    alone = [
        sightline.explain(net, x[i : i + 1], method="scorecam", classes=1, channels=2).maps for i in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-12)
