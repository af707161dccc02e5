"""What is found of small networks: target, head, branches, what is remembered, and why there is nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.errors import InputError
from sightline.inspection.layers import LayerRef, LayerRow, Structure, why_patchless
from sightline.inspection.naming import named_layer
from sightline.inspection.stages import last_stages, watched
from sightline.inspection.structure import explained, forget, inspect_network
from sightline.targets import ClassScore
from toynets import Through

Function = Callable[[Any], Any]


class Net(nn.Module):
    """A convolution, some function of its map, and a linear layer."""

    def __init__(
        self, function: Function, out: Function = lambda y: y, before: Function = lambda x: x
    ) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)
        self.function, self.out, self.before, self.passes = function, out, before, list[tuple[int, ...]]()

    def forward(self, x: Tensor) -> Any:
        self.passes.append(tuple(x.shape))
        return self.out(self.fc(self.function(self.conv(self.before(x)))))


def pooled(a: Tensor) -> Tensor:
    return a.mean((2, 3))


def find(net: nn.Module, n: int = 1, target: Any = None, **options: Any) -> Structure:
    return inspect_network(net.eval(), torch.rand(n, 3, 6, 6), target, **options)


# What is explained


def test_what_of_an_output_is_explained() -> None:
    logits = torch.rand(1, 3)
    assert explained(None)(logits) is logits
    assert explained(None)({"logits": logits, "other": 1}) is logits
    boxes = {"boxes": torch.rand(2, 4), "scores": torch.rand(2)}
    assert explained(None)([boxes]) == [boxes]
    assert torch.equal(explained(lambda output: output[:, 0])(logits), logits[:, 0])
    assert explained(ClassScore(torch.tensor([1])))(logits) is logits
    assert explained(lambda output: output["missing"])(logits) is logits  # it may be made for the whole batch
    assert explained(lambda output: 3.0)(logits) is logits


# Why there is nothing


@pytest.mark.parametrize(
    ("net", "why"),
    [
        (Net(pooled, lambda y: torch.ones(1, 2)), "its output does not depend on the image"),
        (
            Through(lambda x: F.conv2d(x, torch.ones(2, 3, 3, 3))),
            r"its output is a map itself, \(1, 2, 4, 4\)",
        ),
        (Through(lambda x: (x.mean((1, 2, 3)), x.relu())), r"its output is a map itself, \(1, 3, 6, 6\)"),
        (Through(lambda x: F.conv2d(x, torch.ones(2, 3, 6, 6)).flatten(1)), "the image itself"),
        (Through(lambda x: F.conv2d(x, torch.ones(2, 3, 3, 3)).flatten(2)), "is not pooled"),
        (Through(lambda x: x.mean((2, 3))), "what it pools or flattens is the image itself"),
        (Through(lambda x: x.flatten(1)), "what it pools or flattens is the image itself"),
        (Net(lambda a: a.roll(1, 2)[:, :, 0, 0]), "is not pooled"),
    ],
)
def test_why_there_is_no_target(net: nn.Module, why: str) -> None:
    found = find(net)
    assert found.target is None
    assert re.search(why, found.why_no_target), found.why_no_target
    assert found.why_no_head == found.why_no_target


def test_a_target_function_that_has_nothing_to_do_with_the_image_is_told_from_the_output() -> None:
    net = Net(pooled, lambda y: {"score": y, "constant": torch.ones(1, 2)})
    assert (
        find(net, target=lambda out: out["constant"]).why_no_target
        == "the target does not depend on the image"
    )
    assert str(find(net, target=lambda out: out["score"]).target) == "conv"


@pytest.mark.parametrize("n", [1, 2])
def test_frames_that_are_folded_into_the_batch(n: int) -> None:
    class Clip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            frames = self.conv(x.repeat(3, 1, 1, 1)).mean((2, 3))
            return self.fc(frames.unflatten(0, (3, len(x))).mean(0))

    found = find(Clip(), n, whole=True)
    images = f"for {n} image{'s' if n > 1 else ''}: the first axis is not the batch"
    assert found.target is None
    assert f"its last map is ({3 * n}, 4, 4, 4) {images}" in found.why_no_target


# Heads and branches


@pytest.mark.parametrize(
    ("out", "head"), [(lambda y: y, True), (lambda y: 2 * y, False), (lambda y: y.softmax(1), False)]
)
def test_a_head_or_why_there_is_none(out: Function, head: bool) -> None:
    found = find(Net(pooled, out))
    assert (found.head is not None) == head
    expected = "" if head else "its scores are not one linear layer on the pooled target layer"
    assert found.why_no_head == expected
    assert found.why_no_target == ""


class Beside(nn.Module):
    """Several branches that are pooled on their own; ``uses`` says which lead to the score."""

    def __init__(self, *uses: float) -> None:
        super().__init__()
        self.uses = uses
        self.branches = nn.ModuleList(nn.Conv2d(3, 4, 1) for _ in uses)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(
            sum(use * branch(x).mean((2, 3)) for use, branch in zip(self.uses, self.branches, strict=True))
        )


@pytest.mark.parametrize(
    ("uses", "target", "named"),
    [
        ((1.0, 0.0), "branches.0", []),
        ((0.0, 1.0), "branches.1", []),
        ((0.0, 1.0, 0.0), "branches.1", []),
        ((1.0, 2.0), None, ["branches.1", "branches.0"]),
        ((1.0, 0.0, 3.0), None, ["branches.2", "branches.0"]),
        ((0.0, 0.0), "branches.1", []),
    ],
)
def test_of_several_branches_the_one_with_a_gradient_is_meant(
    uses: Any, target: str | None, named: list[str]
) -> None:
    found = find(Beside(*uses))
    assert (None if found.target is None else str(found.target)) == target
    if named:
        assert found.why_no_target.endswith(f"side by side, {', '.join(map(repr, named))}; name one of them")


# The layers


def test_the_layers_with_their_shapes_and_the_last_of_each_size() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(5, 6, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2),
    )  # fmt: skip
    found = find(net)
    rows = [(row.name, row.type, row.shape, row.chosen) for row in found.layers]
    assert rows == [
        ("0", "Conv2d", (4, 6, 6), False), ("1", "ReLU", (4, 6, 6), False), ("2", "Conv2d", (5, 6, 6), False),
        ("3", "MaxPool2d", (5, 3, 3), False), ("4", "Conv2d", (6, 3, 3), False), ("5", "ReLU", (6, 3, 3), True),
    ]  # fmt: skip
    assert [str(site) for site in found.convs] == ["1", "2", "5"]
    assert [str(site) for site in found.stages] == ["2", "5"]
    assert found.shapes["0", 0] == (1, 4, 6, 6)
    assert found.shapes["8", 0] == (1, 2)
    assert found.types["8"] == "Linear"
    assert (found.rows, found.interrupts, found.tokens, found.moves_rows) == (1, False, False, False)
    assert found.suggestions() == "'5', '4', '3', '2', '1'"
    assert found.suggestions(shapes=True).startswith("'5' (6 × 3 × 3), '4' (6 × 3 × 3), '3' (5 × 3 × 3)")
    assert last_stages(net, torch.rand(1, 3, 6, 6), 2) == ("2", "3")


def test_an_operation_that_is_chosen_is_a_layer_too() -> None:
    found = find(Net(lambda a: pooled(a.relu())))
    assert found.layers[-1] == LayerRow(
        "network:relu@1", "operation", (4, 6, 6), True, found.layers[-1].layout
    )
    assert found.layers[-1].type == "operation"


def test_suggestions_are_the_target_and_the_last_of_the_outermost() -> None:
    rows = tuple(LayerRow(name, "Conv2d", (1, 2, 3)) for name in ("a", "a.0", "b", "b.0", "b.0.c", "d"))
    assert Structure(layers=rows).suggestions() == "'d', 'b', 'a', 'b.0', 'a.0'"
    assert Structure(target=LayerRef("t"), layers=rows).suggestions() == "'t', 'd', 'b', 'a', 'b.0'"
    assert Structure(layers=rows[:1]).suggestions(shapes=True) == "'a' (1 × 2 × 3)"
    why = why_patchless(Structure(target=LayerRef("t")), LayerRef("x", call=1))
    assert why.startswith("layer 'x#1': only its class token leads to the score")


# What is remembered


def test_what_was_found_is_remembered_for_each_size_precision_and_target() -> None:
    net = Net(pooled).eval()

    def first(output: Tensor) -> Tensor:
        return output[:, 0]

    def of(number: int) -> Function:
        return lambda output: output[:, number]

    def ask(target: Any = None, side: int = 6, dtype: torch.dtype = torch.float32, **options: Any) -> bool:
        net.to(dtype).passes.clear()
        inspect_network(net, torch.rand(2, 3, side, side, dtype=dtype), target, **options)
        return bool(net.passes)

    assert [ask(), ask()] == [True, False]
    assert [ask(side=7), ask(side=7), ask()] == [True, False, False]
    assert [ask(first), ask(first)] == [True, False]
    assert [ask(of(0)), ask(of(0)), ask(of(1))] == [True, False, True]
    assert [ask(ClassScore(torch.tensor([0]))), ask(ClassScore(torch.tensor([0])))] == [True, False]
    assert [ask(whole=True), ask(whole=True)] == [True, False]
    assert [ask(dtype=torch.float64), ask(dtype=torch.float64)] == [True, False]
    forget(net)
    assert ask()


def test_a_network_is_shown_noise_then_the_image_then_all_of_them() -> None:
    def refuses(*allowed: str) -> Function:
        def before(x: Tensor) -> Tensor:
            kind = (
                "several"
                if len(x) > 1
                else "plain"
                if float(x.amax()) <= 1 and float(x.amin()) >= 0
                else "noisy"
            )
            shown.append(kind)
            if kind not in allowed:
                raise ValueError(f"no {kind}")
            return x

        return before

    shown: list[str] = []
    for allowed, n, expected in [
        (("noisy", "plain", "several"), 1, ["noisy"]), (("plain",), 1, ["noisy", "plain"]),
        (("several",), 3, ["noisy", "plain", "several"]), (("several",), 2, ["noisy", "plain", "several"]),
    ]:  # fmt: skip
        shown.clear()
        net = Net(pooled, before=refuses(*allowed)).eval()
        found = inspect_network(net, torch.rand(n, 3, 6, 6))
        assert shown[: len(expected)] == expected
        assert (str(found.target), found.rows) == ("conv", n if expected[-1] == "several" else 1)
    shown.clear()
    with pytest.raises(InputError, match="no plain"):
        inspect_network(Net(pooled, before=refuses()).eval(), torch.rand(1, 3, 6, 6))
    assert shown == ["noisy", "plain"]


def test_a_network_that_switches_gradients_off_says_so() -> None:
    assert find(Net(torch.no_grad()(pooled))).interrupts
    assert find(Net(lambda a: pooled(a.flip(0)))).moves_rows


# Stages


class Stages(nn.Module):
    """Maps of 16, 8, 8 and 4 pixels a side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.b, self.c = nn.Conv2d(4, 4, 3, 1, 1), nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.c(self.b(self.a(self.stem(x)))).mean((2, 3)))


