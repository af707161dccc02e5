"""One forward pass and what is seen in it: which layer, how often, overwritten or not, alone or in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sightline
from references.gradcam import gradcam, layercam
from references.plain import each, upsample
from references.scorecam import ablationcam
from sightline.engine import Evidence, observe
from sightline.errors import InputError, UnsupportedError
from sightline.inspection.structure import LayerRef
from sightline.methods import get_method
from sightline.methods.observation import observe_for
from sightline.targets import CallableTarget, ClassTarget
from toynets import (
    ALL_TOYS,
    CLASSES,
    BranchToy,
    GapToy,
    ResidualToy,
    Toy,
    VggToy,
    build,
    make_images,
    prepare,
)

PICKED = torch.tensor([[2, 0], [1, 3]])


def weighted(a: Tensor, y: Tensor) -> Tensor:
    """Grad-CAM from a tensor that is part of the graph of y: (N, C, h, w), (N,) -> (N, h, w)."""
    (g,) = torch.autograd.grad(y.sum(), a, retain_graph=True)
    return (g.mean((2, 3), keepdim=True) * a).sum(1).relu().detach()


# Which layer


@pytest.mark.parametrize("name", [name for name in ALL_TOYS if ALL_TOYS[name]().module_layer])
def test_the_layer_found_by_itself_is_what_enters_the_last_pooling(name: str) -> None:
    net, x = build(name), make_images()
    found = sightline.explain(net, x, classes=PICKED)
    named = sightline.explain(net, x, classes=PICKED, layer=net.module_layer)
    assert torch.equal(found.maps, named.maps)
    # the same tensor may have several names; the outermost module's is given (VGG's trunk goes on to a max-pool)
    outermost = {"features.4": "features", "body.1": "body"} if name != "vgg end" else {}
    assert found.layers == [outermost.get(net.module_layer, net.module_layer)]


def test_a_layer_may_be_an_operation_between_modules() -> None:
    net, x = build("densenet end"), make_images()
    found = sightline.explain(net, x, classes=PICKED)
    assert "relu" in found.layers[0]
    torch.testing.assert_close(found.maps, each(gradcam, net, x, PICKED), rtol=0, atol=1e-10)
    again = sightline.explain(net, x, classes=PICKED, layer=found.layers[0])  # and its name may be given back
    assert torch.equal(again.maps, found.maps)


def test_the_size_of_the_images_may_change_between_calls() -> None:
    net = build("densenet end")
    for size in (16, 12, 16):
        x = make_images(2, size)
        maps = sightline.explain(net, x, classes=PICKED).maps
        torch.testing.assert_close(maps, each(gradcam, net, x, PICKED), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["gradcam", "cam", "ablationcam"])
def test_weights_may_change_between_calls(method: str) -> None:
    net, x = build("gap"), make_images()
    sightline.explain(net, x, method=method, classes=PICKED)
    other = build("gap", seed=7)
    expected = sightline.explain(other, x, method=method, classes=PICKED).maps
    net.load_state_dict(other.state_dict())
    assert torch.equal(sightline.explain(net, x, method=method, classes=PICKED).maps, expected)
    net.fc = nn.Linear(6, CLASSES).double()  # a new module, too
    replaced = sightline.explain(net, x, method=method, classes=PICKED).maps
    fresh = build("gap", seed=7)
    fresh.fc.load_state_dict(net.fc.state_dict())
    assert torch.equal(replaced, sightline.explain(fresh, x, method=method, classes=PICKED).maps)


def test_an_unknown_layer_names_its_neighbours() -> None:
    with pytest.raises(InputError, match=r"features\.4"):
        sightline.explain(build("gap"), make_images(), layer="feature.4")
    with pytest.raises(InputError, match="Conv2d"):
        sightline.explain(build("gap"), make_images(), layer=nn.Conv2d(3, 3, 3))


@pytest.mark.parametrize("layer", ["fc", "pool"])
@pytest.mark.parametrize("method", ["gradcam", "eigencam", "scorecam"])
def test_a_layer_without_a_spatial_map_is_refused_by_name(layer: str, method: str) -> None:
    with pytest.raises(InputError, match=f"'{layer}'.*spatial"):
        sightline.explain(build("gap"), make_images(), method=method, layer=layer)


def test_a_network_without_a_spatial_map_is_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, CLASSES)).double().eval()
    with pytest.raises(InputError, match="layer"):
        sightline.explain(net, make_images())


class TupleLayer(GapToy):
    """A trunk in two parts; the first returns a tuple."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            out = self.conv(x).relu()
            return out, out * 2

    def __init__(self) -> None:
        super().__init__()
        self.features = self.Pair()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(x)[1]).flatten(1))


