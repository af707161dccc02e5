"""What is read of the record of one pass, by hand: heads, activations, blocks and branches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from readings import C, Function, H, W, conv, named, read
from sightline.inspection.layers import Head
from toynets import Through

# Heads


@pytest.mark.parametrize(
    ("pool", "by"),
    [
        (lambda a: a.mean((2, 3)), "mean"),
        (lambda a: a.sum((2, 3)) / (H * W), "mean"),
        (lambda a: a.amax((2, 3)), "max"),
        (lambda a: a.sum((2, 3)), ""),
        (lambda a: a.std((2, 3)), ""),
    ],
)
def test_by_what_a_map_is_pooled(pool: Function, by: str) -> None:
    reader = read(lambda x: pool(conv(x)))
    maps = reader.ops[0].output
    assert reader.pooling(maps, pool(maps)) == by
    modular = read(nn.Sequential(nn.Conv2d(3, C, 1), Through(pool), nn.Flatten()))
    maps = modular.ops[0].output
    assert modular.pooling(maps, pool(maps)) == (by or "1")


class Headed(nn.Module):
    def __init__(self, head: nn.Module, last: Function, pool: Function = lambda a: a.mean((2, 3))) -> None:
        super().__init__()
        self.body, self.head, self.last, self.pool = nn.Conv2d(3, C, 3, padding=1), head, last, pool

    def forward(self, x: Tensor) -> Any:
        return self.last(self.head(self.pool(self.body(x))))


@pytest.mark.parametrize(
    ("head", "last", "pool", "found"),
    [
        (nn.Linear(C, 3), lambda y: y, lambda a: a.mean((2, 3)), True),
        (nn.Linear(C, 3, bias=False), lambda y: y, lambda a: a.mean((2, 3)), True),
        (nn.Conv2d(C, 3, 1), lambda y: y.flatten(1), lambda a: a.mean((2, 3), keepdim=True), True),
        (nn.Linear(C, 3), lambda y: y * 1.5, lambda a: a.mean((2, 3)), False),
        (nn.Linear(C, 3), lambda y: y.log_softmax(1), lambda a: a.mean((2, 3)), False),
        (nn.Linear(C, 3), lambda y: y, lambda a: a.mean((2, 3)).relu(), False),
        (
            nn.Sequential(nn.Linear(C, C), nn.ReLU(), nn.Linear(C, 3)),
            lambda y: y,
            lambda a: a.mean((2, 3)),
            False,
        ),
        (nn.Linear(C * H * W, 3), lambda y: y, lambda a: a.flatten(1), False),
    ],
)
def test_one_linear_layer_on_the_pooled_map_is_the_head(
    head: nn.Module, last: Function, pool: Function, found: bool
) -> None:
    reader = read(Headed(head, last, pool))
    maps = reader.ops[0].output
    expected = Head("linear", "head", pooling="mean") if found else None
    assert reader.linear_head(maps, maps.mean((2, 3))) == expected


def test_a_mean_may_be_spelled_as_a_sum_over_the_area() -> None:
    reader = read(Headed(nn.Linear(C, 3), lambda y: y, lambda a: a.sum((2, 3)) / (H * W)))
    maps = reader.ops[0].output
    for pooled in (maps.amax((2, 3)), maps.mean((2, 3))):  # the mean is tried beside what is pooled
        assert reader.linear_head(maps, pooled) == Head("linear", "head", pooling="mean")
    largest = read(Headed(nn.Linear(C, 3), lambda y: y, lambda a: a.amax((2, 3))))
    maps = largest.ops[0].output
    assert largest.linear_head(maps, maps.amax((2, 3))) == Head("linear", "head", pooling="max")
    assert largest.linear_head(maps, maps.mean((2, 3))) is None


class Shared(nn.Module):
    """Its head is a plain function, on the weights of a module that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.other, self.held, self.body = nn.Linear(C, 3), nn.Linear(C, 3), nn.Conv2d(3, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.body(x).mean((2, 3)), self.held.weight, self.held.bias)


