"""SS-CAM against one mask at a time, by hand where the score is linear, and as Score-CAM without noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import sightline
from references.more_methods import sscam
from references.plain import each
from sightline.errors import InputError
from toynets import ALL_TOYS, HandGap, build, image, make_images

PICKED = torch.tensor([[2, 0], [1, 3]])


@pytest.mark.parametrize("name", ALL_TOYS)
def test_equals_the_reference(name: str) -> None:
    net, x = build(name), make_images()
    maps = sightline.explain(net, x, "sscam", PICKED, samples=3, sigma=0.5).maps
    expected = each(sscam, net, x, PICKED, samples=3, sigma=0.5)
    assert expected.max() > 1e-2
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-9)


def test_without_noise_it_is_scorecam() -> None:
    net, x = build("vgg end"), make_images()
    maps = sightline.explain(net, x, "sscam:sigma=0:samples=2:channels=4", PICKED).maps
    expected = sightline.explain(net, x, "scorecam:channels=4", PICKED).maps
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-12)


def test_by_hand() -> None:
    # Score-CAM's case: y = F1 - 2 F2 + F3, F the means; 1.5 for H1 and -1.25 for H2 (channel 3 is constant). y is
    # linear and without bias, so noise adds y(x ⊙ ε) = Σ (x1 - 2 x2 + x3) ε / 4: -5, 3, 1 and 3 for the four pixels.
    x = image([[[0, 2], [0, 2]], [[4, 1], [1, 1]], [[3, 3], [3, 3]]])
    net = HandGap([[1, -2, 1]], [0], nn.Identity())
    maps = sightline.explain(net, x, "sscam", 0, layer="body", samples=2, sigma=0.1, seed=7).maps
    generator, added = torch.Generator().manual_seed(7), [0.0, 0.0]
    for _ in range(2):
        for k in range(2):
            e = torch.randn(2, 2, generator=generator).double().flatten().tolist()
            added[k] += 0.1 * (-5 * e[0] + 3 * e[1] + 1 * e[2] + 3 * e[3]) / 4 / 2
    a1 = 1 / (1 + math.exp(-(1.5 + added[0]) + (-1.25 + added[1])))
    expected = [[4 * (1 - a1), 2 * a1 + 1 - a1], [1 - a1, 2 * a1 + 1 - a1]]
    torch.testing.assert_close(maps[0, 0], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("chunk", [1, 4])
def test_depends_neither_on_the_chunk_nor_on_the_batch(chunk: int) -> None:
    net, x = build("gap"), make_images(3)
    expected = sightline.explain(net, x, "sscam", 1, samples=2).maps
    alone = [sightline.explain(net, x[i : i + 1], "sscam", 1, samples=2, chunk=chunk).maps for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), expected, rtol=0, atol=1e-12)
    other = sightline.explain(net, x, "sscam", 1, samples=2, seed=1).maps
    assert not torch.allclose(other, expected)


def test_only_constant_channels_are_a_map_of_zeros() -> None:
    x = image([[[2, 2], [2, 2]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]])
    maps = sightline.explain(HandGap([[1, 1, 1]], [0]), x, "sscam", 0, layer="body", samples=2).maps
    assert torch.equal(maps, torch.zeros(1, 1, 2, 2, dtype=torch.float64))


@pytest.mark.parametrize(("option", "value"), [("samples", 0), ("sigma", -1), ("chunk", 0)])
def test_impossible_options_are_named(option: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{option}={value} of sscam"):
        sightline.explain(build("gap"), make_images(), "sscam", **{option: value})
