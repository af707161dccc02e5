"""Which axis of a tensor is what, and where the cells of a grid are, by literal functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.errors import InputError
from sightline.inspection.axes import layouts_of
from sightline.inspection.layout import Layout
from sightline.inspection.probes import changed_patches
from sightline.inspection.recording import key_of, record
from sightline.inspection.rows import may_move_rows
from sightline.inspection.tokens import possible_grids
from toynets import Through


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def with_class_token(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros(len(x), 1, x.shape[1]), tokens(x)], 1)


def attended(x: Tensor) -> Tensor:
    q = with_class_token(x).reshape(1, 7, 2, 2).transpose(1, 2)
    weights = (q @ q.transpose(-2, -1)).softmax(-1)
    return (weights @ q).transpose(1, 2).reshape(1, 7, 4)


def fused(x: Tensor) -> Tensor:
    q = with_class_token(x).view(1, 7, 2, 2).permute(0, 2, 1, 3)
    return F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x.permute(0, 2, 3, 1), "nhwc"),
        (lambda x: x.permute((0, 2, 3, 1)), "nhwc"),
        (lambda x: x.movedim(1, -1), "nhwc"),
        (lambda x: x.movedim(1, -1).movedim(-1, 1), "nchw"),
        (lambda x: x.permute(0, 1, 3, 2), "None"),  # the positions themselves are transposed
        (lambda x: x.swapaxes(0, 1), "None"),
        (lambda x: x.permute(0, 2, 3, 1).reshape(1, 6, 4), "ntc:2x3"),
        (lambda x: x.permute(0, 2, 3, 1).reshape(1, 3, 8), "None"),
        (lambda x: x.flatten(2), "nct:2x3"),
        (lambda x: x.flatten(1), "None"),
        (tokens, "ntc:2x3"),
        (lambda x: tokens(x).transpose(1, 2).reshape(1, 4, 2, 3), "nchw"),
        (lambda x: tokens(x).transpose(1, 2).reshape(1, 4, 3, 2), "None"),
        (lambda x: tokens(x).reshape(1, 2, 3, 4), "nhwc"),
        (with_class_token, "ntc:1+2x3"),
        (lambda x: with_class_token(x)[:, 1:], "ntc:2x3"),
        (lambda x: with_class_token(x)[:, :6], "None"),
        (lambda x: torch.cat([tokens(x), torch.zeros(1, 1, 4)], 1), "None"),
        (lambda x: torch.cat([x, x.relu()], 1), "nchw"),
        (lambda x: torch.cat([x, torch.zeros(1, 2, 2, 3)], 1), "nchw"),
        (lambda x: torch.cat([x, x], 2), "None"),
        (lambda x: torch.cat([x.flatten(2), F.max_pool2d(x, (1, 1)).flatten(2)], 1), "nct:2x3"),
        (lambda x: torch.cat([x.flatten(2), F.interpolate(x, (3, 2)).flatten(2)], 1), "None"),  # 2 × 3 and 3 × 2
        (attended, "ntc:1+2x3"),
        (fused, "ntc:1+2x3"),
        (lambda x: F.linear(tokens(x), torch.ones(5, 4)), "ntc:2x3"),
        (lambda x: F.linear(x, torch.ones(5, 3)), "None"),  # over the columns of a map
        (lambda x: x.roll(1, 2), "None"),
        (lambda x: x.roll(1, 2) + x, "nchw"),  # an addition to what is known takes it up again
    ],
)  # fmt: skip
def test_the_axes_of_a_tensor(function: Callable[[Tensor], Tensor], expected: str) -> None:
    seen = record(Through(function), torch.rand(1, 4, 2, 3))
    assumed: set[Any] = set()
    found = layouts_of(seen.recorder.ops, seen.images, key_of(seen.images), assumed)
    assert str(found.get(key_of(seen.output))) == expected
    assert not assumed


def test_a_convolution_behind_what_could_not_be_followed_assumes_a_map() -> None:
    seen = record(Through(lambda x: F.conv2d(x.roll(1, 2), torch.ones(2, 4, 1, 1))), torch.rand(1, 4, 2, 3))
    assumed: set[Any] = set()
    found = layouts_of(seen.recorder.ops, seen.images, key_of(seen.images), assumed)
    assert assumed == {seen.recorder.ops[0].output_key}
    assert {str(layout) for layout in found.values()} == {"nchw"}


def test_a_layout_has_one_to_three_sides() -> None:
    assert Layout("ntc", 0, (1, 2, 3)).grid == (1, 2, 3)
    for grid in ((), (1, 2, 3, 4)):
        with pytest.raises(InputError, match="needs the grid of its tokens"):
            Layout("ntc", 0, grid)


def test_grids_where_the_image_is_cut_up_by_reshaping() -> None:
    # 224 is divisible by patches of 4, 8, 14, 16 and 32, and each grid may be halved three times, rounded up.
    square = [56, 28, 16, 14, 8, 7, 4, 2]
    assert possible_grids([], torch.zeros(1, 3, 224, 224)) == [(side, side) for side in square]
    assert possible_grids([], torch.zeros(1, 3, 28, 56)) == [(7, 14), (4, 7), (2, 4), (1, 2)]


@pytest.mark.parametrize("cells", [2, 3, 4])
def test_a_changed_patch_lies_in_one_cell(cells: int) -> None:
    changed = (changed_patches(torch.zeros(1, 3, 96, 96)) != 0).any(1)
    assert not changed[0].any()
    places = set()
    for one in changed[1:]:
        where = one.nonzero() * cells // 96
        assert len(where.unique(dim=0)) == 1
        places.add(tuple(where[0].tolist()))
    assert len(places) == (2 if cells == 2 else 4)


@pytest.mark.parametrize(
    ("function", "moves"),
    [
        (lambda x: x.relu(), False),
        (lambda x: x.flatten(1), False),
        (lambda x: x.reshape(1, 8, 2, 3), True),  # both images in one row
        (lambda x: x.reshape(4, 2, 2, 3), True),
        (lambda x: x.transpose(0, 1), True),
        (lambda x: x.transpose(1, 2), False),
        (lambda x: x.flip(0), True),
        (lambda x: x[[1, 0]], True),
        (lambda x: x[:, 1:], False),
    ],
)
def test_what_may_move_the_rows_of_a_batch(function: Callable[[Tensor], Tensor], moves: bool) -> None:
    seen = record(Through(function), torch.rand(2, 4, 2, 3))
    assert may_move_rows(seen.recorder.ops, 2) == moves