def test_a_layer_that_returns_a_tuple_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"'features'.*tuple"):
        sightline.explain(prepare(TupleLayer()), make_images(), layer="features")


class DeadEnd(GapToy):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Conv2d(3, 3, 3)


def test_a_layer_that_is_never_reached_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="'unused'"):
        sightline.explain(prepare(DeadEnd()), make_images(), layer="unused")


# Called more than once


def test_a_layer_called_twice_is_refused_and_its_calls_are_named() -> None:
    with pytest.raises(InputError, match=r"block\.relu#0.*block\.relu#1"):
        sightline.explain(build("residual"), make_images(), layer="block.relu")


def test_one_of_several_calls_can_be_named() -> None:
    net, x = build("residual"), make_images()
    pooled = F.max_pool2d(F.relu(net.stem(x)), 2)
    inner = F.relu(net.block.conv1(pooled))
    outer = F.relu(net.block.conv2(inner) + pooled)
    scores = net.fc(outer.mean((2, 3))).gather(1, PICKED)
    for number, a in enumerate([inner, outer]):
        maps = sightline.explain(net, x, classes=PICKED, layer=f"block.relu#{number}").maps
        expected = torch.stack([weighted(a, scores[:, k]) for k in range(2)], 1)
        assert expected.max() > 1e-3
        torch.testing.assert_close(maps, expected, rtol=0, atol=1e-10)


def test_a_call_that_does_not_happen_is_refused() -> None:
    with pytest.raises(InputError, match="2 times"):
        sightline.explain(build("residual"), make_images(), layer="block.relu#2")
    with pytest.raises(InputError, match=r"features\.4#1"):
        sightline.explain(build("gap"), make_images(), layer="features.4#1")


# Several layers