def test_the_module_that_holds_the_weights_is_the_head() -> None:
    reader = read(Shared())
    assert reader.owner(named(reader, "linear")) == "held"
    assert reader.owner(named(reader, "conv2d")) == "body"
    assert reader.owner(named(reader, "mean")) == ""


@pytest.mark.parametrize(
    ("kernel", "behind", "pool", "expected"),
    [
        (1, lambda a: a, lambda a: a.mean((2, 3)), Head("conv", "head", False, "mean")),
        (1, lambda a: a.relu(), lambda a: a.mean((2, 3)), Head("conv", "head", True, "mean")),
        (1, lambda a: a.relu(), lambda a: a.amax((2, 3)), Head("conv", "head", True, "max")),
        (1, lambda a: torch.relu_(a), lambda a: a.mean((2, 3)), Head("conv", "head", True, "mean")),
        (1, lambda a: a.tanh(), lambda a: a.mean((2, 3)), None),
        (3, lambda a: a, lambda a: a.mean((2, 3)), None),
        (1, lambda a: a, lambda a: a.mean((2, 3)) * 2, None),
    ],
)
def test_a_convolution_of_one_pixel_before_the_pooling_is_the_head(
    kernel: int, behind: Function, pool: Function, expected: Head | None
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, 3, kernel, padding=kernel // 2)

        def forward(self, x: Tensor) -> Tensor:
            return pool(behind(self.head(self.body(x))))

    reader = read(Net())
    found = reader.last_spatial()
    assert not isinstance(found, str)
    head = reader.conv_head(found[1], found[2])
    assert (None if head is None else head[0]) == expected
    if head is not None:
        assert head[1] == named(reader, "conv2d").output_key


# What belongs to a convolution


@pytest.mark.parametrize(
    ("function", "number"),
    [
        (lambda a: a.relu().mean((2, 3)), 1),
        (lambda a: (a * 2 + 1).relu().mean((2, 3)), 3),
        (lambda a: F.batch_norm(a, torch.zeros(C), torch.ones(C)).relu().mean((2, 3)), 4),
        (lambda a: (a + a.relu()).mean((2, 3)), 1),  # the first that uses it
        (lambda a: a.mean((2, 3)), 0),
        (lambda a: F.max_pool2d(a, 2).relu().mean((2, 3)), 0),
        (lambda a: (a * a.mean((2, 3), keepdim=True)).relu().mean((2, 3)), 0),
        (lambda a: (a[:, :1] * 0 + a).relu().mean((2, 3)), 0),
        (lambda a: a.mul(2).mean((2, 3)), 1),
    ],
)
def test_the_activation_that_belongs_to_a_convolution(function: Function, number: int) -> None:
    reader = read(lambda x: function(conv(x)))
    assert reader.after_activation(reader.recorder.ops[0]) is reader.recorder.ops[number]
    assert reader.convolutions()[-1] is reader.recorder.ops[number]


@pytest.mark.parametrize(
    ("function", "number"),
    [
        (lambda a: a.mean((2, 3)), 0),
        (lambda a: (a + 1).mean((2, 3)), 1),
        (lambda a: (a * 2 + 1).mean((2, 3)), 2),
        (lambda a: (1 + 2 * a).mean((2, 3)), 2),
        (lambda a: (a * 2).mean((2, 3)), 0),  # scaled, and added to nothing
        (lambda a: ((a + 1) * 2).mean((2, 3)), 1),
        (lambda a: ((a + 1) * 2 + 3).mean((2, 3)), 3),
        (lambda a: (a.relu() + 1).mean((2, 3)), 0),
        (lambda a: (a - 1).mean((2, 3)), 0),
        (lambda a: (a + torch.ones(3, 1, 1, 1, 1)).mean((0, 3, 4)), 0),
        (lambda a: (a + 1).mean((2, 3)) + a.amax((2, 3)), 0),  # it goes elsewhere, too
        (lambda a: a.add_(1).mean((2, 3)), 1),
    ],
)
def test_what_comes_out_of_the_addition_behind_a_branch(function: Function, number: int) -> None:
    reader = read(lambda x: function(conv(x)))
    key = reader.recorder.ops[0].output_key
    assert reader.after_residual(key) == reader.recorder.ops[number].output_key


@pytest.mark.parametrize(
    ("kernel", "stride", "cuts"),
    [
        (4, 4, True), (3, 3, False), (5, 5, True), ((4, 5), (4, 5), True), ((4, 2), (4, 2), False),
        (4, 2, False), (4, (4, 2), False), ((4, 8), 4, False),
    ],
)  # fmt: skip
def test_a_convolution_that_cuts_the_image_into_patches(kernel: Any, stride: Any, cuts: bool) -> None:
    reader = read(nn.Conv2d(3, C, kernel, stride), 3, 21, 20)
    assert reader.cuts_patches(reader.ops[0]) == cuts


# Branches


def branches(x: Tensor) -> Tensor:
    """A trunk, and two lines behind it."""
    trunk = conv(x).relu()
    return (trunk.tanh() + trunk.sigmoid()).mean((2, 3))


def test_what_passes_a_tensor_by() -> None:
    reader = read(branches)
    tanh, sigmoid, relu = (named(reader, name) for name in ("tanh", "sigmoid", "relu"))
    assert [op.function for op in reader.beside({tanh.output_key})] == ["sigmoid", "add", "mean"]
    assert [op.function for op in reader.beside({sigmoid.output_key})] == ["tanh", "add", "mean"]
    assert reader.beside({relu.output_key}) == []
    assert reader.beside({tanh.output_key, sigmoid.output_key}) == []


class Lines(nn.Module):
    """Two lines of two layers behind a trunk, or behind the image."""

    def __init__(self, trunk: bool) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 3, 1) if trunk else None
        self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        t = x if self.trunk is None else self.trunk(x)
        return (self.b(self.a(t)) + self.d(self.c(t))).mean((2, 3))


