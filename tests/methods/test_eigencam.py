"""Eigen-CAM and its gradient form against the full SVD, and by hand where the matrix has rank one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline
from references.eigencam import eigencam, eigengradcam
from references.plain import each
from toynets import ALL_TOYS, HandFlat, HandGap, build, flat_weight, image, make_images

PICKED = torch.tensor([[2, 0], [1, 3]])
METHODS = {"eigencam": eigencam, "eigengradcam": eigengradcam}


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ALL_TOYS)
def test_equals_the_svd(name: str, method: str, centre: bool) -> None:
    net, x = build(name), make_images()
    maps = sightline.explain(net, x, method=method, classes=PICKED, centre=centre).maps
    expected = each(METHODS[method], net, x, PICKED, centre=centre)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-8 * float(expected.abs().max()))


@pytest.mark.parametrize("layer", ["features.1", "features.3"])
def test_equals_the_svd_with_fewer_channels_than_pixels_and_before_a_relu(layer: str) -> None:
    net, x = build("in-place, functional mean"), make_images()
    maps = sightline.explain(net, x, method="eigencam", classes=PICKED, layer=layer).maps
    torch.testing.assert_close(maps, each(eigencam, net, x, PICKED, layer=layer), rtol=0, atol=1e-8)


def test_by_hand() -> None:
    # A^k = u_k P with u = (3, 4, 0), P = [[1, 2], [3, 6]] of mean 3. Centred: u_k (P - 3), of rank one: the
    # first right singular vector is u/5, the projection 5 (P - 3) = [[-10, -5], [0, 15]]; ΣA = 7 P correlates
    # with it.
    x = image([[[3, 6], [9, 18]], [[4, 8], [12, 24]], [[0, 0], [0, 0]]])
    maps = sightline.explain(HandGap([[1, 1, 1]], [0]), x, method="eigencam", classes=0, layer="body").maps
    expected = torch.tensor([[-10.0, -5], [0, 15]], dtype=torch.float64)
    torch.testing.assert_close(maps[0, 0], expected, rtol=0, atol=1e-9)


def test_by_hand_without_centring_as_in_the_paper() -> None:
    # The same image: A = P·u of rank one, so the projection of A itself is 5 P = [[5, 10], [15, 30]].
    x = image([[[3, 6], [9, 18]], [[4, 8], [12, 24]], [[0, 0], [0, 0]]])
    net = HandGap([[1, 1, 1]], [0])
    maps = sightline.explain(net, x, method="eigencam", classes=0, layer="body", centre=False).maps
    expected = torch.tensor([[5.0, 10], [15, 30]], dtype=torch.float64)
    torch.testing.assert_close(maps[0, 0], expected, rtol=0, atol=1e-9)


def test_without_centring_a_map_of_activations_is_not_negative() -> None:
    # Perron–Frobenius: the first singular vectors of a matrix ≥ 0 have one sign.
    maps = sightline.explain(build("vgg end"), make_images(), method="eigencam", centre=False).maps
    assert (maps >= -1e-12).all()


def test_the_sign_follows_the_sum_of_the_channels() -> None:
    # u = (3, -4, 0): ΣA = -P, so the projection is turned to -5 (P - 3).
    x = image([[[3, 6], [9, 18]], [[-4, -8], [-12, -24]], [[0, 0], [0, 0]]])
    net = HandGap([[1, 1, 1]], [0], body=nn.Identity())
    maps = sightline.explain(net, x, method="eigencam", classes=0, layer="body").maps
    expected = torch.tensor([[10.0, 5], [0, -15]], dtype=torch.float64)
    torch.testing.assert_close(maps[0, 0], expected, rtol=0, atol=1e-9)


def test_eigengradcam_by_hand() -> None:
    # g = ((1, 1), (1, 1)) and ((-1, -1), (-1, -1)): g ⊙ A = P·(3, -4, 0) for the image of `test_by_hand`,
    # whose sum is -P: -5 (P - 3).
    x = image([[[3, 6], [9, 18]], [[4, 8], [12, 24]], [[0, 0], [0, 0]]])
    ones, minus = [[1.0, 1], [1, 1]], [[-1.0, -1], [-1, -1]]
    net = HandFlat(flat_weight([[ones, minus, ones]]), [0])
    maps = sightline.explain(net, x, method="eigengradcam", classes=0, layer="body").maps
    expected = torch.tensor([[10.0, 5], [0, -15]], dtype=torch.float64)
    torch.testing.assert_close(maps[0, 0], expected, rtol=0, atol=1e-9)


def test_eigencam_does_not_ask_for_the_class() -> None:
    maps = sightline.explain(build("vgg end"), make_images(), method="eigencam", classes=PICKED).maps
    assert torch.equal(maps[:, 0], maps[:, 1])


def test_a_constant_layer_gives_zeros() -> None:
    x = image([[[2, 2], [2, 2]], [[5, 5], [5, 5]], [[0, 0], [0, 0]]])
    maps = sightline.explain(HandGap([[1, 1, 1]], [0]), x, method="eigencam", classes=0, layer="body").maps
    assert maps.abs().max() < 1e-12
