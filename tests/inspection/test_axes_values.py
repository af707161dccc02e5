"""Each operation that keeps, moves, joins or cuts axes, by a literal function of a small tensor of known axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.inspection.axes import bare, layouts_of, new_order
from sightline.inspection.recording import key_of, record
from toynets import Through

N, C, H, W = 2, 4, 2, 3
PICTURE, SIGNAL, VOLUME = (N, C, H, W), (N, C, 5), (N, C, 2, 3, 5)


def found(function: Callable[[Tensor], Any], shape: tuple[int, ...] = PICTURE) -> str:
    """The layout of what a function makes of an image of this shape, and of nothing else."""
    seen = record(Through(function), torch.rand(shape))
    assumed: set[Any] = set()
    layouts = layouts_of(seen.recorder.ops, seen.images, key_of(seen.images), assumed)
    assert not assumed
    return str(layouts.get(key_of(seen.output)))


def nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def special(count: int, x: Tensor) -> Tensor:
    """Tokens behind so many others: (N, count + h·w, C)."""
    return torch.cat([torch.zeros(len(x), count, x.shape[1]), tokens(x)], 1)


def heads(x: Tensor) -> Tensor:
    """(N, 1 + h·w, 2 heads, C / 2)"""
    return special(1, x).reshape(N, 7, 2, 2)


def map_over(x: Tensor) -> Tensor:
    """(N, heads, T, T), and each of its rows adds to 1."""
    return (q := heads(x).transpose(1, 2)) @ q.transpose(-2, -1)


PICTURES: list[tuple[Callable[[Tensor], Any], str]] = [
    # permutations
    (lambda x: torch.permute(x, dims=(0, 2, 3, 1)), "nhwc"),
    (lambda x: x.permute(0, -2, -1, -3), "nhwc"),
    (lambda x: x.permute(0, 3, 1, 2), "None"),  # channels third, columns first
    (lambda x: x.permute(0, 3, 2, 1), "None"),
    (lambda x: x.permute(0, 2, 1, 3), "None"),  # channels between rows and columns
    (lambda x: x.permute(1, 0, 2, 3), "None"),
    (lambda x: x.permute(3, 2, 0, 1), "None"),
    (lambda x: nhwc(x).permute(0, 2, 1, 3), "None"),
    (lambda x: nhwc(x).permute(0, 3, 1, 2), "nchw"),
    (lambda x: nhwc(x).transpose(0, 1), "None"),
    (lambda x: torch.transpose(tokens(x), dim0=1, dim1=2), "nct:2x3"),
    (lambda x: torch.transpose(tokens(x), dim0=-1, dim1=-2), "nct:2x3"),
    (lambda x: special(2, x).mT, "None"),  # an attribute is no operation that is followed
    (lambda x: special(2, x).transpose(1, 2), "nct:2+2x3"),
    (lambda x: special(2, x).transpose(1, 2).transpose(2, 1), "ntc:2+2x3"),
    (lambda x: special(2, x).transpose(0, 1), "None"),
    (lambda x: torch.moveaxis(x, 1, 3), "nhwc"),
    (lambda x: torch.movedim(x, (2, 3), (1, 2)), "None"),  # several axes at once are not followed
    (lambda x: torch.movedim(x, 1, -1), "nhwc"),
    (lambda x: torch.movedim(x, (1,), (-1,)), "None"),
    # reshapes
    (lambda x: x.view(N, C, H, W), "nchw"),
    (lambda x: x.reshape(N, C, H * W), "nct:2x3"),
    (lambda x: x.reshape(N, H * W, C), "None"),
    (lambda x: x.reshape(N, C // 2, 2 * H * W), "None"),
    (lambda x: x.reshape(1, N * C, H * W), "None"),
    (lambda x: x.flatten(2).unflatten(2, (H, W)), "nchw"),
    (lambda x: x.flatten(2).view(N, C, W, H), "None"),
    (lambda x: nhwc(x).flatten(1, 2), "ntc:2x3"),
    (lambda x: nhwc(x).flatten(2), "None"),
    (lambda x: nhwc(x).flatten(1, 2).reshape(N, W, H, C), "None"),
    (lambda x: nhwc(x).flatten(1, 2).reshape(N, H, W, C), "nhwc"),
    (lambda x: special(2, x).reshape(N, 2, 4, C), "None"),
    (lambda x: special(2, x).transpose(1, 2).reshape(N, C, 2, 4), "None"),
    (lambda x: x.unsqueeze(0).squeeze(0), "None"),
    (lambda x: tokens(x).reshape(N * H * W, C).view_as(tokens(x)), "ntc:2x3"),
    (lambda x: F.layer_norm(tokens(x).reshape(N * H * W, C), (C,)).reshape_as(tokens(x)), "ntc:2x3"),
    (lambda x: tokens(x).reshape(N * H * W, C).expand_as(torch.zeros(N * H * W, C)), "None"),
    (lambda x: x.flatten().view_as(tokens(x)), "None"),  # the channels may be anywhere
    (lambda x: x.flatten(1).view_as(x), "None"),
    (lambda x: tokens(x).reshape(H * W, N * C).view_as(tokens(x)), "None"),
    (lambda x: tokens(x).reshape(N * H * W // 2, C * 2).view_as(tokens(x)), "None"),
    # pointwise operations
    (lambda x: x + 1, "nchw"),
    (lambda x: 1 - x, "nchw"),
    (lambda x: x.add_(x), "nchw"),
    (lambda x: x + x.mean((2, 3), keepdim=True), "nchw"),
    (lambda x: x.mean((2, 3), keepdim=True) * x, "nchw"),
    (lambda x: x.mean((2, 3), keepdim=True).relu(), "None"),
    (lambda x: x + x.roll(1, 3), "nchw"),
    (lambda x: tokens(x) + special(0, x), "ntc:2x3"),
    (lambda x: tokens(x) + x.reshape(N, H * W, C), "ntc:2x3"),
    (lambda x: x > 0, "None"),
    (lambda x: (x > 0).float(), "None"),
    (lambda x: F.batch_norm(x, torch.zeros(C), torch.ones(C)), "nchw"),
    (lambda x: F.batch_norm(tokens(x).transpose(1, 2), torch.zeros(C), torch.ones(C)), "nct:2x3"),
    (lambda x: F.group_norm(x, 2), "nchw"),
    (lambda x: F.layer_norm(nhwc(x), (C,)), "nhwc"),
    (lambda x: F.layer_norm(tokens(x), (C,)), "ntc:2x3"),
    # channels first
    (lambda x: F.max_pool2d(x, (1, 2)), "nchw"),
    (lambda x: F.interpolate(x, scale_factor=2), "nchw"),
    (lambda x: F.conv2d(nhwc(x), torch.ones(2, H, 1, 1)), "None"),  # over the rows as if they were channels
    (lambda x: F.conv2d(x[0], torch.ones(2, C, 1, 1)), "None"),
    (lambda x: F.adaptive_avg_pool1d(x.flatten(2), 3), "None"),
    # linear layers
    (lambda x: F.linear(nhwc(x), torch.ones(5, C)), "nhwc"),
    (lambda x: F.linear(special(2, x), torch.ones(5, C)), "ntc:2+2x3"),
    (lambda x: F.linear(x.flatten(2), torch.ones(5, H * W)), "None"),
    # joined
    (lambda x: torch.cat([x, x], -3), "nchw"),
    (lambda x: torch.cat([x, x], dim=1), "nchw"),
    (lambda x: torch.concat([x, x], axis=1), "nchw"),  # type: ignore[call-overload]
    (lambda x: torch.cat([x, x]), "None"),
    (lambda x: torch.cat([x, x], 0), "None"),
    (lambda x: torch.cat([x, x], 3), "None"),
    (lambda x: torch.cat([torch.zeros(N, C, 1, W), x], 2), "None"),  # a row before the others
    (lambda x: torch.cat([x, torch.zeros(N, C, 1, W)], 2), "None"),
    (lambda x: torch.cat([nhwc(x), nhwc(x)], 3), "nhwc"),
    (lambda x: torch.cat([nhwc(x), nhwc(x)], 1), "None"),
    (lambda x: torch.cat([tokens(x), torch.zeros(N, H * W, 1)], 2), "ntc:2x3"),
    (lambda x: torch.cat([torch.zeros(N, C, 1), x.flatten(2)], 2), "nct:1+2x3"),
    (lambda x: torch.cat([torch.zeros(N, C, 1), torch.ones(N, C, 2), x.flatten(2)], 2), "nct:3+2x3"),
    (lambda x: torch.cat([torch.zeros(N, 1, C), special(2, x)], 1), "ntc:3+2x3"),
    (lambda x: torch.cat([torch.zeros(N, 1, C), tokens(x), torch.zeros(N, 1, C)], 1), "None"),
    (lambda x: torch.cat([tokens(x), tokens(x)], 1), "None"),
    (lambda x: torch.cat([tokens(x), torch.zeros(N, 1, C), tokens(x)], 1), "None"),
    (lambda x: torch.cat([torch.zeros(N, 1, H, W), torch.zeros(N, 2, H, W)], 1), "None"),
    (lambda x: special(16, x), "ntc:16+2x3"),
    (lambda x: special(17, x), "None"),
    # cut
    (lambda x: x[...], "nchw"),
    (lambda x: x[:, :], "nchw"),
    (lambda x: x[[1, 0]], "None"),
    (lambda x: x[torch.arange(N)], "None"),
    (lambda x: x[:, torch.tensor([1, 0, 3, 2])], "None"),
    (lambda x: x[:, :, ::2], "None"),
    (lambda x: nhwc(x)[:, ::2, ::2], "nhwc"),
    (lambda x: nhwc(x)[:, ::2], "nhwc"),
    (lambda x: nhwc(x)[::2], "None"),
    (lambda x: nhwc(x)[:, ::2, ::2, ::2], "None"),
    (lambda x: nhwc(x)[:, 1::2, ::2], "None"),
    (lambda x: nhwc(x)[:, 1:], "None"),
    (lambda x: nhwc(x)[:, :1], "None"),
    (lambda x: nhwc(x)[:, [0]], "None"),
    (lambda x: nhwc(x)[:, 0], "None"),
    (lambda x: special(2, x)[:, 1:], "ntc:1+2x3"),
    (lambda x: special(2, x)[:, 2:], "ntc:2x3"),
    (lambda x: special(2, x)[:, -6:], "ntc:2x3"),
    (lambda x: special(2, x)[:, 1:, :], "ntc:1+2x3"),
    (lambda x: special(2, x)[:, 1::1], "ntc:1+2x3"),
    (lambda x: special(2, x)[:, 3:], "None"),
    (lambda x: special(2, x)[:, 1:8:1], "None"),
    (lambda x: special(2, x)[1:, 1:], "None"),
    (lambda x: special(6, x)[:, ::2], "None"),
    (lambda x: special(2, x)[:, torch.arange(1, 8)], "None"),
    (lambda x: special(2, x)[:, 1:, [0]], "None"),
    (lambda x: special(2, x)[:, 1], "None"),
    (lambda x: special(2, x)[1:], "None"),
    (lambda x: special(2, x).transpose(1, 2)[:, 1:], "None"),
    (lambda x: special(1, x)[:, 0:], "ntc:1+2x3"),
    # tokens cut into heads
    (lambda x: heads(x).reshape(N, 7, 4), "ntc:1+2x3"),
    (lambda x: heads(x).relu().flatten(2), "ntc:1+2x3"),
    (lambda x: heads(x).transpose(1, 2).transpose(1, 2).flatten(2), "ntc:1+2x3"),
    (lambda x: heads(x).permute(0, 2, 1, 3).permute(0, 2, 1, 3).flatten(2), "ntc:1+2x3"),
    (lambda x: heads(x).transpose(-3, -2).transpose(1, 2).flatten(2), "ntc:1+2x3"),
    (lambda x: heads(x).transpose(0, 1).transpose(0, 1).flatten(2), "None"),  # the batch was moved
    (lambda x: heads(x).movedim((1, 2), (2, 1)).transpose(1, 2).flatten(2), "None"),
    (lambda x: heads(x).transpose(1, 2).reshape(N, 7, 4), "None"),  # the heads are mixed with the tokens
    (lambda x: heads(x).transpose(0, 1).transpose(1, 2).flatten(2), "None"),
    (lambda x: heads(x).flatten(1), "None"),
    (lambda x: special(1, x).reshape(N, 14, 1, 2).flatten(2), "None"),
    (lambda x: (map_over(x).softmax(-1) @ heads(x).transpose(1, 2)).transpose(1, 2).flatten(2), "ntc:1+2x3"),
    (lambda x: (map_over(x) @ torch.ones(N, 2, 7, 3)).transpose(1, 2).flatten(2), "ntc:1+2x3"),
    (lambda x: (heads(x) @ torch.ones(2, 2)).flatten(2), "None"),  # a product over what is no line of tokens
    (lambda x: (torch.ones(7, 7) @ heads(x).transpose(1, 2)).transpose(1, 2).flatten(2), "None"),
    (lambda x: (map_over(x) + torch.zeros(3, 1, 1, 1, 1)).sum(0).transpose(1, 2).flatten(2), "None"),
    (lambda x: (heads(x).transpose(1, 2).flip(2) + 0).transpose(1, 2).flatten(2), "None"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "expected"), PICTURES)
def test_the_axes_of_what_is_made_of_a_picture(function: Callable[[Tensor], Any], expected: str) -> None:
    assert found(function) == expected


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x.relu(), "ncl"),
        (lambda x: F.conv1d(x, torch.ones(2, C, 3)), "ncl"),
        (lambda x: F.max_pool1d(x, 2), "ncl"),
        (lambda x: x.transpose(1, 2), "ntc:5"),
        (lambda x: x.transpose(1, 2).transpose(1, 2), "ncl"),
        (lambda x: x.transpose(0, 1), "None"),
        (lambda x: x.permute(0, 1, 2), "ncl"),
        (lambda x: torch.cat([torch.zeros(N, 1, C), x.transpose(1, 2)], 1).transpose(1, 2), "nct:1+5"),
        (lambda x: torch.cat([torch.zeros(N, 1, C), x.transpose(1, 2)], 1)[:, 1:].transpose(1, 2), "ncl"),
        (lambda x: x.unsqueeze(2), "None"),
        (lambda x: x.reshape(N, C * 5), "None"),
    ],
)
def test_the_axes_of_what_is_made_of_a_signal(function: Callable[[Tensor], Any], expected: str) -> None:
    assert found(function, SIGNAL) == expected


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: F.conv3d(x, torch.ones(2, C, 1, 1, 1)), "ncdhw"),
        (lambda x: x.flatten(2), "nct:2x3x5"),
        (lambda x: x.flatten(2).reshape(N, C, 2, 3, 5), "ncdhw"),
        (lambda x: x.flatten(2).reshape(N, C, 6, 5), "None"),
        (lambda x: x.reshape(N, C, 6, 5), "None"),
        (lambda x: x.reshape(N, 8, 15), "None"),
        (lambda x: x.reshape(N, 2, C * 15), "None"),
        (lambda x: x.flatten(2).transpose(1, 2), "ntc:2x3x5"),
        (lambda x: x.flatten(2).transpose(1, 2).reshape(N, 2, 3, 20), "None"),
        (lambda x: x.permute(0, 1, 2, 3, 4), "ncdhw"),
        (lambda x: x.permute(0, 2, 3, 4, 1), "None"),  # no layout has channels behind three axes
        (lambda x: x.permute(0, 1, 3, 2, 4), "None"),
        (lambda x: x.permute(1, 0, 2, 3, 4), "None"),
        (lambda x: x[:, :, 0], "None"),
    ],
)
def test_the_axes_of_what_is_made_of_a_volume(function: Callable[[Tensor], Any], expected: str) -> None:
    assert found(function, VOLUME) == expected


def test_an_image_of_other_axes_is_not_followed() -> None:
    for shape in ((N, C), (N, C, 1, 2, 2, 2)):
        assert found(lambda x: x.relu(), shape) == "None"


@pytest.mark.parametrize(
    ("function", "assumed"),
    [
        (lambda x: F.conv2d(x.roll(1, 2), torch.ones(2, C, 1, 1)), True),
        (lambda x: F.max_pool2d(x.roll(1, 2), 1), True),
        (lambda x: F.batch_norm(x.roll(1, 2), torch.zeros(C), torch.ones(C)), True),
        (
            lambda x: F.conv1d(x.flatten(2).roll(1, 2), torch.ones(2, C, 1)),
            False,
        ),  # of three axes only where known
        (lambda x: F.conv3d(x[:, :, None].roll(1, 2), torch.ones(2, C, 1, 1, 1)), False),
        (lambda x: F.layer_norm(x.roll(1, 2), (W,)), False),
    ],
)
def test_what_is_read_as_a_picture_is_assumed_to_be_one(
    function: Callable[[Tensor], Any], assumed: bool
) -> None:
    seen = record(Through(function), torch.rand(PICTURE))
    gathered: set[Any] = set()
    layouts = layouts_of(seen.recorder.ops, seen.images, key_of(seen.images), gathered)
    rolled = next(op for op in seen.recorder.ops if op.function == "roll").output_key
    assert gathered == ({rolled} if assumed else set())
    assert (str(layouts.get(rolled)), str(layouts.get(key_of(seen.output)))) == (
        ("nchw",) * 2 if assumed else ("None",) * 2
    )
    assert layouts_of(seen.recorder.ops, seen.images, key_of(seen.images)) == layouts


@pytest.mark.parametrize(
    ("function", "order"),
    [
        (lambda x: x.permute(0, 2, 3, 1), [0, 2, 3, 1]),
        (lambda x: x.permute([0, -1, 1, 2]), [0, 3, 1, 2]),
        (lambda x: torch.permute(x, dims=[3, 2, 1, 0]), [3, 2, 1, 0]),
        (lambda x: x.transpose(1, -1), [0, 3, 2, 1]),
        (lambda x: torch.swapaxes(x, 0, 2), [2, 1, 0, 3]),
        (lambda x: torch.transpose(x, dim0=2, dim1=3), [0, 1, 3, 2]),
        (lambda x: torch.transpose(x, 1, dim1=3), [0, 3, 2, 1]),
        (lambda x: x.movedim(1, 3), [0, 2, 3, 1]),
        (lambda x: x.movedim(-1, -3), [0, 3, 1, 2]),
        (lambda x: x.movedim((0, 1), (1, 0)), None),
        (lambda x: x.movedim(0, (0,)[0]), [0, 1, 2, 3]),
        (lambda x: torch.movedim(x, source=1, destination=2), None),  # by name: not read
    ],
)
def test_which_old_axis_each_new_axis_is(function: Callable[[Tensor], Any], order: list[int] | None) -> None:
    (op,) = record(Through(function), torch.rand(PICTURE)).recorder.ops
    assert new_order(op, 4) == order


def test_a_transposed_matrix_names_no_axes_and_a_line_has_one() -> None:
    (op,) = record(Through(lambda x: x.t()), torch.rand(2, 3)).recorder.ops
    assert new_order(op, 2) is None
    (op,) = record(Through(lambda x: torch.permute(x, dims=(0,))), torch.rand(3)).recorder.ops
    assert new_order(op, 1) == [0]


@pytest.mark.parametrize(
    ("function", "name"),
    [("__iadd__", "iadd"), ("add_", "add"), ("_max_pool2d", "max_pool2d"), ("relu", "relu")],
)
def test_a_function_without_the_marks_of_its_spelling(function: str, name: str) -> None:
    assert bare(function) == name
