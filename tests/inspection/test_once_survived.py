"""What is read of a network, worked out by hand: values that a change of one operation once left unnoticed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sightline
from sightline.engine import observe
from sightline.errors import InputError, UnsupportedError
from sightline.inspection.following import shown
from sightline.inspection.guard import eval_mode
from sightline.inspection.inputs import holding
from sightline.inspection.naming import describe_layers
from sightline.inspection.reading import Reader
from sightline.inspection.recording import record
from sightline.inspection.stages import last_stages, watched
from sightline.inspection.structure import LayerRef, inspect_network
from sightline.inspection.trunk import graph_until
from toynets import Through

# What is pooled last


class Pooled(nn.Module):
    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.pool = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), Through(pool)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool.function(self.body(x)))


@pytest.mark.parametrize(
    ("pool", "name"),
    [
        (lambda a: a.mean((2, 3)), "mean"),
        (lambda a: a.amax((2, 3)), "max"),
        (lambda a: a.flatten(2).mean(2), "mean"),
        (lambda a: a.norm(2, (2, 3)), ""),
        (lambda a: a.norm(p=2, dim=(2, 3)), ""),
        (lambda a: a.norm(2, (-1, -2)), ""),
        (lambda a: torch.ops.aten.norm.ScalarOpt_dim(a, 2, [2, 3]), ""),  # as exported networks call it
    ],
)
def test_what_pools_and_by_what(pool: Callable[[Tensor], Tensor], name: str) -> None:
    found = inspect_network(Pooled(pool).eval(), torch.rand(1, 3, 6, 6))
    assert str(found.target) == "body"
    assert found.head is not None
    assert (found.head.module, found.head.pooling) == ("fc", name)


class Spread(nn.Module):
    """A pooling that is one function, and none of the known ones."""

    def forward(self, a: Tensor) -> Tensor:
        return a.std((2, 3))


def test_a_module_that_pools_by_one_function_of_its_own() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), Spread(), nn.Linear(4, 2)).eval()
    found = inspect_network(net, torch.rand(1, 3, 6, 6))
    assert str(found.target) == "1"
    assert found.head is not None
    assert (found.head.module, found.head.pooling) == ("3", "2")


def test_the_head_of_a_maximum_is_verified_by_the_maximum() -> None:
    net = Pooled(lambda a: a.amax((2, 3))).eval()
    x = torch.rand(1, 3, 6, 6)
    maps = sightline.explain(net, x, method="cam", classes=[0, 1]).maps
    expected = torch.einsum("kc,chw->khw", net.fc.weight, net.body(x)[0])
    torch.testing.assert_close(maps[0], expected.detach())


def test_a_head_of_zeros_gives_maps_of_zeros() -> None:
    net = Pooled(lambda a: a.mean((2, 3))).eval()
    nn.init.zeros_(net.fc.weight)
    nn.init.zeros_(net.fc.bias)
    assert sightline.explain(net, torch.rand(1, 3, 6, 6), method="cam", classes=1).maps.abs().max() == 0


class Offset(nn.Module):
    """Something learned, and the map second."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.ones(1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.offset, x)


def test_what_is_flattened_may_be_a_sum_with_something_learned() -> None:
    net = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), Offset(), nn.Flatten(), nn.Linear(36, 2)).eval()
    assert str(inspect_network(net, torch.rand(1, 3, 6, 6)).target) == "1"


@pytest.mark.parametrize(("stride", "convolutions"), [((4, 4), 0), ((4, 2), 1), ((2, 4), 1)])
def test_patches_are_cut_where_the_stride_is_the_kernel_s_side_along_both_axes(
    stride: tuple[int, int], convolutions: int
) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 4, stride), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert len(inspect_network(net.eval(), torch.rand(1, 3, 16, 16)).convs) == convolutions


