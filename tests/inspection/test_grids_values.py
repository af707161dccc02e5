"""Where a grid's cells look behind each operation: the formula against the operation itself, on a ramp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.inspection.grids import behind, each, ends_inside, given, kernel_reach, moved, paddings, widest
from sightline.inspection.recording import Op, record
from toynets import Through

SIDES = (12, 16)
WHOLE = ((0.0, 12.0), (0.0, 16.0))


def last(function: Callable[[Tensor], Any], x: Tensor) -> Op:
    op: Op = record(Through(function), x).recorder.ops[-1]
    return op


def ones(*shape: int) -> Tensor:
    return torch.ones(1, 1, *shape, dtype=torch.float64)


# Functions of (x, weight): each kernel's weights are all alike, so that a cell shows the middle of what it looks at.
RESOLVED: list[tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = [
    (lambda x: F.conv2d(x, ones(3, 5)), (3, 5)),
    (lambda x: F.conv2d(x, ones(3, 1), None, 2), (3, 1)),
    (lambda x: F.conv2d(x, ones(3, 3), stride=(2, 1)), (3, 3)),
    (lambda x: F.conv2d(x, ones(2, 3), None, 1, (1, 0)), (2, 3)),
    (lambda x: F.conv2d(x, ones(3, 3), padding=1), (3, 3)),
    (lambda x: F.conv2d(x, ones(3, 3), None, 1, 0, (2, 3)), (5, 7)),
    (lambda x: F.conv2d(x, ones(3, 3), dilation=2), (5, 5)),
    (lambda x: F.conv2d(x, ones(3, 5), padding="same"), (3, 5)),
    (lambda x: F.conv2d(x, ones(3, 5), padding="same", dilation=2), (5, 9)),
    (lambda x: F.conv2d(x, ones(3, 5), padding="valid"), (3, 5)),
    (lambda x: F.conv2d(x, ones(3, 5), None, 1, "valid"), (3, 5)),
    (lambda x: F.avg_pool2d(x, 3), (3, 3)),
    (lambda x: F.avg_pool2d(x, (2, 3), 1), (2, 3)),
    (lambda x: F.avg_pool2d(x, kernel_size=3, stride=(1, 2)), (3, 3)),
    (lambda x: F.avg_pool2d(x, 3, 2, 1), (3, 3)),
    (lambda x: F.avg_pool2d(x, 3, 2, padding=(1, 0)), (3, 3)),
    (lambda x: F.conv_transpose2d(x, ones(3, 3)), (3, 3)),
    (lambda x: F.conv_transpose2d(x, ones(2, 4), None, 2), (2, 4)),
    (lambda x: F.conv_transpose2d(x, ones(4, 2), None, 2, (1, 0)), (4, 2)),
    (lambda x: F.conv_transpose2d(x, ones(3, 3), stride=(2, 3), padding=1), (3, 3)),
    (lambda x: F.conv_transpose2d(x, ones(3, 3), None, 1, 0, 0, 1, 2), (5, 5)),
    (lambda x: F.conv_transpose2d(x, ones(3, 3), dilation=(2, 1)), (5, 3)),
]


def centres(function: Callable[[Tensor], Tensor], axis: int) -> tuple[Tensor, Tensor]:
    """What cells in the middle see of a ramp of pixel centres, and the numbers of those cells."""
    ramp = (torch.arange(SIDES[axis], dtype=torch.float64) + 0.5).view((-1, 1) if axis == 0 else (1, -1))
    shown, all_ones = (
        function(x.expand(1, 1, *SIDES)) for x in (ramp, torch.ones(1, 1, dtype=torch.float64))
    )
    line = (shown / all_ones)[0, 0].movedim(axis, 0)
    inside = slice(len(line) // 3, len(line) - len(line) // 3)
    return line[inside, line.shape[1] // 2], torch.arange(len(line))[inside]


@pytest.mark.parametrize(("function", "reach"), RESOLVED)
def test_a_cell_lies_where_it_looks(function: Callable[[Tensor], Tensor], reach: tuple[int, ...]) -> None:
    op = last(function, torch.rand(1, 1, *SIDES, dtype=torch.float64))
    assert kernel_reach(op) == reach
    spans = behind(op, WHOLE)
    for axis, (start, stop) in enumerate(spans):
        step = (stop - start) / op.output.shape[2 + axis]
        seen, cells = centres(function, axis)
        if op.function.startswith("conv_transpose"):  # cells in turn lean on one pixel and on two
            assert float((seen - start - (cells + 0.5) * step).mean().abs()) <= 0.51 * step
        else:
            torch.testing.assert_close(seen, start + (cells.double() + 0.5) * step)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: F.conv2d(x, ones(5, 3), padding=(0, 1)), ((4, 20), (0, 32))),
        (
            lambda x: F.conv2d(x, ones(5, 5), None, 2),
            ((3, 19), (3, 27)),
        ),  # cells 0, 4, 8, 12 see 2 to 7 pixels
        (lambda x: F.conv2d(x, ones(3, 3), padding="same"), ((0, 24), (0, 32))),
        (lambda x: F.conv2d(x, ones(3, 3), padding="valid"), ((2, 22), (2, 30))),
        (lambda x: F.max_pool2d(x, 2), ((0, 24), (0, 32))),
        (lambda x: F.max_pool2d(x, 3, 1), ((2, 22), (2, 30))),
        (lambda x: F.max_pool2d(x, 3, 1, 1), ((0, 24), (0, 32))),
        (lambda x: F.max_pool2d(x, 3, 1, 0, 2), ((4, 20), (4, 28))),
        (lambda x: F.max_pool2d(x, 3, 1, dilation=(1, 2)), ((2, 22), (4, 28))),
        (lambda x: F.lp_pool2d(x, 2, 3), ((0, 24), (0, 30))),  # 5 cells of 3, and a column is left
        (lambda x: F.lp_pool2d(x, 4, 3, 1), ((2, 22), (2, 30))),
        (lambda x: F.lp_pool2d(x, 4, 2, 2, True), ((0, 24), (0, 32))),
        (lambda x: F.fractional_max_pool2d(x, 3, 5), ((0, 24), (0, 32))),
        (lambda x: F.adaptive_avg_pool2d(x, 2), ((0, 24), (0, 32))),
        (lambda x: F.conv_transpose2d(x, ones(2, 2), None, 2), ((0, 24), (0, 32))),
        (lambda x: F.conv_transpose2d(x, ones(3, 3), padding=1), ((0, 24), (0, 32))),
        (lambda x: F.conv_transpose2d(x, ones(3, 3)), ((-2, 26), (-2, 34))),
        (lambda x: F.conv_transpose2d(x, ones(4, 4), None, 2, 1), ((0, 24), (0, 32))),
        (lambda x: F.conv_transpose2d(x, ones(4, 4), None, 2), ((-1, 25), (-1, 33))),
        (lambda x: F.interpolate(x, scale_factor=2), ((0, 24), (0, 32))),
        (lambda x: x.relu(), ((0, 24), (0, 32))),
        (lambda x: x.flatten(2), ((0, 24), (0, 32))),
        (lambda x: F.max_pool1d(x[0], 2, 1), ((0, 24), (0, 32))),  # of another number of axes
    ],
)
def test_the_edges_behind_an_operation_by_hand(function: Callable[[Tensor], Any], expected: Any) -> None:
    """Each pixel of the grid before it is two wide."""
    op = last(function, torch.rand(1, 1, *SIDES, dtype=torch.float64))
    assert behind(op, ((0.0, 24.0), (0.0, 32.0))) == expected  # every number is exact


@pytest.mark.parametrize(
    ("function", "sides", "expected"),
    [
        (lambda x: F.conv1d(x, ones(3)), (8,), ((1, 7),)),
        (lambda x: F.max_pool1d(x, 3, 1), (8,), ((1, 7),)),
        (lambda x: F.avg_pool1d(x, 2), (8,), ((0, 8),)),
        (lambda x: F.conv_transpose1d(x, ones(3)), (8,), ((-1, 9),)),
        (lambda x: F.conv3d(x, ones(1, 3, 5)), (6, 8, 10), ((0, 6), (1, 7), (2, 8))),
        (lambda x: F.max_pool3d(x, (1, 2, 3), 1), (6, 8, 10), ((0, 6), (0.5, 7.5), (1, 9))),
        (lambda x: F.conv_transpose3d(x, ones(1, 3, 5)), (6, 8, 10), ((0, 6), (-1, 9), (-2, 12))),
    ],
)
def test_the_edges_of_signals_and_volumes(
    function: Callable[[Tensor], Any], sides: tuple[int, ...], expected: Any
) -> None:
    op = last(function, torch.rand(1, 1, *sides, dtype=torch.float64))
    assert behind(op, tuple((0.0, float(side)) for side in sides)) == expected


@pytest.mark.parametrize(
    ("function", "reach"),
    [
        (lambda x: F.max_pool2d(x, 3), (3, 3)),
        (lambda x: F.max_pool2d(x, (2, 3), dilation=2), (3, 5)),
        (lambda x: F.max_pool2d(x, 3, 1, 0, 3), (7, 7)),
        (lambda x: F.lp_pool2d(x, 2, kernel_size=3), (3, 3)),
        (lambda x: F.lp_pool2d(x, 4, (3, 2), 1), (3, 2)),
        (lambda x: F.fractional_max_pool2d(x, 3, 5), (1, 1)),
        (lambda x: F.adaptive_avg_pool2d(x, 2), (1, 1)),
        (lambda x: F.adaptive_max_pool2d(x, 2), (1, 1)),
        (lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), (1, 1)),
        (lambda x: x.relu(), (1, 1)),
        (lambda x: x.flatten(2), (1,)),
    ],
)
def test_how_far_an_operation_reaches(function: Callable[[Tensor], Any], reach: tuple[int, ...]) -> None:
    assert kernel_reach(last(function, torch.rand(1, 1, *SIDES, dtype=torch.float64))) == reach


@pytest.mark.parametrize(
    ("value", "count", "expected"),
    [
        (2, 3, (2, 2, 2)),
        ((1, 2), 2, (1, 2)),
        ([1, 2, 3], 3, (1, 2, 3)),
        ((4,), 2, (4, 4)),
        ([5], 3, (5, 5, 5)),
    ],
)
def test_a_number_for_every_axis(value: Any, count: int, expected: tuple[int, ...]) -> None:
    assert each(value, count) == expected


def test_an_argument_by_its_place_by_its_name_or_as_usual() -> None:
    x, weight = torch.rand(1, 1, 8, 8, dtype=torch.float64), ones(3, 3)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: F.conv2d(x, weight, None, 2),
        lambda x: F.conv2d(x, weight, stride=3),
        lambda x: F.conv2d(x, weight, None),
    ]
    places = [given(last(function, x), 3, "stride", 7) for function in functions]
    assert places == [2, 3, 7]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: F.pad(x, (1, 2)), [(0, 0), (0, 0), (0, 0), (-1, 2)]),
        (lambda x: F.pad(x, (1, 2, 3, 4)), [(0, 0), (0, 0), (-3, 4), (-1, 2)]),
        (lambda x: F.pad(x, pad=[1, 0, 0, 4, 5, 6]), [(0, 0), (-5, 6), (0, 4), (-1, 0)]),
        (lambda x: F.pad(x, (-1, 0)), [(0, 0), (0, 0), (0, 0), (1, 0)]),
    ],
)
def test_by_how_much_padding_moves_each_edge(function: Callable[[Tensor], Tensor], expected: Any) -> None:
    assert paddings(last(function, torch.rand(1, 1, 6, 8)), 4) == expected


def test_padding_by_what_is_no_number_is_not_followed() -> None:
    op = last(lambda x: F.pad(x, (1, 2)), torch.rand(1, 1, 6, 8))
    for pad in (None, 3, (torch.tensor(1), 2), (1, 2.0)):
        op.arguments = ((op.inputs[0], pad), {})
        assert paddings(op, 4) is None


def test_edges_move_by_whole_positions() -> None:
    assert moved(((0, 8), (10, 40)), [(1, -1), (-2, 0)], (4, 10)) == ((2, 6), (4, 40))


def test_the_widest_of_several() -> None:
    spans = [((0.0, 4.0), (3.0, 5.0)), ((1.0, 6.0), (2.0, 4.0)), ((0.5, 5.0), (2.5, 9.0))]
    assert widest(spans) == ((0, 6), (2, 9))


@pytest.mark.parametrize(
    ("exact", "nominal", "cells", "inside"),
    [
        ((6, 22), (0, 28), 4, True),
        ((6, 22), (0, 28), 2, False),  # a cell of 8 is wider than what is lost
        ((4, 24), (0, 28), 5, True),  # as wide
        ((3.9, 24), (0, 28), 5, False),
        ((4, 24.1), (0, 28), 5, False),
        ((14, 30), (8, 36), 4, True),
        ((14, 30), (8, 34), 4, True),
        ((14, 30), (12, 34), 4, False),
        ((2, 26), (0, 28), 24, True),  # two pixels
        ((1.9, 26), (0, 28), 24, False),
        ((10, 190), (0, 200), 180, True),  # a twentieth
        ((9, 190), (0, 200), 180, False),
        ((6, 27), (0, 28), 21, False),
        ((1, 22), (0, 28), 21, False),
        ((14, 14), (0, 28), 4, False),
        ((20, 8), (0, 28), 4, False),
    ],
)
def test_a_grid_lies_inside_where_enough_is_lost_at_both_ends(
    exact: Any, nominal: Any, cells: int, inside: bool
) -> None:
    assert ends_inside((exact,), (nominal,), (cells,)) == inside
    assert ends_inside(((0, 28), exact), ((0, 28), nominal), (14, cells)) == inside
