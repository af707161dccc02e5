"""What one pass shows, number by number: activations, gradients, other images, other activations, heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.engine import Evidence, OtherPathError, logits_with_graph, observe
from sightline.errors import InputError, UnsupportedError
from sightline.inspection.inputs import holding
from sightline.inspection.layers import Head, LayerRef
from sightline.inspection.layout import Layout
from sightline.inspection.structure import inspect_network
from toynets import Through


class Net(nn.Module):
    """conv, ReLU, conv, squared and averaged, linear; ``between`` is done to the first map."""

    def __init__(self, between: Callable[[Tensor], Any] = lambda a: a) -> None:
        super().__init__()
        self.a, self.relu, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1)
        self.fc, self.between = nn.Linear(5, 3), Through(between)

    def behind(self, a: Tensor) -> Tensor:
        return self.fc(self.b(a).square().mean((2, 3)))

    def forward(self, x: Tensor) -> Any:
        return self.behind(self.between(self.relu(self.a(x))))


def second(output: Tensor) -> Tensor:
    return output[:, 1]


def seen(net: nn.Module, x: Tensor, *names: str, **options: Any) -> Evidence:
    return observe(net.eval(), x, [LayerRef(name) for name in names], **options)


X = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(3))


def test_activations_gradients_and_logits_of_two_layers() -> None:
    net = Net()
    evidence = seen(net, X, "relu", "b")
    a = net.relu(net.a(X)).detach().requires_grad_()
    b = net.b(a)
    logits = net.fc(b.square().mean((2, 3)))
    expected = torch.autograd.grad(logits[:, 1].sum(), [a, b])
    assert torch.equal(evidence.activations, a.detach())
    assert torch.equal(evidence.layers[1], b.detach())
    assert torch.equal(evidence.logits, logits.detach())  # type: ignore[arg-type]
    found = evidence.gradients(second)  # type: ignore[arg-type]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert torch.equal(evidence.gradient(second), expected[0])  # type: ignore[arg-type]
    assert torch.equal(evidence.score(second), logits[:, 1].detach())  # type: ignore[arg-type]
    one = evidence.of_layer(1)
    assert torch.equal(one.gradient(second), expected[1])  # type: ignore[arg-type]
    assert (len(one.layers), len(evidence.layers)) == (1, 2)
    assert [evidence.layer_grid(i) for i in (0, 1)] == [(6, 8), (6, 8)]
    assert (evidence.size_hw, evidence.grid) == ((6, 8), (6, 8))
    assert (evidence.head, evidence.scores) == (None, None)


def test_without_gradient_there_is_none_and_with_that_of_the_image_all_of_it() -> None:
    net = Net()
    bare = seen(net, X, "relu", gradient=False)
    with pytest.raises(InputError, match=r"no gradient reaches .*'relu'.* from the target"):
        bare.gradient(second)  # type: ignore[arg-type]
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
    evidence = seen(net, X, "relu", input_gradient=True)
    torch.testing.assert_close(evidence.input_gradient(second), expected)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="must be registered with needs"):
        evidence.input_gradient(second, guided=True)  # type: ignore[arg-type]
    guided = seen(net, X, input_gradient=True, guided=True)
    torch.testing.assert_close(guided.input_gradient(second), expected)  # type: ignore[arg-type]
    first = guided.input_gradient(second, guided=True)  # type: ignore[arg-type]
    a = net.a(x)
    (down,) = torch.autograd.grad(net.behind(r := a.relu())[:, 1].sum(), r, retain_graph=True)
    (by_rule,) = torch.autograd.grad(a, x, down.clamp(min=0) * (a > 0))
    torch.testing.assert_close(first, by_rule)
    torch.testing.assert_close(guided.input_gradient(second), expected)  # type: ignore[arg-type]  # and not from then on
    with pytest.raises(InputError, match="no gradient reaches the image from the target"):
        seen(net, X).input_gradient(second)  # type: ignore[arg-type]
    assert X.grad is None
    assert all(p.grad is None for p in net.parameters())


def test_the_second_derivative_times_the_map() -> None:
    """b = conv(a) and y = Σ w mean(b²): H b = 2 w b / (h w)."""
    net = Net()
    evidence = seen(net, X, "b")
    b = evidence.activations
    expected = 2 * net.fc.weight[1].view(1, -1, 1, 1) * b / 48
    torch.testing.assert_close(evidence.hessian_product(second), expected.detach())  # type: ignore[arg-type]
    linear = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert not bool(seen(linear, X, "0").hessian_product(second).any())  # type: ignore[arg-type]


def test_whether_a_score_leads_to_the_layer() -> None:
    class Two(Net):
        def forward(self, x: Tensor) -> Any:
            return {"logits": super().forward(x), "other": self.a(x).mean((2, 3)), "fixed": torch.ones(2, 3)}

    evidence = seen(Two(), X, "b")
    assert evidence.reaches(None)
    assert evidence.reaches(lambda out: out["logits"][:, 0])
    assert not evidence.reaches(lambda out: out["other"][:, 0])
    assert not evidence.reaches(lambda out: out["fixed"][:, 0])
    image = seen(Two(), X, input_gradient=True)
    assert image.reaches(lambda out: out["other"][:, 0])
    assert not image.reaches(lambda out: out["fixed"][:, 0])


def test_one_of_several_layers_may_have_no_part_in_the_score() -> None:
    class Aside(Net):
        def forward(self, x: Tensor) -> Any:
            self.b(self.relu(self.a(x)))
            return self.a(x * 1).mean((2, 3))

    sites = [LayerRef("b"), LayerRef("a", call=1)]
    both = observe(Aside().eval(), X, sites)
    assert not bool(both.of_layer(0).gradient(second).any())  # type: ignore[arg-type]
    assert bool(both.of_layer(1).gradient(second).any())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the target does not depend on layer 'b'"):
        observe(Aside().eval(), X, sites[:1]).gradient(second)  # type: ignore[arg-type]


def test_other_images_and_other_activations() -> None:
    net = Net()
    evidence = seen(net, X, "relu")
    other = torch.rand(3, 3, 6, 8)
    with torch.no_grad():
        assert torch.equal(evidence.rescore(other), net(other))
        a = torch.rand(3, 4, 6, 8)
        torch.testing.assert_close(evidence.rescore_from(a, torch.tensor([1, 0, 1])), net.behind(a))
        torch.testing.assert_close(evidence.rescore_from(a[:2]), net.behind(a[:2]))
    assert not evidence.rescore(other).requires_grad
    again = evidence.at(other)
    assert torch.equal(again.activations, net.relu(net.a(other)).detach())
    evidence.head, evidence.scores = Head("linear", "fc"), "softmax"
    assert (evidence.at(other).head, evidence.at(other).scores) == (evidence.head, "softmax")


@pytest.mark.parametrize("traceable", [True, False])
def test_each_activation_has_its_own_image_s_skip(traceable: bool) -> None:
    class Skips(Net):
        def forward(self, x: Tensor) -> Any:
            a = self.relu(self.a(x))
            scale = 1.0 if traceable or x.sum() > -1e9 else 2.0
            return self.fc((self.b(a) + x.mean(1, keepdim=True)).mean((2, 3))) * scale

    net = Skips()
    evidence = seen(net, X, "relu")
    a, rows = torch.rand(3, 4, 6, 8), torch.tensor([1, 1, 0])
    expected = net.fc((net.b(a) + X[rows].mean(1, keepdim=True)).mean((2, 3)))
    given = a.clone()
    torch.testing.assert_close(evidence.rescorer()(given, rows), expected.detach())
    assert torch.equal(given, a)


@pytest.mark.parametrize(
    ("site", "calls"),
    [(LayerRef("relu", call=0), 0), (LayerRef("relu", call=1), 1), (LayerRef("", op=1, function="relu"), 0)],
)
def test_one_of_several_calls_is_observed_alone(site: LayerRef, calls: int) -> None:
    class Twice(Net):
        def forward(self, x: Tensor) -> Any:
            return self.behind(self.relu(self.relu(self.a(x)) - 0.3))

    net = Twice().eval()
    first = net.relu(net.a(X))
    evidence = observe(net, X, [site])
    assert torch.equal(evidence.activations, (first if calls == 0 else net.relu(first - 0.3)).detach())
    a = evidence.activations.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net.behind(net.relu(a - 0.3) if calls == 0 else a)[:, 1].sum(), a)
    torch.testing.assert_close(evidence.gradient(second), expected)  # type: ignore[arg-type]


def test_another_operation_than_before_is_another_path() -> None:
    with pytest.raises(
        OtherPathError, match="took another path than before: network:tanh@1 was 'relu' this time"
    ):
        observe(Net().eval(), X, [LayerRef("", op=1, function="tanh")])
    with pytest.raises(OtherPathError, match="'network:tanh@99' is not reached"):
        observe(Net().eval(), X, [LayerRef("", op=99, function="tanh")])
    net = Net().eval()
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("inplace", [True, False])
def test_what_works_in_place_behind_the_layer_changes_nothing(inplace: bool) -> None:
    net = Net(lambda a: a * 2 if inplace else a.mul_(2))
    net.relu.inplace = inplace
    evidence = seen(net, X, "relu")
    expected = net.a(X).detach()
    torch.testing.assert_close(evidence.activations, expected.relu())
    a = expected.relu().requires_grad_()
    (gradient,) = torch.autograd.grad(net.behind(2 * a)[:, 1].sum(), a)
    torch.testing.assert_close(evidence.gradient(second), gradient)  # type: ignore[arg-type]


def test_half_precision_is_widened_and_double_stays() -> None:
    for dtype, wide in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        evidence = seen(Net().to(dtype), X.to(dtype), "b")
        assert evidence.activations.dtype == wide
        assert evidence.gradient(second).dtype == wide  # type: ignore[arg-type]
    tokens = nn.Sequential(
        nn.Conv2d(3, 4, 2, 2), Through(lambda a: a.flatten(2).mT), Through(lambda t: t.mean(1))
    )
    site = LayerRef("1", layout=Layout("ntc", 0, (3, 4)))
    assert torch.equal(observe(tokens, X, [site]).activations, tokens[0](X).detach())


def test_maps_are_laid_where_their_layer_lies() -> None:
    net = Net().eval()
    maps = torch.rand(2, 6, 8)
    plain, part = LayerRef("a"), LayerRef("b", covers=((0.0, 3.0), (4.0, 8.0)))
    evidence = observe(net, X, [plain, part])
    assert torch.equal(evidence.upsampled(maps), maps)
    cut = evidence.upsampled(maps, 1)
    assert cut.shape == (2, 6, 8)
    assert not bool(cut[:, 4:].any())
    assert not bool(cut[:, :, :3].any())
    line = nn.Sequential(nn.Conv1d(3, 4, 2, 2)).eval()
    whole = observe(line, X[:, :, 0], [LayerRef("0", layout=Layout("ncl"))])
    assert (whole.grid, whole.layer_grid(), whole.images.shape[2:]) == ((8,), (4,), (1, 8))
    assert whole.upsampled(torch.rand(2, 1, 4)).shape == (2, 1, 8)


def test_weights_of_the_head() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    evidence = seen(net, X, "0")
    with pytest.raises(UnsupportedError, match="head is not pooling and one linear layer"):
        evidence.classifier_weights()
    evidence.head = inspect_network(net, X).head
    weight, bias = evidence.classifier_weights()
    assert torch.equal(weight, net[3].weight)
    assert torch.equal(bias, net[3].bias)
    assert not weight.requires_grad
    net[3] = nn.Linear(4, 2, bias=False)
    weight, bias = evidence.classifier_weights()
    assert torch.equal(weight, net[3].weight)
    assert bias.tolist() == [0, 0]


def test_logits_keep_the_names_of_their_operations_and_no_tensors() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 2), nn.Softmax(1)).train()
    with torch.no_grad():
        logits = logits_with_graph(net, X)
    assert logits is not None
    assert logits.grad_fn is not None
    assert logits.grad_fn.name() == "SoftmaxBackward0"
    assert net.training
    assert logits_with_graph(Through(lambda x: {"boxes": x}), X) is None


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_output_without_numbers_names_the_layer(bad: float) -> None:
    net = Net(lambda a: torch.where(torch.arange(8) == 3, bad, a))
    with pytest.raises(InputError, match="output holds NaN or Inf, first made by layer 'between'"):
        seen(net, X, "b")
    assert seen(Net(lambda a: F.relu(a)), X, "b").logits is not None


def test_a_failure_of_the_network_is_one_line() -> None:
    def fails(a: Tensor) -> Tensor:
        raise ValueError("not today")

    with pytest.raises(InputError, match="not today"):
        seen(Net(fails), X, "a")
    evidence = seen(Net(lambda a: a if a.shape[2] == 6 else fails(a)), X, "a")
    with pytest.raises(InputError, match="not today"):
        evidence.rescore(torch.rand(1, 3, 7, 7))


class Scaled(nn.Module):
    """Two layers of one shape; the network takes more than the image, so that it cannot be cut behind the first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.fc((self.b(self.a(x)) * scale).mean((2, 3)))


def test_of_several_layers_the_first_is_replaced() -> None:
    inner, scale = Scaled().eval(), torch.full((1, 1, 1, 1), 3.0)
    network, images = holding(inner, {"scale": scale}), torch.rand(2, 3, 4, 4)
    evidence = observe(network, images, [LayerRef("a"), LayerRef("b")])
    changed = torch.rand(2, 4, 4, 4)
    expected = inner.fc((inner.b(changed) * scale).mean((2, 3)))
    torch.testing.assert_close(evidence.rescore_from(changed), expected.detach())