class Windowed(nn.Module):
    """Its map is cut into windows and put together again, which is not followed, and then averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = (a := self.body(x)).shape
        windows = a.view(n, c, 2, h // 2, 2, w // 2).permute(0, 1, 2, 4, 3, 5)
        joined = windows.relu().permute(0, 1, 2, 4, 3, 5).reshape(n, c, h, w)
        return self.fc(joined.mean((2, 3)))


def test_a_map_that_is_put_together_of_windows() -> None:
    net, x = Windowed().eval(), torch.rand(1, 3, 6, 6)
    found = inspect_network(net, x)
    assert found.target is not None
    assert found.target.function == "reshape"
    assert torch.equal(observe(net, x, [found.target]).activations, net.body(x).relu().detach())


# What is explained of the output


class TwoHeads(nn.Module):
    """Two branches side by side, each with a head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.chosen = "left"

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"left": self.left(x).mean((2, 3)), "right": self.right(x).mean((2, 3))}


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_layer_is_that_of_the_score_that_a_function_returns(side: str) -> None:
    net, x = TwoHeads().eval(), torch.rand(1, 3, 6, 6)
    found = inspect_network(net, x, lambda output: output[side][:, 0])
    assert str(found.target) == side
    maps = sightline.explain(net, x, target=lambda output: output[side][:, 0]).maps[0, 0]
    torch.testing.assert_close(maps, getattr(net, side)(x)[0, 0].detach() / 36)


def test_two_branches_that_both_lead_to_the_score_are_named() -> None:
    net, x = TwoHeads().eval(), torch.rand(1, 3, 6, 6)
    found = inspect_network(net, x, lambda output: output["left"][:, 0] + output["right"][:, 0])
    assert found.target is None
    assert "side by side, 'right', 'left'; name one of them" in found.why_no_target


class Switched(TwoHeads):
    """Both branches run; which one gives the scores is switched from outside."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x)[self.chosen]


def test_a_network_that_is_switched_between_two_calls_is_looked_at_again() -> None:
    net, x = Switched().eval(), torch.rand(1, 3, 6, 6)
    for side in ("left", "right", "left"):
        net.chosen = side
        found = sightline.explain(net, x, method="gradcam", classes=2)
        assert found.layers == [side]
        torch.testing.assert_close(found.maps[0, 0], getattr(net, side)(x)[0, 2].detach() / 36)


class ByNumber(TwoHeads):
    """One image goes another way than several."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x)["left" if len(x) == 1 else "right"]


def test_a_network_that_goes_another_way_with_several_images() -> None:
    net, x = ByNumber().eval(), torch.rand(3, 3, 6, 6)
    for images, side in ((x[:1], "left"), (x, "right"), (x[1:2], "left")):
        found = sightline.explain(net, images, method="gradcam", classes=1)
        assert found.layers == [side]
        torch.testing.assert_close(found.maps[:, 0], getattr(net, side)(images)[:, 1].detach() / 36)
    with pytest.raises(InputError, match="no gradient reaches layer 'left' from the target"):
        sightline.explain(net, x, method="gradcam", classes=1, layer="left")


# What is remembered


class Counted(nn.Sequential):
    passes = 0

    def forward(self, x: Tensor) -> Any:
        self.passes += 1
        return super().forward(x)


