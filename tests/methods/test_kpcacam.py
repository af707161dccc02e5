"""KPCA-CAM against a kernel matrix made entry by entry, scikit-learn's kernel PCA, Eigen-CAM, and by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import sightline
from references.more_methods import kpcacam
from references.plain import each, layer_output
from sightline.errors import InputError
from sightline.methods.kpcacam import kernel_component
from toynets import ALL_TOYS, HandGap, build, image, make_images


@pytest.mark.parametrize("options", [{}, {"kernel": "rbf", "gamma": 0.2}, {"gamma": 0.05}], ids=str)
@pytest.mark.parametrize("name", ["gap", "vgg end", "branches"])
def test_equals_the_reference(name: str, options: dict[str, Any]) -> None:
    net, x = build(name), make_images(1)
    maps = sightline.explain(net, x, "kpcacam", torch.tensor([[2, 0]]), **options).maps
    expected = each(kpcacam, net, x, torch.tensor([[2]]), **options)
    torch.testing.assert_close(maps[:, :1], expected, rtol=0, atol=1e-8)
    assert torch.equal(maps[:, 0], maps[:, 1])


@pytest.mark.parametrize("kernel", ["sigmoid", "rbf"])
def test_equals_scikit_learn(kernel: str) -> None:
    from sklearn.decomposition import KernelPCA

    a = layer_output(build("residual"), make_images(1))[0]
    points = a.flatten(1).T.numpy()
    component = KernelPCA(1, kernel=kernel).fit_transform(points - points.mean(0))[:, 0]
    found = kernel_component(a[None], kernel)[0].flatten()
    expected = torch.from_numpy(component)
    torch.testing.assert_close(found * (found @ expected).sign(), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ALL_TOYS)
def test_a_linear_kernel_is_eigencam(name: str) -> None:
    net, x = build(name), make_images()
    found = sightline.explain(net, x, "kpcacam:kernel=linear", 0).maps
    torch.testing.assert_close(found, sightline.explain(net, x, "eigencam", 0).maps, rtol=0, atol=1e-7)


def test_by_hand() -> None:
    # Two kinds of positions, with their mean subtracted (±1, 0, 0): k is a = tanh(1/3 + 1) within a kind and
    # b = tanh(-1/3 + 1) between them. Centred: ±(a - b)/2; its eigenvector is (1, 1, -1, -1)/2 of λ = 2 (a - b).
    x = image([[[3, 3], [1, 1]], [[2, 2], [2, 2]], [[0, 0], [0, 0]]])
    maps = sightline.explain(HandGap([[1, 1, 1]], [0]), x, "kpcacam", 0, layer="body").maps
    value = math.sqrt(2 * (math.tanh(4 / 3) - math.tanh(2 / 3))) / 2
    expected = torch.tensor([[value, value], [-value, -value]], dtype=torch.float64)
    torch.testing.assert_close(maps[0, 0], expected, rtol=0, atol=1e-12)


def test_a_constant_layer_is_a_map_of_zeros() -> None:
    assert kernel_component(torch.ones(1, 3, 2, 2)).abs().max() < 1e-3


@pytest.mark.parametrize(("option", "said"), [("kernel=cosine", "'sigmoid' or 'rbf'"), ("gamma=0", "gamma")])
def test_impossible_options_are_named(option: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        sightline.explain(build("gap"), make_images(1), f"kpcacam:{option}")