@pytest.mark.parametrize("layers", [["stem.2", "mixed"], ["mixed", "stem.2"]])
def test_layers_one_behind_the_other(layers: list[str]) -> None:
    net, x = build("branches"), make_images()
    evidence = observe(net, x, [LayerRef(name) for name in layers])
    target = ClassTarget(PICKED[:, 0])
    before, _ = net.split("stem.2")
    stem = before[0].run(x)
    for step in before[1:]:
        stem = step.run(stem)
    stem = stem.detach().requires_grad_()
    mixed = net.mixed(stem.clone())
    y = net.fc(mixed.mean((2, 3))).gather(1, PICKED[:, :1]).sum()
    expected = dict(zip(["stem.2", "mixed"], torch.autograd.grad(y, [stem, mixed]), strict=True))
    for name, a, g in zip(layers, evidence.layers, evidence.gradients(target), strict=True):
        torch.testing.assert_close(a, {"stem.2": stem, "mixed": mixed}[name].detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(g, expected[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("frozen", [False, True])
def test_parallel_branches(frozen: bool) -> None:
    # Neither branch leads to the other: each must become a leaf of its own.
    net, x = prepare(BranchToy()).requires_grad_(not frozen), make_images()
    evidence = observe(net, x, [LayerRef("mixed.left"), LayerRef("mixed.right")])
    stem = net.stem(x).detach()
    left = net.mixed.left(stem).detach().requires_grad_()
    right = net.mixed.right(stem).detach().requires_grad_()
    y = net.fc(torch.cat([left, right], 1).mean((2, 3)))[:, 2].sum()
    expected = torch.autograd.grad(y, [left, right])
    found = evidence.gradients(ClassTarget(torch.tensor([2, 2])))
    for a, g, own, slope in zip(evidence.layers, found, (left, right), expected, strict=True):
        torch.testing.assert_close(a, own.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(g, slope, rtol=0, atol=1e-12)
        assert slope.abs().max() > 1e-3


def test_fullycam_over_parallel_branches() -> None:
    net, x = build("branches"), make_images(1)
    stem = net.stem(x).detach()
    left = net.mixed.left(stem).detach().requires_grad_()
    right = net.mixed.right(stem).detach().requires_grad_()
    y = net.fc(torch.cat([left, right], 1).mean((2, 3)))[0, 2]
    fused = torch.zeros(16, 16, dtype=torch.float64)
    for a, g in zip((left, right), torch.autograd.grad(y, [left, right]), strict=True):
        m = upsample((g.relu() * a).sum(1)[0].detach(), 16, 16)
        fused += m / m.max() if m.max() > 0 else 0
    maps = sightline.explain(net, x, method="fullycam", classes=2, layers=["mixed.left", "mixed.right"]).maps
    torch.testing.assert_close(maps[0, 0], fused / fused.max(), rtol=0, atol=1e-10)


# What lies behind a layer, run again


@pytest.mark.parametrize("layer", ["block.conv2", "block.conv1", "stem"])
def test_ablation_beside_a_skip_connection_keeps_each_images_own_skip(layer: str) -> None:
    # Behind block.conv2 the skip's tensor is added: it must be that of the image whose channels are ablated.
    net, x = prepare(ResidualToy()), make_images(3)
    picked = torch.tensor([[2, 0], [1, 3], [0, 1]])
    maps = sightline.explain(net, x, method="ablationcam", classes=picked, layer=layer).maps

    def forward(image: Tensor, channel: int | None) -> tuple[Tensor, Tensor]:
        def ablate(name: str, t: Tensor) -> Tensor:
            if name == layer:
                kept.append(t.detach().clone())
                if channel is not None:
                    t = t.clone()
                    t[:, channel] = 0
            return t

        kept: list[Tensor] = []
        pooled = F.max_pool2d(F.relu(ablate("stem", net.stem(image))), 2)
        inner = F.relu(ablate("block.conv1", net.block.conv1(pooled)))
        outer = F.relu(ablate("block.conv2", net.block.conv2(inner)) + pooled)
        return net.fc(outer.mean((2, 3)))[0].detach(), kept[0][0]

    for n in range(3):
        whole, a = forward(x[n : n + 1], None)
        drops = torch.stack([whole - forward(x[n : n + 1], k)[0] for k in range(len(a))])
        for k in range(2):
            c = int(picked[n, k])
            expected = torch.einsum("c,chw->hw", drops[:, c] / whole[c].abs(), a).relu()
            torch.testing.assert_close(maps[n, k], expected, rtol=1e-9, atol=1e-10)


class Untraceable(VggToy):
    """Its path depends on values, which no tracer can follow."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(x.sum()) > -1e9 else x.flatten(1)[:, :CLASSES]


def test_ablation_of_a_network_that_cannot_be_traced() -> None:
    net, x = prepare(Untraceable()), make_images()
    maps = sightline.explain(net, x, method="ablationcam", classes=PICKED).maps
    torch.testing.assert_close(maps, each(ablationcam, net, x, PICKED), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ALL_TOYS)
def test_rescoring_what_was_observed_gives_the_networks_own_output(name: str) -> None:
    net, x = build(name), make_images(3)
    seen: list[Tensor] = []

    def look(evidence: Evidence, target: ClassTarget) -> Tensor:
        swapped = torch.tensor([2, 0, 1])
        seen.append(evidence.rescore(x))
        seen.append(evidence.rescore_from(evidence.activations))
        seen.append(evidence.rescore_from(evidence.activations[swapped], swapped))
        return evidence.activations.sum(1)

    with registered("look", look):
        sightline.explain(net, x, method="look", classes=0)
    for output, expected in zip(seen, [net(x), net(x), net(x)[[2, 0, 1]]], strict=True):
        assert not output.requires_grad
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-10)


# A method of one's own


class registered:
    def __init__(self, name: str, function: Callable[..., Tensor], **options: object) -> None:
        self.name, self.function, self.options = name, function, {"paper": "a test", **options}

    def __enter__(self) -> None:
        sightline.register_method(self.name, **self.options)(self.function)

    def __exit__(self, *error: object) -> None:
        from sightline.methods import unregister_method

        unregister_method(self.name)


def test_a_method_of_ones_own_works_at_once() -> None:
    net, x = build("gap"), make_images()

    def mine(evidence: Evidence, target: ClassTarget, *, power: float = 1.0) -> Tensor:
        return (evidence.gradient(target).relu() * evidence.activations).sum(1).relu() ** power

    with registered("mine", mine):
        assert sightline.list_methods()["mine"] == "a test"
        maps = sightline.explain(net, x, method="mine", classes=PICKED).maps
        torch.testing.assert_close(maps, each(layercam, net, x, PICKED), rtol=0, atol=1e-10)
        squared = sightline.explain(net, x, method="mine", classes=PICKED, power=2.0).maps
        torch.testing.assert_close(squared, maps**2, rtol=0, atol=1e-12)
    with pytest.raises(InputError):
        sightline.explain(net, x, method="mine")


@pytest.mark.parametrize("name", ["gap", "gmp", "squeezenet end"])
def test_classifier_weights_are_the_heads(name: str) -> None:
    net, x = build(name), make_images()
    head = net.classifier[1] if name == "squeezenet end" else net.fc
    seen = []

    def look(evidence: Evidence, target: ClassTarget) -> Tensor:
        seen.extend(evidence.classifier_weights())
        return evidence.activations.sum(1)

    with registered("look", look, needs=("activations", "classifier")):
        sightline.explain(net, x, method="look", classes=0)
    assert torch.equal(seen[0], head.weight.detach().flatten(1))
    assert torch.equal(seen[1], head.bias.detach())


# One pass


class Counting(VggToy):
    """Counts its passes, and writes down whether its trunk and its head ran with gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        trunk = self.features[0](x)
        a = self.features[1:](trunk)
        out = self.classifier(self.avgpool(a).flatten(1))
        self.passes.append((trunk.requires_grad, out.requires_grad))
        return out


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("gradcam", (False, True)),
        ("layercam", (False, True)),
        ("eigencam", (False, False)),
        ("saliency", (True, True)),
        ("guided_backprop", (True, True)),
        ("guided_gradcam", (True, True)),
    ],
)
def test_one_pass_serves_all_classes_and_the_trunk_records_nothing(
    method: str, expected: tuple[bool, bool]
) -> None:
    net, x = prepare(Counting()), make_images()
    sightline.explain(net, x, method=method, classes="top4")  # the first look may cost a pass of one image
    net.passes.clear()
    sightline.explain(net, x, method=method, classes="top4")
    assert net.passes == [expected]


def test_no_parameter_gets_a_gradient() -> None:
    net, x = build("vgg end"), make_images().requires_grad_()
    for method in ("gradcam", "fullycam", "guided_gradcam", "smoothgrad"):
        sightline.explain(net, x, method=method, classes=PICKED)
    assert all(p.grad is None for p in net.parameters())
    assert x.grad is None


def test_two_explanations_in_two_threads() -> None:
    nets = [build("in-place, functional mean", seed=s) for s in (0, 1)]
    x = make_images(4)
    expected = [sightline.explain(net, x, method="guided_gradcam", classes="top2").maps for net in nets]
    wrong: list[str] = []
    start = threading.Barrier(2)

    def work(n: int) -> None:
        start.wait()
        for _ in range(15):
            try:
                maps = sightline.explain(nets[n], x, method="guided_gradcam", classes="top2").maps
                if not torch.equal(maps, expected[n]):
                    wrong.append(f"thread {n}: other values")
            except Exception as error:
                wrong.append(f"thread {n}: {error!r}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_first_looks_in_two_threads() -> None:
    # Nothing is remembered yet: both threads inspect_network their network at the same time.
    nets, x = [build("densenet end", seed=s) for s in (0, 1)], make_images(2)
    found: dict[int, Tensor] = {}
    start = threading.Barrier(2)

    def work(n: int) -> None:
        start.wait()
        found[n] = sightline.explain(nets[n], x, classes=PICKED).maps

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(2):
        torch.testing.assert_close(found[n], each(gradcam, nets[n], x, PICKED), rtol=0, atol=1e-10)


# Outputs that are no tensor, and bad numbers


class Wrapped(GapToy):
    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor) -> object:  # type: ignore[override]
        return self.wrap(super().forward(x))


def test_an_output_with_logits_is_read() -> None:
    net, x = prepare(Wrapped(lambda y: SimpleNamespace(logits=y))), make_images()
    plain = build("gap")
    given = sightline.explain(net, x, classes=PICKED, layer="features.4")
    assert torch.equal(given.maps, sightline.explain(plain, x, classes=PICKED).maps)
    assert torch.equal(given.logits, plain(x).detach())


def test_any_output_serves_a_callable_target() -> None:
    net, x = prepare(Wrapped(lambda y: {"scores": (y, 2)})), make_images()
    given = sightline.explain(net, x, target=lambda out: out["scores"][0][:, 3], layer="features.4")
    assert torch.equal(given.maps, sightline.explain(build("gap"), x, classes=3).maps)
    assert given.logits is None
    with pytest.raises(InputError, match="target"):
        sightline.explain(net, x, classes=3, layer="features.4")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("layer", ["features.0", "features.3", "fc"])
def test_nan_in_the_output_names_the_layer_that_made_it(layer: str, bad: float) -> None:
    net, x = build("gap"), make_images()
    with torch.no_grad():
        net.get_submodule(layer).bias[0] = bad
    with pytest.raises(InputError, match=f"'{layer}'"):
        sightline.explain(net, x)


def test_nan_in_the_images_is_not_blamed_on_a_layer() -> None:
    x = make_images()
    x[1, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="image"):
        sightline.explain(build("gap"), x)


class NoGradHead(GapToy):
    def forward(self, x: Tensor) -> Tensor:
        a = self.features(x)
        with torch.no_grad():
            return self.fc(self.pool(a).flatten(1))


@pytest.mark.parametrize("layer", [None, "features.4"])
def test_no_grad_inside_the_network_is_overruled(layer: str | None) -> None:
    maps = sightline.explain(prepare(NoGradHead()), make_images(), classes=PICKED, layer=layer).maps
    assert torch.equal(maps, sightline.explain(build("gap"), make_images(), classes=PICKED).maps)


class InferenceTrunk(GapToy):
    """A frozen trunk in inference mode, whose tensors autograd does not take."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            a = self.features(x)
        return self.fc(self.pool(a.clone()).flatten(1))


@pytest.mark.parametrize("method", ["gradcam", "layercam", "saliency"])
def test_inference_mode_inside_the_network_is_overruled(method: str) -> None:
    net, x = prepare(InferenceTrunk()), make_images()
    maps = sightline.explain(net, x, method, classes=PICKED).maps
    assert torch.equal(maps, sightline.explain(build("gap"), x, method, classes=PICKED).maps)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_a_target_that_does_not_depend_on_the_network_is_a_clear_error() -> None:
    with pytest.raises(InputError, match="the target does not depend on the image"):
        sightline.explain(
            build("gap"), make_images(), target=lambda out: torch.ones(2, requires_grad=True) * 1
        )


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (lambda out: out, r"\(2, 4\)"),
        (lambda out: 3.0, "float"),
        (lambda out: out.sum(), r"\(\)"),
        ("dog", "str"),
    ],
)
def test_a_target_of_the_wrong_kind_is_refused(target: object, named: str) -> None:
    with pytest.raises(InputError, match=named):
        sightline.explain(build("gap"), make_images(), target=target)


def test_a_target_of_one_score_too_many_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(3,\)"):
        sightline.explain(build("gap"), make_images(), target=lambda out: torch.cat([out[:, 0], out[:1, 1]]))


@pytest.mark.parametrize(
    ("classes", "named"),
    [
        (4, "0 to 3"),
        (-1, "0 to 3"),
        ("top5", "top4"),
        ("dog", "dog"),
        (torch.tensor([1, 2, 3]), r"\(3,\)"),
        (torch.tensor([[1], [7]]), "7"),
        (torch.tensor([1.0, 2.0]), "float"),
        ([], "empty"),
    ],
    ids=str,
)
def test_impossible_classes_are_refused(classes: object, named: str) -> None:
    with pytest.raises(InputError, match=named):
        sightline.explain(build("gap"), make_images(), classes=classes)


@pytest.mark.parametrize(
    "batch",
    [make_images()[0], torch.zeros(0, 3, 16, 16), torch.zeros(1, 3, 16, 16, dtype=torch.uint8), [], 3],
    ids=["no batch dimension", "empty", "bytes", "empty list", "a number"],
)
def test_impossible_batches_are_refused(batch: object) -> None:
    with pytest.raises(InputError):
        sightline.explain(build("gap"), batch)


# Heads are recognised by what they compute

SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "x.mean((2, 3))": lambda x: x.mean((2, 3)),
    "x.mean([-2, -1])": lambda x: x.mean([-2, -1]),
    "torch.mean": lambda x: torch.mean(x, dim=(2, 3)),
    "keepdim": lambda x: x.mean((2, 3), keepdim=True).flatten(1),
    "AvgPool2d": lambda x: F.avg_pool2d(x, 8)[:, :, 0, 0],
    "avg_pool2d of the whole map": lambda x: F.avg_pool2d(x, x.shape[2:]).squeeze(3).squeeze(2),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1).view(x.shape[0], -1),
    "flatten, mean": lambda x: x.flatten(2).mean(2),
    "view, mean": lambda x: x.view(*x.shape[:2], -1).mean(-1),
    "mean twice": lambda x: x.mean(3).mean(2),
    "sum over area": lambda x: x.sum((2, 3)) / 64,
    "maximum": lambda x: x.amax((2, 3)),
    "adaptive maximum": lambda x: F.adaptive_max_pool2d(x, 1).flatten(1),
    "flatten, maximum": lambda x: x.flatten(2).max(2).values,
}


class Spelled(GapToy):
    def __init__(self, pooling: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.spelled = pooling

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.spelled(self.features(x)))


@pytest.mark.parametrize("how", SPELLINGS)
@pytest.mark.parametrize("method", ["cam", "gradcam"])
def test_pooling_is_recognised_however_it_is_spelled(how: str, method: str) -> None:
    net, plain, x = prepare(Spelled(SPELLINGS[how])), build("gap"), make_images()
    maps = sightline.explain(net, x, method=method, classes=PICKED).maps
    expected = sightline.explain(plain, x, method=method, classes=PICKED).maps
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-10)


class Scaled(GapToy):
    """Not pooling and linear: the scores are scaled by a temperature afterwards."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 4


class Normalised(GapToy):
    """Not pooling and linear: the pooled vector is normalised first."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.normalize(self.pool(self.features(x)).flatten(1)))


@pytest.mark.parametrize("kind", [Scaled, Normalised])
def test_a_head_that_computes_something_else_is_refused(kind: type[Toy]) -> None:
    with pytest.raises(UnsupportedError, match="gradcam"):
        sightline.explain(prepare(kind()), make_images(), method="cam", classes=PICKED)


def test_cam_refuses_a_layer_that_is_not_before_the_pooling() -> None:
    net, x = build("gap"), make_images()
    with pytest.raises(UnsupportedError, match=r"'features'.*features\.1"):
        sightline.explain(net, x, method="cam", layer="features.1")
    named = sightline.explain(net, x, method="cam", classes=PICKED, layer="features").maps  # the same tensor
    assert torch.equal(named, sightline.explain(net, x, method="cam", classes=PICKED).maps)


def test_methods_of_one_layer_fuse_several_in_explain_and_refuse_them_in_one_pass() -> None:
    layers = ["features.1", "features.4"]
    listed = sightline.explain(build("gap"), make_images(), classes=1, layer=layers)
    written = sightline.explain(build("gap"), make_images(), f"gradcam:layer={','.join(layers)}", classes=1)
    assert torch.equal(listed.maps, written.maps)
    with pytest.raises(InputError, match="fullycam"):
        observe_for(get_method("gradcam"), build("gap"), make_images(), layers)


def test_targets_are_called_with_the_networks_own_output() -> None:
    net, x = build("gap"), make_images()
    evidence = observe(net, x, [LayerRef("features.4")])
    given = evidence.gradient(CallableTarget(lambda out: out[:, 1] - out[:, 2]))
    difference = (net.fc.weight[1] - net.fc.weight[2]).detach() / 64
    torch.testing.assert_close(given, difference.view(1, -1, 1, 1).expand_as(given), rtol=0, atol=1e-12)
    torch.testing.assert_close(evidence.score(ClassTarget(PICKED[:, 0])), net(x).gather(1, PICKED)[:, 0])