def counted() -> Counted:
    parts = (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return Counted(*parts).eval()


def test_a_network_is_looked_at_once_for_each_size() -> None:
    net = counted()
    for side in (6, 8):
        inspect_network(net, torch.rand(1, 3, side, side))
    passes = net.passes
    for side in (6, 8, 6):
        inspect_network(net, torch.rand(2, 3, side, side))
    assert net.passes == passes
    net[1] = nn.ReLU6()  # another network now: what was found of the first is dropped
    inspect_network(net, torch.rand(1, 3, 6, 6))
    assert net.passes > passes


def test_a_network_is_looked_at_again_for_another_number_of_channels() -> None:
    net = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    for channels in (3, 5):
        (row,) = describe_layers(net, torch.rand(1, channels, 6, 6))
        assert (row.name, row.shape) == ("0", (channels, 6, 6))


def test_a_batch_of_another_size_is_no_reason_to_look_again() -> None:
    net = counted()
    for n in (2, 3, 4):
        before = net.passes
        sightline.explain(net, torch.rand(n, 3, 6, 6), method="gradcam", classes=0)
    assert net.passes == before + 1


def test_only_what_lies_behind_the_layer_runs_for_changed_activations() -> None:
    net, x = counted(), torch.rand(1, 3, 6, 6)
    runs = []
    net[0].register_forward_hook(lambda *_: runs.append(1))
    evidence = observe(net, x, [LayerRef("1")])
    rescore = evidence.rescorer()
    runs.clear()
    expected = net[2:](2 * evidence.activations)
    torch.testing.assert_close(rescore(2 * evidence.activations, torch.tensor([0])), expected)
    assert not runs


# Names


class Twice(nn.Module):
    """The image is cut into patches by reshaping; one block is called twice and another once."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.last = nn.Linear(48, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, 4, stride=4).transpose(1, 2)
        once = self.block(self.embed(patches))
        return self.fc(self.last(self.block(once)).mean(1))


def test_layers_of_tokens_that_are_called_twice_are_numbered() -> None:
    names = [row.name for row in describe_layers(Twice().eval(), torch.rand(1, 3, 16, 16))]
    assert names == ["embed", "block#0", "block#1", "last"]


class Flat(nn.Module):
    """One resolution, and a function behind the last module."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x))).relu().mean((2, 3))


def test_the_stage_of_a_network_with_one_resolution_is_its_last_module() -> None:
    assert last_stages(Flat().eval(), torch.rand(1, 3, 8, 8)) == ("c",)


def test_only_a_pass_of_the_images_themselves_is_watched() -> None:
    net, x = Flat().eval(), torch.rand(1, 3, 8, 8)
    with torch.no_grad(), watched(net, ["b"], x) as seen:
        net(x + 1)
        net(x)
        net(x - 1)
        expected = net.b(net.a(x))
    assert torch.equal(seen()[0], expected)


# What is given besides the image


class Masked(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return (x * mask).sum((2, 3))


def test_inputs_are_those_of_one_image_unless_more_are_stated() -> None:
    masks = torch.ones(2, 1, 1, 2)
    with pytest.raises(InputError, match=r"has 2 rows, .* for 1 image; expected"):
        holding(Masked(), {"mask": masks})
    assert holding(Masked(), {"mask": masks}, 2)(torch.ones(2, 3, 1, 2)).tolist() == [[2, 2, 2]] * 2


def test_a_scripted_network_takes_no_further_inputs() -> None:
    with warnings.catch_warnings():  # TorchScript is deprecated
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(nn.ReLU(), torch.ones(1))
    with pytest.raises(UnsupportedError, match="is TorchScript, and inputs= needs the Python network"):
        holding(scripted, {})


# A pass


class InPlace(nn.Module):
    """What the function in place returns is thrown away: the network goes on with the tensor that it changed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv(x)
        torch.relu_(a)
        return self.fc(a.mean((2, 3)))


def test_a_function_in_place_is_a_layer() -> None:
    net, x = InPlace().eval(), torch.rand(2, 3, 6, 6)
    found = sightline.explain(net, x, method="gradcam", classes=1)
    assert found.layers == ["network:relu_@1"]
    expected = torch.einsum("c,nchw->nhw", net.fc.weight[1] / 36, net.conv(x).relu()).relu()
    torch.testing.assert_close(found.maps[:, 0], expected.detach())


class Weighted(nn.Module):
    """The image itself weighs what comes behind the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) * x).mean((2, 3))


def test_an_image_made_in_inference_mode_may_be_used_behind_the_layer() -> None:
    net = Weighted().eval()
    with torch.inference_mode():
        frozen = torch.rand(1, 3, 6, 6)
    x = frozen.clone()
    maps = sightline.explain(net, frozen, method="gradcam", classes=0, layer="body").maps
    assert torch.equal(maps, sightline.explain(net, x, method="gradcam", classes=0, layer="body").maps)
    torch.testing.assert_close(maps[0, 0], (x[0, 0].mean() / 36 * net.body(x)[0, 0]).detach())


