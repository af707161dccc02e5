"""What is read of the record of one pass, by hand: poolings, the last map, names."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from readings import C, Function, H, N, W, conv, named, read
from sightline.inspection.layers import LayerRef
from sightline.inspection.layout import NCHW, Layout
from sightline.inspection.recording import key_of
from toynets import Through

# Poolings


POOLINGS: list[tuple[Function, bool]] = [
    (lambda a: a.mean((2, 3)), True),
    (lambda a: a.mean((-1, -2)), True),
    (lambda a: a.mean([2, 3], keepdim=True), True),
    (lambda a: torch.mean(a, dim=(2, 3)), True),
    (lambda a: a.sum((2, 3)), True),
    (lambda a: a.amax((2, 3)), True),
    (lambda a: torch.logsumexp(a, (2, 3)), True),
    (lambda a: a.norm(2, (2, 3)), True),
    (lambda a: torch.norm(a, p=3, dim=(2, 3)), True),
    (lambda a: a.norm(2), False),
    (lambda a: a.mean((1, 2)), False),
    (lambda a: a.mean(2), False),
    (lambda a: a.mean(), False),
    (lambda a: a.mean((1, 2, 3)), False),
    (lambda a: a.max(3)[0], False),
    (lambda a: a.std((2, 3)), False),
    (lambda a: F.adaptive_avg_pool2d(a, 1), True),
    (lambda a: F.max_pool2d(a, 2), True),
    (lambda a: F.adaptive_max_pool2d(a, 1), True),
    (lambda a: a.permute(0, 2, 3, 1).mean((1, 2)), True),
    (lambda a: a.permute(0, 2, 3, 1).mean((2, 3)), False),
    (lambda a: F.avg_pool2d(a.permute(0, 2, 3, 1), 2), False),
    (lambda a: a.flatten(2).mean(2), False),  # a line of tokens is no map
    (lambda a: a.relu(), False),
    (lambda a: (a > 0).sum((2, 3)), False),
    (lambda a: a.roll(1, 2).mean((2, 3)), True),  # the last two of four axes, whatever was done before
    (lambda a: a.roll(1, 2).mean((1, 2)), False),
    (lambda a: a.permute(0, 1, 3, 2).mean((2, 3)), True),
    (lambda a: a.mean((2, 3), keepdim=True).roll(1, 1).mean((2, 3)), False),  # of one position
    (lambda a: a[0].mean((1, 2)), False),
    (lambda a: a.permute(0, 2, 3, 1).amax((1, 2)), True),
    (lambda a: F.max_pool2d(a.flatten(2), 2), False),
]


@pytest.mark.parametrize(("function", "pools"), POOLINGS)
def test_what_pools_a_map(function: Function, pools: bool) -> None:
    reader = read(lambda x: function(conv(x)))
    assert reader.is_pooling(reader.ops[-1]) == pools


@pytest.mark.parametrize(
    ("function", "flattens"),
    [
        (lambda a: a.flatten(1), True),
        (lambda a: a.reshape(N, -1), True),
        (lambda a: a.view(N, C * H * W), True),
        (lambda a: a.flatten(2), False),
        (lambda a: a.mean((2, 3)), False),
        (lambda a: a.mean((2, 3), keepdim=True).flatten(1), False),
        (lambda a: F.conv2d(a, torch.ones(2, C, H, W)), True),
        (lambda a: F.conv2d(a, torch.ones(2, C, H, 3)), False),
        (lambda a: F.conv2d(a, torch.ones(2, C, 1, 1)), False),
    ],
)
def test_what_flattens_a_map(function: Function, flattens: bool) -> None:
    reader = read(lambda x: function(conv(x)))
    assert reader.is_flattening(reader.ops[-1]) == flattens


@pytest.mark.parametrize(
    ("make", "shape", "layout"),
    [
        (lambda x: conv(x), (3, H, W), NCHW),
        (lambda x: conv(x)[:, :, :1].relu(), (3, H, W), None),  # of a slice the axes are not followed
        (lambda x: F.max_pool2d(conv(x), (6, 1)), (3, H, W), NCHW),
        (lambda x: F.max_pool2d(conv(x), (6, 5)), (3, H, W), None),  # one position
        (lambda x: conv(x).permute(0, 2, 3, 1), (3, H, W), Layout("nhwc")),
        (lambda x: conv(x).flatten(2), (3, H, W), None),
        (lambda x: (conv(x) * 10).long(), (3, H, W), None),
        (lambda x: x.relu(), (3, 8), Layout("ncl")),
        (lambda x: x.relu(), (3, 1), None),
        (lambda x: x.relu(), (1, 8), Layout("ncl")),
        (lambda x: x.relu(), (1, 1, 2), NCHW),
        (lambda x: x.relu(), (1, 2, 1), NCHW),
        (lambda x: x.relu(), (2, 1, 1), None),
    ],
)
def test_what_is_a_map_of_several_positions(
    make: Function, shape: tuple[int, ...], layout: Layout | None
) -> None:
    reader = read(make, *shape)
    output = reader.seen.output
    assert reader.map_layout(output, key_of(output)) == layout


# The last map


@pytest.mark.parametrize(
    ("function", "number"),
    [
        (lambda a: a.mean((2, 3)), 0),
        (lambda a: F.max_pool2d(a, 2).mean((2, 3)), 1),  # what is pooled to the end is meant
        (lambda a: F.max_pool2d(a, 2).flatten(1), 0),  # poolings in a row: what enters the first
        (lambda a: F.avg_pool2d(F.max_pool2d(a, 2), (1, 2)).flatten(1), 0),
        (lambda a: F.max_pool2d(a, 2).relu().flatten(1), 2),
        (lambda a: a.flatten(1), 0),
        (lambda a: a.flatten(2).mean(2), 0),
        (lambda a: a.flatten(2).amax(-1), 0),
        (lambda a: a.mean(3).mean(2), 0),
        (lambda a: a.permute(0, 2, 3, 1).mean((1, 2)), 1),
    ],
)
def test_the_map_that_is_pooled_last(function: Function, number: int) -> None:
    reader = read(lambda x: function(conv(x).relu()))
    found = reader.last_spatial()
    assert not isinstance(found, str)
    tensor, key, pooled = found
    assert key == reader.ops[1 + number].output_key
    assert tensor is reader.ops[1 + number].output
    assert pooled.flatten(1).shape[0] == N


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: conv(x).roll(1, 2), r"its last map, 4 × 6 × 5, is not pooled \(it goes into 'roll'\)"),
        (lambda x: conv(x).mean(3), r"its last map, 4 × 6 × 5, is not pooled \(it goes into 'mean'\)"),
        (lambda x: conv(x).flatten(2).relu(), r"is not pooled \(it goes into 'flatten'\)"),
        (lambda x: conv(x).flatten(2).mean(1), r"is not pooled \(it goes into 'flatten'\)"),
    ],
)
def test_a_map_that_is_not_pooled(function: Function, why: str) -> None:
    found = read(function).last_spatial()
    assert isinstance(found, str)
    assert re.search(why, found)


def test_a_network_on_numbers_has_no_map() -> None:
    assert read(nn.Linear(3, 2), 3).last_spatial() == "it computes no spatial map (N, C, h, w)"


class Pool(nn.Module):
    """A pooling of its own: a module that may hold others."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.inner = Through(function)

    def forward(self, a: Tensor) -> Any:
        return self.inner.function(a)


