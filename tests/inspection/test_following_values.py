"""Whether what moves in a layer follows the patch of the image that is changed, and what a layer shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from looks import Takes, box, patches
from sightline.inspection.following import follows, patches_within, shown
from sightline.inspection.layers import LayerRef
from sightline.inspection.layout import Layout
from toynets import Through

TOKENS = Layout("ntc", 0, (6, 6))


@pytest.mark.parametrize(
    ("spans", "cuts"),
    [
        (((0, 36), (0, 72)), [(3, 9, 6, 18), (3, 9, 30, 42), (3, 9, 54, 66), (15, 21, 6, 18)]),
        (((12, 24), (0, 72)), [(13, 15, 6, 18), (13, 15, 30, 42), (13, 15, 54, 66), (17, 19, 6, 18)]),
        (((-12, 48), (36, 100)), [(3, 9, 39, 45), (3, 9, 51, 57), (3, 9, 63, 69), (15, 21, 39, 45)]),
        (((0, 3), (0, 72)), [(0, 1, 6, 18), (0, 1, 30, 42), (0, 1, 54, 66), (1, 2, 6, 18)]),
    ],
)
def test_nine_patches_within_a_part_of_the_image(spans: Any, cuts: list[Any]) -> None:
    batch, centres = patches_within(torch.rand(1, 3, 36, 72), spans)
    assert (len(batch), centres.shape) == (10, (9, 2))
    found = [box((copy - batch[0]).ne(0).all(0)) for copy in batch[1:]]
    assert found[:4] == cuts
    top, left = max(0, spans[0][0]), max(0, spans[1][0])
    bottom, right = min(36, spans[0][1]), min(72, spans[1][1])
    for number, (y, x) in enumerate(centres.tolist()):
        assert y == pytest.approx(top + (bottom - top) * (number // 3 + 0.5) / 3)
        assert x == pytest.approx(left + (right - left) * (number % 3 + 0.5) / 3)


def blurred(x: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(x, 4, 2, 1)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x, True),
        (blurred, True),
        (lambda x: 1e-3 * x, True),
        (lambda x: blurred(x).flip(2), False),
        (lambda x: blurred(x).flip(3), False),
        (lambda x: blurred(x).transpose(2, 3).contiguous(), False),
        (lambda x: blurred(x).roll(9, 3), False),
        (lambda x: torch.nn.functional.pad(x, (16, 0)), False),  # 8 of 64 further right, and a tenth may be
        (lambda x: torch.nn.functional.pad(x, (0, 0, 0, 16)), False),
        (lambda x: torch.nn.functional.pad(x, (12, 0)), True),
        (lambda x: torch.nn.functional.pad(x, (0, 0, 0, 12)), True),
        (lambda x: x[:, :, :24], False),
        (lambda x: 0 * x, None),
        (lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 6, 6), False),  # the same everywhere
        (lambda x: x / 0, None),
        (lambda x: x / torch.ones(48, 48).tril(46), None),  # one cell holds no number
        (
            lambda x: (x.amax((1, 2, 3), keepdim=True) > 1).float().expand(-1, 1, 6, 6),
            None,
        ),  # alike for each patch
        (lambda x: torch.nn.functional.avg_pool2d(x, 16), True),
        (lambda x: torch.nn.functional.avg_pool2d(x, 16).flip(2), False),
        (lambda x: torch.nn.functional.avg_pool2d(x, 16).flip(3), False),
        (lambda x: torch.nn.functional.avg_pool2d(x, (8, 24)).flip(2), False),
        (lambda x: torch.nn.functional.avg_pool2d(x, (24, 8)).flip(3), False),
        (lambda x: torch.nn.functional.avg_pool2d(x, 24), True),  # of two rows and columns nothing is asked
        (lambda x: x.flatten(2), None),
        (lambda x: x[:1], None),
    ],
)
def test_whether_what_moves_follows_the_patch(
    function: Callable[[Tensor], Tensor], expected: bool | None
) -> None:
    net = nn.Sequential(Through(function))
    assert follows(net, torch.rand(1, 3, 48, 48), LayerRef("0")) is expected


def test_of_a_part_of_the_image_and_of_other_layouts() -> None:
    image = torch.rand(1, 3, 48, 48)
    cut, covers = nn.Sequential(Through(lambda x: x[:, :, 24:])), ((24.0, 48.0), (0.0, 48.0))
    assert follows(cut, image, LayerRef("0", covers=covers)) is True
    assert follows(cut, image, LayerRef("0")) is False
    tokens = LayerRef("0", layout=TOKENS)
    assert follows(nn.Sequential(Through(patches)), image, tokens) is True
    assert follows(nn.Sequential(Through(lambda x: patches(x).flip(1))), image, tokens) is False
    assert follows(nn.Sequential(Through(lambda x: x)), torch.rand(1, 3, 48), LayerRef("0")) is None
    assert follows(Takes(lambda x: x, single=True), image, LayerRef("layer")) is None


def test_what_a_layer_shows() -> None:
    net, x = Takes(lambda x: x + 1, calls=2), torch.rand(2, 3, 4, 4)
    once = Takes(lambda x: x + 1)
    for network, site in (
        (once, LayerRef("layer")),
        (net, LayerRef("layer")),
        (net, LayerRef("layer", call=1)),
    ):
        found = shown(network, x, site)
        assert found is not None
        assert torch.equal(found, x + 1)  # as it was, though what follows works in place
    assert shown(net, x, LayerRef("layer", call=2)) is None
    assert shown(Takes(lambda x: [x, x]), x, LayerRef("layer")) is None
    assert shown(Takes(lambda x: x, single=True), x, LayerRef("layer")) is None
    operation = shown(net, x, LayerRef("layer", op=1, function="add"))
    assert operation is not None
    assert torch.equal(operation, x + 1)
    assert shown(net, x, LayerRef("layer", op=1, function="relu")) is None
    assert shown(net, x, LayerRef("layer", op=9, function="add")) is None
    assert not any(module._forward_hooks for module in net.modules())
