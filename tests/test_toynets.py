"""The plain steps that the references walk are the network: same logits, and the slopes are slopes."""

from __future__ import annotations

import pytest
import torch

from references.plain import gradient
from toynets import ALL_TOYS, build, make_images, run


@pytest.mark.parametrize("name", ALL_TOYS)
def test_program_is_the_network(name: str) -> None:
    net, x = build(name), make_images()
    torch.testing.assert_close(run(net.program(), x), net(x), rtol=0, atol=1e-12)
    assert net(x).std() > 0.1


@pytest.mark.parametrize("name", ALL_TOYS)
def test_reference_gradient_is_the_slope(name: str) -> None:
    net, x = build(name), make_images(1)
    before, after = net.split()
    activations = run(before, x).detach()
    g = gradient(after, activations, 2)
    step = 1e-6
    for k, i, j in [(0, 0, 0), (1, 3, 2), (2, 5, 7), (5, 4, 4)]:
        if activations[0, k, i, j] < 10 * step and activations[0, k, i, j] >= 0:
            continue  # at a corner of a max or a threshold there is no one slope
        up, down = activations.clone(), activations.clone()
        up[0, k, i, j] += step
        down[0, k, i, j] -= step
        slope = (run(after, up)[0, 2] - run(after, down)[0, 2]) / (2 * step)
        assert abs(slope - g[k, i, j]) < 1e-8