@pytest.mark.parametrize(
    ("function", "whole"),
    [
        (lambda a: a.std((2, 3)), True),
        (lambda a: a.std((2, 3), keepdim=True), True),
        (lambda a: a.flatten(2).sort(2)[0][..., -1], True),
        (lambda a: (a * 2).amax((2, 3)), True),
        (lambda a: a.relu().amax((2, 3)), False),  # it has an activation: what comes out of that is pooled
        (lambda a: F.conv2d(a, torch.ones(C, C, 1, 1)).amax((2, 3)), False),
    ],
)
def test_a_module_that_pools_is_taken_as_a_whole(function: Function, whole: bool) -> None:
    net = nn.Sequential(nn.Conv2d(3, C, 3, padding=1), nn.Tanh(), Pool(function), nn.Flatten())
    reader = read(net)
    found = reader.last_spatial()
    assert not isinstance(found, str)
    assert (found[0] is named(reader, "tanh").output) == whole


# Names


def test_a_tensor_is_named_by_the_outermost_module_that_returns_it() -> None:
    inner = nn.Sequential(nn.Conv2d(3, C, 1), nn.ReLU())
    reader = read(nn.Sequential(nn.Sequential(inner), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert reader.site_of(named(reader, "relu").output_key) == LayerRef("0")
    assert reader.site_of(named(reader, "conv2d").output_key) == LayerRef("0.0.0")
    layout = Layout("nhwc")
    assert reader.site_of(named(reader, "conv2d").output_key).layout == NCHW
    assert reader.site_of(named(reader, "conv2d").output_key, layout).layout == layout


class Twice(nn.Module):
    """One ReLU that is called twice, inside a module that is called once, and an operation between."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.conv = nn.ReLU(), nn.Conv2d(3, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.relu(self.conv(x)) - 0.1).mean((2, 3))


def test_calls_and_operations_are_numbered() -> None:
    reader = read(nn.Sequential(Twice()))
    first, second = (named(reader, "relu", i).output_key for i in (0, 1))
    assert (str(reader.site_of(first)), str(reader.site_of(second))) == ("0.relu#0", "0.relu#1")
    assert str(reader.site_of(named(reader, "sub").output_key)) == "0:sub@2"
    nhwc = Layout("nhwc")
    assert {reader.site_of(key, nhwc).layout for key in (first, named(reader, "sub").output_key)} == {nhwc}
    calls = {reader.named(call) for call in reader.recorder.calls}
    assert calls == {"", "0", "0.conv", "0.relu#0", "0.relu#1"}
    row = next(reader.row(call, NCHW, {"0.relu#1"}) for call in reader.recorder.calls if call.call == 1)
    assert (row.name, row.type, row.shape, row.chosen, row.layout) == (
        "0.relu#1",
        "ReLU",
        (C, H, W),
        True,
        NCHW,
    )
    assert reader.functions_in(reader.recorder.calls[0]) == ["conv2d", "relu", "sub", "relu", "mean"]
