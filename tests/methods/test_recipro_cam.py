"""Recipro-CAM against one position at a time, by hand, and against the class map that it is on an averaging head."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sightline
from references.cam import cam
from references.more_methods import recipro_cam
from references.plain import each
from sightline.errors import InputError
from sightline.methods.recipro_cam import position_masks
from toynets import ALL_TOYS, HandGap, build, image, make_images

PICKED = torch.tensor([[2, 0], [1, 3]])


@pytest.mark.parametrize("gaussian", [True, False])
@pytest.mark.parametrize("name", ALL_TOYS)
def test_equals_the_reference(name: str, gaussian: bool) -> None:
    net, x = build(name), make_images()
    maps = sightline.explain(net, x, method="recipro_cam", classes=PICKED, gaussian=gaussian).maps
    expected = each(recipro_cam, net, x, PICKED, gaussian=gaussian)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_does_not_depend_on_the_chunk(chunk: int) -> None:
    net, x = build("vgg end"), make_images()
    maps = sightline.explain(net, x, method="recipro_cam", classes=PICKED, chunk=chunk).maps
    torch.testing.assert_close(maps, each(recipro_cam, net, x, PICKED), rtol=0, atol=1e-9)


def test_by_hand() -> None:
    # One channel of weight 4 on a mean of four places: y(p) is the masked sum of A = [[4, 0], [0, 8]].
    # At the corner of the 4: 1/4·4 + 1/16·8 = 1.5; beside both: 1/8·4 + 1/8·8 = 1.5; at the 8: 1/16·4 + 1/4·8 = 2.25.
    # Min-max: 0, 0, 0, 1. Without the Gaussian y = 4, 0, 0, 8: 0.5, 0, 0, 1.
    x = image([[[4, 0], [0, 8]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]])
    net = HandGap([[4, 1, 1]], [3])
    maps = sightline.explain(net, x, method="recipro_cam", classes=0, layer="body").maps
    assert maps[0, 0].tolist() == [[0, 0], [0, 1]]
    alone = sightline.explain(net, x, method="recipro_cam", classes=0, layer="body", gaussian=False).maps
    assert alone[0, 0].tolist() == [[0.5, 0], [0, 1]]


def test_on_an_averaging_head_it_is_the_class_map() -> None:
    # y is linear in A: one place alone gives the class map there, over Z, and the Gaussian smooths it (zeros outside).
    net, x = build("gap"), make_images()
    classes = each(cam, net, x, PICKED)
    kernel = torch.tensor([[[[1, 2, 1], [2, 4, 2], [1, 2, 1]]]], dtype=x.dtype) / 16
    smoothed = F.conv2d(classes.flatten(0, 1)[:, None], kernel, padding=1).view_as(classes)
    for gaussian, raw in [(False, classes), (True, smoothed)]:
        low, high = raw.amin((2, 3), keepdim=True), raw.amax((2, 3), keepdim=True)
        maps = sightline.explain(net, x, method="recipro_cam", classes=PICKED, gaussian=gaussian).maps
        torch.testing.assert_close(maps, (raw - low) / (high - low), rtol=0, atol=1e-9)


def test_a_mask_in_the_middle_sums_to_one() -> None:
    masks = position_masks(3, 4)
    assert masks.shape == (12, 3, 4)
    assert masks[5].sum() == masks[6].sum() == 1
    assert masks[0].tolist() == [[1 / 4, 1 / 8, 0, 0], [1 / 8, 1 / 16, 0, 0], [0, 0, 0, 0]]


def test_a_constant_score_is_a_map_of_zeros() -> None:
    x = image([[[1, 2], [3, 4]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]])
    maps = sightline.explain(HandGap([[0, 1, 1]], [2]), x, method="recipro_cam", classes=0, layer="body").maps
    assert torch.equal(maps, torch.zeros_like(maps))


def test_the_chunk_must_be_positive() -> None:
    with pytest.raises(InputError, match="chunk=0"):
        sightline.explain(build("gap"), make_images(), method="recipro_cam", chunk=0)
