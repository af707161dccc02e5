"""Which part of the image a map covers behind the first convolution: each operation, edge by edge."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from covers import WHOLE, Function, H, W, conv, covered, ones, spans


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        # slices
        (lambda m: m[:, :, 2:], ((2, H), (0, W))),
        (lambda m: m[:, :, 1:], WHOLE),  # below two positions nothing moves
        (lambda m: m[:, :, :-1], WHOLE),
        (lambda m: m[:, :, :-2], ((0, H - 2), (0, W))),
        (lambda m: m[..., :-4], ((0, H), (0, W - 4))),
        (lambda m: m[..., 4:], ((0, H), (4, W))),
        (lambda m: m[:, ..., 4:], ((0, H), (4, W))),
        (lambda m: m[:, :, 4:, ...], ((4, H), (0, W))),
        (lambda m: m[:, :, 3:21, 5:30], ((3, 21), (5, 30))),
        (lambda m: m[:, :, ::2], WHOLE),
        (lambda m: m[:, :, 1::2], WHOLE),
        (lambda m: m[:, :, 4::2], ((4, H), (0, W))),
        (lambda m: m[:, :, 2::2], ((2, H), (0, W))),
        (lambda m: m[:, :, :20:2], ((0, 20), (0, W))),
        (lambda m: m[:, 1:], WHOLE),
        (lambda m: m[1:] if len(m) > 1 else m[:1], WHOLE),
        (lambda m: m[:, :, 3], None),
        (lambda m: m[:, [0, 1]], None),
        (lambda m: m[:, :, torch.arange(H)], None),
        (lambda m: m[None], None),
        (lambda m: m.narrow(2, 3, 10), ((3, 13), (0, W))),
        (lambda m: torch.narrow(m, dim=-2, start=-21, length=10), ((3, 13), (0, W))),
        (lambda m: m.narrow(-1, 0, 20), ((0, H), (0, 20))),
        (lambda m: F.max_pool2d(m, 2)[:, :, 2:], ((4, H), (0, W))),  # positions of two pixels
        (lambda m: m.permute(0, 2, 3, 1)[:, 4:], ((4, H), (0, W))),
        (lambda m: m.permute(0, 2, 3, 1)[:, :, 4:, 1:], ((0, H), (4, W))),
        (lambda m: torch.cat([torch.zeros(1, 1, 4), m.flatten(2).transpose(1, 2)], 1)[:, 1:], WHOLE),
        (lambda m: m.flatten(2).transpose(1, 2)[:, 5:], None),
        # padding
        (lambda m: F.pad(m, (4, 0)), ((0, H), (-4, W))),
        (lambda m: F.pad(m, (0, 0, 2, 3)), ((-2, H + 3), (0, W))),
        (lambda m: F.pad(m, (1, 1, 1, 1)), WHOLE),
        (lambda m: F.pad(m, (-3, 0)), ((0, H), (3, W))),
        (lambda m: F.pad(m.permute(0, 2, 3, 1), (0, 0, 4, 0)), ((0, H), (-4, W))),
        (lambda m: F.conv2d(F.pad(m, (2, 2, 2, 2)), ones(5, 5)), WHOLE),
        (lambda m: F.conv2d(F.pad(m, (2, 2, 2, 2)), ones(3, 3)), WHOLE),
        (lambda m: F.conv2d(F.pad(m, (2, 0, 0, 0)), ones(3, 3)), WHOLE),
        (lambda m: F.conv2d(F.pad(m, (3, 3, 3, 3)), ones(3, 3)), ((-3, H + 3), (-3, W + 3))),
        (lambda m: F.conv2d(F.pad(m, (0, 3, 0, 0)), ones(3, 3)), ((0, H), (0, W + 3))),
        (lambda m: F.conv2d(F.pad(m, (3, 0, 0, 0)), ones(3, 3)), ((0, H), (-3, W))),
        (lambda m: F.conv2d(F.pad(m, (0, 0, 3, 0)), ones(3, 3)), ((-3, H), (0, W))),
        (lambda m: F.conv2d(F.pad(m, (2, 2, 2, 2)), ones(1, 1)), ((-2, H + 2), (-2, W + 2))),
        (lambda m: F.conv2d(F.pad(m, (2, 2, 0, 0)), ones(1, 3)), WHOLE),
        (lambda m: F.conv2d(F.pad(m, (2, 2, 2, 2)), ones(1, 3)), ((-2, H + 2), (-2, W + 2))),
        (lambda m: F.max_pool2d(F.pad(m, (1, 2, 1, 2)), 3, 2), WHOLE),
        # a convolution's own padding
        (lambda m: F.conv2d(m, ones(3, 3), padding=1), WHOLE),
        (lambda m: F.conv2d(m, ones(3, 3), padding=2), WHOLE),
        (lambda m: F.conv2d(m, ones(3, 3), padding=3), ((-2, H + 2), (-2, W + 2))),
        (lambda m: F.conv2d(m, ones(3, 3), padding=5), ((-4, H + 4), (-4, W + 4))),
        (lambda m: F.conv2d(m, ones(3, 3), None, 1, (4, 0)), ((-3, H + 3), (0, W))),
        (lambda m: F.conv2d(m, ones(3, 3), None, 1, (0, 4)), ((0, H), (-3, W + 3))),
        (lambda m: F.conv2d(m, ones(1, 1), padding=(2, 0)), ((-2, H + 2), (0, W))),
        (lambda m: F.conv2d(m, ones(1, 1), padding=1), WHOLE),
        (lambda m: F.conv2d(m, ones(4, 4), padding=4), ((-3, H + 3), (-3, W + 3))),
        (lambda m: F.conv2d(m, ones(3, 3), padding=4, dilation=3), WHOLE),
        (lambda m: F.conv2d(m, ones(3, 3), padding="same"), WHOLE),
        (lambda m: F.conv2d(m, ones(3, 3)), WHOLE),
        (lambda m: F.max_pool2d(m, 4, padding=2), WHOLE),
        # what keeps positions
        (lambda m: m.relu() + 1, WHOLE),
        (lambda m: m * m.mean((2, 3), keepdim=True), WHOLE),
        (lambda m: m[:, :, 4:] + m[:, :, 4:].relu(), ((4, H), (0, W))),
        (lambda m: m[:, :, 4:] + m[:, :, :-4], None),  # two places at once
        (lambda m: m[:, :, 1:] + m[:, :, :-1], WHOLE),
        (lambda m: m + m[:, :, :1], None),
        (lambda m: m.mean((2, 3), keepdim=True), None),
        (lambda m: m.mean((2, 3)), None),
        (lambda m: m.mean(1), WHOLE),
        (lambda m: m.sum(1), WHOLE),
        (lambda m: m.sum(1, keepdim=True), WHOLE),
        (lambda m: m.sum(2), None),
        (lambda m: m.view(1, 2, 2, H, W), WHOLE),
        (lambda m: m.view(1, 2, 2, H, W).permute(0, 2, 1, 3, 4), WHOLE),
        (lambda m: m.view(1, 2, 2, H, W).transpose(1, 2).reshape(1, 4, H, W), WHOLE),
        (lambda m: m.view(1, 2, 2, H, W).permute(0, 1, 2, 4, 3), None),
        (lambda m: m.view(1, 2, 2, H, W).movedim(3, 1), None),
        (lambda m: m.view(1, 2, 2, H, W).movedim(1, 2), WHOLE),
        (lambda m: m.view(1, 2, 2, H, W).movedim((1, 2), (2, 1)), None),
        (lambda m: m[0].transpose(0, 1), None),
        (lambda m: m.mean(1)[0], None),
        (lambda m: F.conv2d(m, torch.ones(4, 1, 1, 1), None, 1, 3, 1, 4), ((-3, H + 3), (-3, W + 3))),
        (lambda m: m.view(1, 4, W, H), None),
        (lambda m: m.flatten(0, 1), None),
        (lambda m: m.unflatten(1, (2, 2)), WHOLE),
        (lambda m: m.chunk(2, 1)[0], WHOLE),
        (lambda m: m.split(2, 1)[1], WHOLE),
        (lambda m: m.tensor_split(2, 1)[1], WHOLE),
        (lambda m: m.unbind(1)[3], WHOLE),
        (lambda m: m.chunk(2, 2)[0], None),
        (lambda m: torch.stack([m, m], 1), WHOLE),
        (lambda m: torch.stack([m, m], 4), None),
        (lambda m: torch.cat([m, m], 1), WHOLE),
        (lambda m: torch.cat([m[:, :, 4:], m[:, :, 4:]], 1), None),  # of a slice the axes are not followed
        (lambda m: m.roll(3, 2), None),
        (lambda m: m.flip(3), None),
        (lambda m: m.permute(0, 1, 3, 2), None),
        (lambda m: m.flatten(2), WHOLE),
        (lambda m: F.interpolate(m, scale_factor=2), WHOLE),
    ],
)
def test_what_is_done_to_a_map(function: Function, expected: Any) -> None:
    assert spans(lambda x: function(conv(x))) == expected


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: conv(x, 0), ((1, H - 1), (1, W - 1))),
        (lambda x: conv(conv(x, 0), 0) if x.shape[1] == 4 else conv(x, (1, 0)), ((0, H), (1, W - 1))),
        (lambda x: F.max_pool2d(conv(x), 2), WHOLE),
        (lambda x: F.pad(conv(x), (2, 1)), ((0, H), (-2, W + 1))),
        (lambda x: F.pad(conv(x, 0), (2, 2, 2, 2)), ((-1, H + 1), (-1, W + 1))),
        (lambda x: conv(x, 0).relu() + 1, ((1, H - 1), (1, W - 1))),
        (lambda x: (c := conv(x))[:, :, 1:-1, 1:-1] + conv(x, 0) + 0 * c.sum(), ((0, H), (0, W))),
        (lambda x: conv(x[:, :, 4:]), ((4, H), (0, W))),
        (lambda x: conv(x[:, :, 4:], 0), ((5, H - 1), (1, W - 1))),
        (lambda x: conv(x)[:, :, 4:], None),  # what a slice leaves is not told by arithmetic on cells
        (lambda x: conv(x).narrow(2, 0, 8), None),
        (lambda x: F.pad(conv(x)[:, :, 4:], (1, 1)), None),
        (lambda x: F.pad(conv(x).flatten(2), (1, 1)), None),
        (lambda x: conv(x).chunk(2, 1)[1], WHOLE),
        (lambda x: torch.cat([conv(x), F.pad(conv(x, 0), (1, 1, 1, 1))], 1), WHOLE),
    ],
)
def test_where_the_cells_look_exactly(function: Function, expected: Any) -> None:
    coverage, key = covered(function)
    assert coverage.exact.get(key) == expected


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: F.conv2d(conv(x), ones(17, 17)), ((8, H - 8), (8, W - 8))),
        (lambda x: F.conv2d(conv(x), ones(17, 17)).relu(), ((8, H - 8), (8, W - 8))),
        (lambda x: F.conv2d(conv(x), ones(17, 17), padding=8), None),
        (lambda x: F.conv2d(conv(x), ones(3, 3)), None),
        (lambda x: F.conv2d(conv(x), ones(1, 9)), ((0, H), (4, W - 4))),
        (lambda x: F.conv2d(conv(x), ones(17, 17)).flatten(2), None),  # not channels first any more
        (lambda x: F.conv2d(conv(x), ones(17, 17)).permute(0, 2, 3, 1), None),
        (lambda x: F.conv2d(conv(x), ones(17, 17)).sum(1), None),
        (lambda x: F.conv2d(conv(x)[:, :, 8:], ones(9, 9)), None),
        (lambda x: conv(x[:, :, 8:], 0), None),  # it covers a part of the image anyway
        (lambda x: x, None),
    ],
)
def test_a_grid_whose_cells_look_at_the_middle_only(function: Function, expected: Any) -> None:
    coverage, key = covered(function)
    assert coverage.unpadded(key) == expected


def test_the_whole_image_is_whole_to_a_pixel() -> None:
    coverage, _ = covered(conv)
    assert coverage.whole == WHOLE
    for edges, whole in [
        (((0, H), (0, W)), True), (((1, H), (-1, W)), True), (((0, H - 1), (0, W + 1)), True),
        (((1.1, H), (0, W)), False), (((0, H), (0, W - 1.1)), False), (((0, H), (-1.1, W)), False),
    ]:  # fmt: skip
        assert coverage.is_whole(edges) == whole