@pytest.mark.parametrize(
    ("count", "expected"), [(1, ("b",)), (2, ("b", "c")), (3, ("stem", "b", "c")), (5, ("stem", "b", "c"))]
)
def test_the_maps_on_both_sides_of_each_step_down(count: int, expected: tuple[str, ...]) -> None:
    assert last_stages(Stages().eval(), torch.rand(1, 3, 16, 16), count) == expected


def test_what_layers_show_while_something_else_runs_the_network() -> None:
    net, x = Stages().eval(), torch.rand(2, 3, 16, 16)
    with watched(net, ["a", "c"], x) as seen, torch.no_grad():
        net(x[:1])
        net(x)
    a = net.a(net.stem(x))
    assert [tuple(one.shape) for one in seen()] == [(2, 4, 8, 8), (2, 4, 4, 4)]
    assert torch.equal(seen()[0], a)
    assert not any(one.requires_grad for one in seen())
    with watched(net, ["fc"], x) as seen:
        net(x)
    with pytest.raises(InputError, match=r"layer 'fc' showed no map \(N, C, h, w\) of 2 images"):
        seen()
    with pytest.raises(InputError, match="unknown layer 'nothing'"), watched(net, ["nothing"], x):
        pass
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_layer_whose_first_axis_is_not_the_batch_is_named() -> None:
    folded = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Through(lambda a: a.flatten(2).transpose(0, 2)))
    net = nn.Sequential(folded, Through(lambda t: t.mean((0, 2))[None]))
    with pytest.raises(
        InputError, match=r"layer '0' returns \(36, 4, 1\) for 1 image: its first axis is not the batch"
    ):
        named_layer(net.eval(), "0", torch.rand(1, 3, 6, 6))


def test_patches_before_convolutions_do_not_hide_them() -> None:
    rest = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    stem, conv = nn.Conv2d(3, 4, 4, stride=4), nn.Conv2d(4, 4, 3, padding=1)
    found = inspect_network(nn.Sequential(stem, nn.ReLU(), conv, *rest).eval(), torch.rand(1, 3, 16, 16))
    assert [str(site) for site in found.convs] == ["1", "3"]
    alone = inspect_network(nn.Sequential(stem, *rest).eval(), torch.rand(1, 3, 16, 16))
    assert alone.convs == ()  # an embedding of patches


class Gated(nn.Module):
    """A convolution, an operation of its map's shape that is no norm, and a ReLU; then the same with a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.relu, self.fc = nn.BatchNorm2d(4), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        gated = self.relu(self.a(x).softmax(1) - 0.2)
        return self.fc(self.relu(self.norm(self.b(gated))).mean((2, 3)))


def test_a_convolution_is_taken_behind_its_norm_and_activation_and_no_further() -> None:
    found = inspect_network(Gated().eval(), torch.rand(1, 3, 8, 8))
    assert [str(site) for site in found.convs] == ["a", "relu#1"]