class Frozen(nn.Module):
    """A trunk in inference mode, whose tensors autograd does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            a = self.body(x).relu()
        return self.fc(a.clone().mean((2, 3)))


def test_a_layer_inside_a_trunk_in_inference_mode() -> None:
    net, x = Frozen().eval(), torch.rand(1, 3, 6, 6)
    maps = sightline.explain(net, x, method="gradcam", classes=1, layer="body").maps[0, 0]
    g = net.fc.weight[1, :, None, None] / 36 * (net.body(x)[0] > 0)
    torch.testing.assert_close(maps, (g.mean((1, 2), keepdim=True) * net.body(x)[0]).sum(0).relu().detach())


class Aside(nn.Module):
    """A layer whose output is thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.aside = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.aside(x)
        return self.used(x).mean((2, 3))


def test_a_layer_that_the_target_does_not_depend_on() -> None:
    net, x = Aside().eval(), torch.rand(1, 3, 4, 4)
    right = lambda output: output["right"][:, 0]  # noqa: E731
    with pytest.raises(InputError, match="no gradient reaches layer 'left' from the target"):
        sightline.explain(TwoHeads().eval(), x, method="gradcam", target=right, layer="left")
    first = lambda output: output[:, 0]  # noqa: E731
    evidence = observe(net, x, [LayerRef("aside"), LayerRef("used")])
    none, some = evidence.gradients(first)  # type: ignore[arg-type]
    assert not none.any()
    assert torch.equal(some[0, 0], torch.full((4, 4), 1 / 16))
    with pytest.raises(InputError, match="the target does not depend on layer 'aside'"):
        observe(net, x, [LayerRef("aside")]).gradient(first)  # type: ignore[arg-type]


def test_a_pass_is_observed_as_it_is_unless_guided_is_asked_for() -> None:
    smooth = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    evidence = observe(smooth.eval(), torch.rand(1, 3, 6, 6), [LayerRef("1")], input_gradient=True)
    with pytest.raises(RuntimeError, match="must be registered with needs"):
        evidence.input_gradient(lambda output: output[:, 0], guided=True)  # type: ignore[arg-type]
    assert evidence.input_gradient(lambda output: output[:, 0]).shape == (1, 3, 6, 6)  # type: ignore[arg-type]


def test_guided_backpropagation_needs_one_relu() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    with pytest.raises(UnsupportedError, match="needs ReLU and this network has none"):
        sightline.explain(net, torch.rand(1, 3, 2, 2), method="guided_backprop", classes=0)


def test_nothing_is_observed_in_inference_mode() -> None:
    with pytest.raises(InputError, match=r"called inside torch\.inference_mode\(\)"), torch.inference_mode():
        observe(counted(), torch.rand(1, 3, 6, 6), [LayerRef("1")])


def test_a_compiled_part_runs_as_it_is_written_while_it_is_observed() -> None:
    compiled: list[int] = []

    def backend(graph: Any, _: Any) -> Any:
        compiled.append(1)
        return graph

    net = nn.Sequential(nn.Conv2d(3, 4, 3), torch.compile(nn.ReLU(), backend=backend)).eval()
    with eval_mode(net), eval_mode(net):
        net(torch.rand(1, 3, 6, 6))
    assert not compiled
    with torch.no_grad():
        net(torch.rand(1, 3, 6, 6))
    assert compiled


def test_the_graph_up_to_a_layer_gives_that_layer() -> None:
    net, x = counted(), torch.rand(1, 3, 6, 6)
    graph = graph_until(net, "1")
    assert [node.op for node in graph.nodes] == ["placeholder", "call_module", "call_module", "output"]
    assert torch.equal(torch.fx.GraphModule(net, graph)(x), net[:2](x))


def test_what_an_operation_shows() -> None:
    net, x = Flat().eval(), torch.rand(2, 3, 8, 8)
    target = inspect_network(net, x).target
    assert target is not None
    assert target.function == "relu"
    seen = shown(net, x, target)
    assert seen is not None
    assert torch.equal(seen, net.c(net.b(net.a(x))).relu().detach())


def test_the_layers_of_a_reader_are_those_that_lead_to_the_score() -> None:
    net = counted()
    reader = Reader(net, record(net, torch.rand(1, 3, 6, 6)))
    assert [call.module for call in reader.live_calls()] == ["0", "1", "2", "3", "4"]
