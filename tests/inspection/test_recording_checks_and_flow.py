"""The record of a pass, what is checked of a layer, and which operations lie between image and score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.errors import InputError, UnsupportedError
from sightline.inspection.checks import OtherPathError, check_calls, check_map, one_tensor
from sightline.inspection.finite import first_not_finite
from sightline.inspection.flow import dependent, leading
from sightline.inspection.layers import LayerRef
from sightline.inspection.layout import Layout
from sightline.inspection.recording import (
    Flow,
    Leaves,
    Op,
    OpCounter,
    function_name,
    key_of,
    output_tensor,
    record,
    ref_of,
    tensors_in,
    with_tensor,
)
from sightline.inspection.tokens import before_zero_heads, directional, possible_grids
from toynets import Through

A, B, D = (torch.full((2, 3), value) for value in (1.0, 2.0, 3.0))


# Tensors in what a module returns


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (A, [A]), ((A, [B, {"d": D}]), [A, B, D]), ({"a": A, "n": 3, "b": (B,)}, [A, B]), (None, []), ("text", []),
        ([1, None], []), ((), []),
    ],
)  # fmt: skip
def test_all_tensors_in_order(value: Any, expected: list[Tensor]) -> None:
    found = tensors_in(value)
    assert [id(one) for one in found] == [id(one) for one in expected]


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (A, A), ((A,), A), ((A, None), A), ((A, torch.ones(2)), A), ((A, (torch.ones(1, 1, 1), 5)), A),
        ((A, B), None), ((A, [B]), None), ((A, {"b": B}), None), ([A], None), ({"a": A}, None), ((), None),
        ((None, A), None), (None, None),
    ],
)  # fmt: skip
def test_the_one_tensor_that_a_module_returned(output: Any, found: Tensor | None) -> None:
    assert output_tensor(output) is found
    if found is not None:
        assert one_tensor(LayerRef("a"), output) is found
        other = with_tensor(output, D)
        assert (other if isinstance(output, Tensor) else other[0]) is D
        assert isinstance(output, Tensor) or other[1:] == output[1:]
        return
    with pytest.raises(
        InputError, match=r"layer 'a' returns a \w+ of \(.*\); expected one tensor \(N, C, h, w\)"
    ):
        one_tensor(LayerRef("a"), output)


def test_the_names_of_functions() -> None:
    names = [
        function_name(f) for f in (torch.relu, F.relu, Tensor.__add__, torch.ops.aten.add.Tensor, "other.x")
    ]
    assert names == ["relu", "relu", "__add__", "add", "other"]


def test_what_a_tensor_holds_at_one_moment() -> None:
    a = torch.ones(4)
    view, first = a[:2], key_of(a)
    assert ref_of(a)[1] == ref_of(view)[1]
    assert key_of(view) != first
    a.add_(1)
    assert key_of(a) == (first[0], first[1] + 1)
    with torch.inference_mode():
        frozen = torch.ones(2)
        frozen.add_(1)
    assert key_of(frozen) == (id(frozen), 0)
    sparse = torch.eye(2).to_sparse()
    assert ref_of(sparse) == (key_of(sparse), id(sparse))


# The record


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        a = self.inner(self.inner(x)[:, :3])
        torch.relu_(a)
        return a.max(3)[0].sum(2)


def test_operations_and_calls_are_written_down() -> None:
    net = Net().train()
    seen = record(net, torch.rand(1, 3, 2, 2), lambda output: output * 2)
    ops, calls = seen.recorder.ops, seen.recorder.calls
    functions = ["conv2d", "relu", "__getitem__", "conv2d", "relu", "relu_", "max"]
    assert [op.function for op in ops[:7]] == functions
    assert [op.index for op in ops] == list(range(len(ops)))
    assert [op.module for op in ops[:5]] == ["inner.0", "inner.1", "", "inner.0", "inner.1"]
    names = [(call.module, call.call, call.first_op, call.last_op) for call in calls]
    assert names[1:4] == [("inner", 0, 0, 2), ("inner.0", 0, 0, 1), ("inner.1", 0, 1, 2)]
    assert names[4:7] == [("inner", 1, 3, 5), ("inner.0", 1, 3, 4), ("inner.1", 1, 4, 5)]
    assert names[0][:3] == ("", 0, 0)
    assert torch.equal(seen.score, 2 * seen.output)
    assert ops[5].input_keys[0] != ops[5].output_key  # in place: the same tensor, another version
    assert ops[5].input_keys[0] == ops[4].output_key
    assert ops[6].input_keys[0] == ops[5].output_key
    assert net.training
    assert net.inner.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert not seen.recorder.interrupts
    assert all(op.edge is None for op in ops)
    again = record(net, torch.rand(1, 3, 2, 2), gradients=True)
    assert all(op.edge is not None for op in again.recorder.ops[:5])
    assert all(call.edge is not None for call in again.recorder.calls)


@pytest.mark.parametrize(
    ("function", "interrupts"),
    [
        (lambda x: x.relu(), False),
        (lambda x: torch.no_grad()(lambda a: a.relu())(x), True),
        (lambda x: torch.inference_mode()(lambda a: a.relu())(x), True),
        (lambda x: torch.enable_grad()(lambda a: a.relu())(x), True),
    ],
)
def test_whether_a_network_switches_gradients(function: Callable[[Tensor], Tensor], interrupts: bool) -> None:
    assert record(Through(function), torch.rand(1, 3)).recorder.interrupts == interrupts


def test_a_graph_is_kept_from_a_call_on() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh())
    places = frozenset([("1", 0), ("2", 0), ("3", 0)])
    seen = record(net, torch.rand(1, 3), gradients=True, leaves=Leaves(places, ("1", 0)))
    calls = {call.module: call for call in seen.recorder.calls}
    assert all(calls[name].edge is not None for name in "123")


def test_a_failure_that_the_network_catches_leaves_the_calls_in_order() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no")

    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Sequential(Fails()), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.first(x)
            except ValueError:
                return self.second(x)

    calls = record(Tries(), torch.rand(1, 3)).recorder.calls
    assert [(call.module, call.output is not None) for call in calls] == [
        ("", True), ("first", False), ("first.0", False), ("second", True),
    ]  # fmt: skip


def test_a_visitor_may_pass_on_another_tensor_and_pause() -> None:
    def visit(index: int, name: str, args: Any, output: Tensor) -> Tensor | None:
        seen.append((index, name))
        return torch.zeros(2) if name == "mul" else None

    seen: list[tuple[int, str]] = []
    counter, x = OpCounter(visit), torch.ones(2)
    with counter:
        first = x * 2
        with counter.pause():
            x + 1
            with counter.pause():
                x + 1
            x + 1
        second = x + 3
        pair = torch.max(x[None] + 1, 1)
        x.shape  # noqa: B018 (an attribute is no operation)
        x.size(0)
    assert (first.tolist(), second.tolist()) == ([0, 0], [4, 4])
    assert [name for _, name in seen] == ["mul", "add", "__getitem__", "add", "max"]
    assert [index for index, _ in seen] == [0, 1, 2, 3, 4]
    assert pair[0].tolist() == [2]


# Between image and score


def flow(function: str, reads: list[int], writes: list[int]) -> Flow:
    """Tensors by numbers; each has memory of its own, 100 times its number."""
    return Flow(None, function, [((i, 0), 100 * i) for i in reads], [((i, 0), 100 * i) for i in writes])


FLOWS = [
    flow("relu", [1], [2]), flow("add", [2, 9], [3]), flow("zeros_like", [2], [4]), flow("expand_as", [9, 2], [5]),
    flow("expand_as", [2, 9], [6]), flow("mul", [4, 5], [7]), flow("cat", [3, 6, 7], [8]),
]  # fmt: skip


def sources(*numbers: int) -> list[Any]:
    return [((i, 0), 100 * i) for i in numbers]


def test_what_depends_on_a_tensor() -> None:
    assert dependent(FLOWS, sources(1)) == {0, 1, 4, 6}
    assert dependent(FLOWS, sources(9)) == {1, 3, 5, 6}
    assert dependent(FLOWS, sources(1), {(2, 0)}) == {0}
    assert dependent(FLOWS, sources(1), {(3, 0), (6, 0)}) == {0, 1, 4}
    assert dependent(FLOWS, sources(8)) == set()


def test_what_leads_to_a_tensor() -> None:
    assert leading(FLOWS, sources(8)) == {0, 1, 3, 4, 5, 6} | {2}
    assert leading(FLOWS, sources(3)) == {0, 1}
    assert leading(FLOWS, sources(4)) == {2}  # zeros like something lead nowhere
    assert leading(FLOWS, sources(5)) == {3}
    assert leading(FLOWS, sources(6)) == {0, 4}
    assert leading(FLOWS, sources(8), {(3, 0), (7, 0)}) == {0, 4, 6}
    assert leading(FLOWS, sources(1)) == set()


def test_a_view_that_no_function_made_is_followed_by_its_memory() -> None:
    view = Flow(None, "relu", [((20, 0), 100)], [((21, 0), 2100)])  # of tensor 1's memory
    assert dependent([view], sources(1)) == {0}
    base = Flow(None, "fill", [((1, 0), 100)], [((1, 1), 100)])
    assert leading([base], [((30, 0), 100)]) == {0}
    assert leading([base], [((30, 0), 3000)]) == set()


# What is checked of a layer


@pytest.mark.parametrize(
    ("site", "calls", "message"),
    [
        (LayerRef("a"), 1, ""),
        (LayerRef("a"), 0, "layer 'a' is not reached in the forward pass"),
        (LayerRef("a"), 2, "layer 'a' is called 2 times in one pass; name one call: 'a#0', 'a#1'$"),
        (LayerRef("a"), 6, "called 6 times in one pass; name one call: 'a#0', 'a#1', 'a#2', 'a#3'$"),
        (LayerRef("a", call=0), 1, ""),
        (LayerRef("a", call=1), 2, ""),
        (LayerRef("a", call=1), 1, "layer 'a#1' is called 1 times in the forward pass"),
        (LayerRef("a", call=1), 0, "layer 'a#1' is not reached"),
        (LayerRef("a", op=3, function="f"), 1, ""),
        (LayerRef("a", op=3, function="f"), 0, "layer 'a:f@3' is not reached"),
    ],
)
def test_how_often_a_layer_is_called(site: LayerRef, calls: int, message: str) -> None:
    if not message:
        check_calls(site, calls)
        return
    with pytest.raises(OtherPathError, match=message):
        check_calls(site, calls)


TOKENS, LINE = Layout("ntc", 1, (2, 3)), Layout("ncl")


@pytest.mark.parametrize(
    ("tensor", "site", "images", "message"),
    [
        (torch.ones(2, 4, 1, 2), LayerRef("a"), (2, 3, 8, 8), ""),
        (torch.ones(2, 7, 4), LayerRef("a", layout=TOKENS), (2, 3, 8, 8), ""),
        (torch.ones(2, 4, 3), LayerRef("a", layout=Layout("ncl")), (2, 3, 8), ""),
        (torch.ones(3, 4, 2, 2), LayerRef("a"), (2, 3, 8, 8), r"returns \(3, 4, 2, 2\) for 2 images: its first axis"),
        (torch.ones(3, 4, 2, 2), LayerRef("a"), (1, 3, 8, 8), r"returns \(3, 4, 2, 2\) for 1 image: its first axis"),
        (torch.ones(2, 4, 1, 1), LayerRef("a"), (2, 3, 8, 8), r"no spatial map: it returns \(2, 4, 1, 1\); exp"),
        (torch.ones(2, 4, 9), LayerRef("a"), (2, 3, 8, 8), r"has no spatial map: it returns \(2, 4, 9\); expected"),
        (torch.ones(2, 8, 4), LayerRef("a", layout=TOKENS), (2, 3, 8, 8), "not ntc:1.2x3: 8 tokens are not 1 . 2 × 3"),
        (torch.ones(2, 4, 2, 2, dtype=torch.long), LayerRef("a"), (2, 3, 8, 8), "has no spatial map"),
        (torch.ones(2, 4, 3), LayerRef("a", layout=LINE), (2, 3, 8, 8), "has 1 axes of positions, and the input"),
        (torch.ones(2, 4, 3), LayerRef("a", layout=LINE, covers=((2, 6),)), (2, 3, 8), "covers only a part of its"),
        (torch.ones(2, 4, 3), LayerRef("a", layout=LINE, covers=((2, 6),), unpadded=True), (2, 3, 8), ""),
        (torch.ones(2, 4, 2, 2), LayerRef("a", covers=((2, 6), (0, 8))), (2, 3, 8, 8), ""),
    ],
)  # fmt: skip
def test_a_layer_must_be_a_map_of_the_images(
    tensor: Tensor, site: LayerRef, images: Any, message: str
) -> None:
    if not message:
        check_map(site, tensor, torch.zeros(images))
        return
    with pytest.raises((OtherPathError, UnsupportedError), match=message):
        check_map(site, tensor, torch.zeros(images))


@pytest.mark.parametrize(
    ("functions", "named"),
    [
        ([lambda x: x / 0, lambda x: x], "layer '0'"),
        ([lambda x: x, lambda x: x.log() - torch.inf], "layer '1'"),
        ([lambda x: (x, (x * torch.nan).long()), lambda pair: pair[0] / 0], "layer '1'"),
        ([lambda x: (x, {"a": [x * torch.nan]}), lambda pair: pair[0]], "layer '0'"),
        ([lambda x: torch.where(x > 0.5, torch.nan, x)], "layer '0'"),
    ],
)
def test_the_first_layer_that_gives_no_numbers_is_named(functions: list[Any], named: str) -> None:
    net = nn.Sequential(*map(Through, functions)).train()
    assert first_not_finite(net, torch.rand(1, 9)).endswith(f"first made by {named}")
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())
    assert first_not_finite(net, torch.full((1, 9), torch.nan)) == "the images hold NaN or Inf"
    assert first_not_finite(net, torch.tensor([[1.0, torch.inf]])) == "the images hold NaN or Inf"


def test_an_operation_outside_all_layers_is_named() -> None:
    net = nn.Sequential(nn.ReLU())
    assert "first made by layer 'an operation outside its layers'" in first_not_finite(net, torch.rand(1, 9))
    assert first_not_finite(Through(lambda x: x / 0), torch.rand(1, 9)).endswith("layer 'Through'")


# Tokens


@pytest.mark.parametrize(
    ("seen", "sides", "expected"),
    [
        ([(14, 14)], (224, 224), [(14, 14), (7, 7), (4, 4), (2, 2)]),
        ([(56, 56)], (224, 224), [(56, 56), (28, 28), (14, 14), (7, 7)]),
        ([(14, 14), (224, 224), (1, 1)], (224, 224), [(14, 14), (7, 7), (4, 4), (2, 2)]),
        (
            [(9, 6)],
            (64, 64),
            [(16, 16), (8, 8), (4, 4), (2, 2)],
        ),  # a third too tall: the image is cut by reshaping
        ([(9, 7)], (64, 64), [(9, 7), (5, 4), (3, 2), (2, 1)]),
        ([(6, 8)], (64, 64), [(6, 8), (3, 4), (2, 2), (1, 1)][:3]),
        ([(5, 10)], (32, 64), [(5, 10), (3, 5), (2, 3), (1, 2)]),
        ([(64, 64)], (32, 32), [(8, 8), (4, 4), (2, 2)]),  # larger than the image
        ([], (28, 56), [(7, 14), (4, 7), (2, 4), (1, 2)]),
        ([], (28, 42), [(2, 3), (1, 2)]),
        ([], (30, 30), []),
        ([(1, 1)], (30, 30), []),
    ],
)
def test_the_grids_that_tokens_may_have(seen: Any, sides: Any, expected: Any) -> None:
    assert possible_grids(seen, torch.zeros(1, 3, *sides)) == expected


def test_the_gradient_in_one_direction_the_same_each_time() -> None:
    x = torch.rand(1, 5, requires_grad=True)
    edge = torch.autograd.graph.get_gradient_edge(x)
    (first,), (again,) = directional([edge], [2 * x]), directional([edge], [2 * x])
    assert first is not None
    assert again is not None
    assert torch.equal(first, again)
    assert first.unique().numel() == 5
    (more,) = directional([edge], [2 * x, torch.ones(3), torch.ones(2, dtype=torch.long)])
    assert more is not None
    assert torch.equal(first, more)
    assert directional([edge, edge], [torch.ones(3)]) == [None, None]
    (other,) = directional(
        [torch.autograd.graph.get_gradient_edge(torch.rand(2, requires_grad=True))], [2 * x]
    )
    assert other is None


@pytest.mark.parametrize(
    ("weight", "function", "count"),
    [
        (torch.zeros(3, 4), lambda y: y, 1),
        (torch.zeros(3, 4), lambda y: y[:, :2], 0),  # of another width than the scores
        (torch.eye(4)[:3], lambda y: y, 0),
        (torch.zeros(3, 4), lambda y: y.sum(), 0),
    ],
)
def test_what_enters_a_head_of_zeros(weight: Tensor, function: Callable[[Tensor], Any], count: int) -> None:
    net = Through(lambda x: function(F.linear(x * 2, weight)))
    seen = record(net, torch.rand(1, 4))
    found = before_zero_heads(seen, net)
    assert len(found) == count
    ops: list[Op] = seen.recorder.ops
    assert all(one is ops[0].output for one in found)