@pytest.mark.parametrize("trunk", [False, True])
def test_lines_side_by_side_and_whether_they_share_a_trunk(trunk: bool) -> None:
    reader = read(Lines(trunk))
    calls = {call.module: call for call in reader.live_calls()}
    line = [calls[name] for name in "abcd"]
    assert [call.module for call in reader.calls_beside(calls["d"], line)] == ["b"]
    assert [call.module for call in reader.calls_beside(calls["b"], line)] == ["d"]
    assert [call.module for call in reader.calls_beside(calls["a"], line)] == ["d"]
    assert reader.share_a_trunk([calls["b"], calls["d"]], list(calls.values())) == trunk
    assert reader.share_a_trunk([calls["a"], calls["b"]], list(calls.values())) == trunk
    assert not reader.share_a_trunk([calls["b"], calls["d"]], [calls["a"], calls["c"]])
    assert reader.share_a_trunk([calls["b"]], [calls["a"]])


class Scaled(nn.Conv2d):
    """A projection that is given something of its own besides."""

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return super().forward(x) * scale


class Projected(nn.Module):
    """Three projections of one norm's output, as to queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Conv2d(3, 3, 1)
        self.q, self.k, self.v = (Scaled(3, 3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        t = self.norm(x)
        return (self.q(t, torch.ones(1)) + self.k(t, torch.ones(1)) + self.v(t, torch.ones(1))).mean((2, 3))


def test_of_several_calls_that_were_given_one_tensor_what_came_before_is_meant() -> None:
    reader = read(Projected())
    calls = [call for call in reader.live_calls() if call.module]
    last, beside = reader.last_of_line(calls)
    assert (last.module, beside) == ("norm", [])
    last, beside = reader.last_of_line(calls[1:])
    assert (last.module, sorted(call.module for call in beside)) == ("v", ["k", "q"])
    other = read(Lines(True))
    calls = [call for call in other.live_calls() if call.module]
    last, beside = other.last_of_line(calls)
    assert (last.module, [call.module for call in beside]) == ("d", ["b"])


def test_the_grids_that_tokens_may_have() -> None:
    reader = read(lambda x: F.conv2d(x, torch.ones(2, 3, 4, 4), None, 4), 3, 32, 48)
    assert reader.grids() == [(8, 12), (4, 6), (2, 3), (1, 2)]
    assert read(lambda x: x.relu(), 3, 8).grids() == []
