"""FEM against loops over positions, and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline
from references.fem import fem
from references.plain import each
from toynets import ALL_TOYS, HandGap, build, image, make_images

PICKED = torch.tensor([[2, 0], [1, 3]])


@pytest.mark.parametrize("k", [0.5, 2.0])
@pytest.mark.parametrize("name", ALL_TOYS)
def test_equals_the_reference(name: str, k: float) -> None:
    net, x = build(name), make_images()
    maps = sightline.explain(net, x, method="fem", classes=PICKED, k=k).maps
    torch.testing.assert_close(maps, each(fem, net, x, PICKED, k=k), rtol=0, atol=1e-12)
    assert torch.equal(maps[:, 0], maps[:, 1])  # the same for every class


def test_by_hand() -> None:
    # Channel 1: mean 2, σ = √12 = 3.46; only 8 ≥ 2 + 1 · 3.46. Channel 2: mean 1, σ 1; 2 and 2 ≥ 2. Channel 3 is
    # constant: nowhere unusual.
    x = image([[[0, 0], [0, 8]], [[2, 0], [0, 2]], [[5, 5], [5, 5]]])
    net = HandGap([[1, 1, 1]], [0], body=nn.Identity())
    maps = sightline.explain(net, x, method="fem", classes=0, layer="body", k=1).maps
    assert maps[0, 0].tolist() == [[1, 0], [0, 3]]
