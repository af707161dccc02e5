"""The pass that a method needs: what is shared, which layers are looked at, and what is verified of the head."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.errors import InputError, UnsupportedError
from sightline.inspection.layout import Layout
from sightline.methods import get_method
from sightline.methods.observation import MOST_SHARED, observe_for, own_pass, shareable, shared_passes
from toynets import TokenToy, build, make_images, prepare


def test_methods_of_one_layer_share_a_pass_of_the_same_images() -> None:
    net, x = build("gap"), make_images(2)
    cam, gradcam, hires = get_method("cam"), get_method("gradcam"), get_method("hirescam")
    assert [shareable(get_method(m)) for m in ("cam", "fullycam", "rise", "guided_gradcam")] == [
        True,
        False,
        False,
        False,
    ]
    assert observe_for(cam, net, x)[0] is not observe_for(cam, net, x)[0]
    with shared_passes():
        one = observe_for(cam, net, x)[0]
        assert observe_for(gradcam, net, x.clone())[0] is one
        assert observe_for(hires, net, x, "features")[0] is one
        for other in (
            observe_for(gradcam, net, x.flip(-1))[0],
            observe_for(gradcam, net, x[:1])[0],
            observe_for(gradcam, net, x, "features.1")[0],
            observe_for(gradcam, build("gap"), x)[0],
            observe_for(get_method("rise"), net, x)[0],
        ):
            assert other is not one
        with own_pass():
            assert observe_for(gradcam, net, x)[0] is not one
    with shared_passes():
        kept = [observe_for(cam, net, x + i)[0] for i in range(MOST_SHARED + 1)]
        assert observe_for(cam, net, x + 1)[0] is kept[1]
        assert observe_for(cam, net, x)[0] is not kept[0]


@pytest.mark.parametrize(
    ("method", "how", "message"),
    [
        (
            "rise",
            {"layer": "features"},
            "'rise' explains the image's pixels and takes no layer; got 'features'",
        ),
        ("cam", {"layout": 3}, "layout=3; expected 'auto', a Layout, or its text"),
        ("cam", {"layout": "nhwc"}, "layout='nhwc' was given without a layer"),
        (
            "gradcam",
            {"layer": ["features.1", "features.4"]},
            "explains one layer; got 2; 'fullycam' fuses several",
        ),
        ("gradcam", {"layer": []}, "explains one layer; got 0"),
        ("fullycam", {"options": {"layers": []}}, r"layers=\[\]; expected 'convs', 'stages' or names"),
    ],
)
def test_a_layer_that_a_method_cannot_take(method: str, how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        observe_for(get_method(method), build("gap"), make_images(1), **how)


def test_a_layer_alone_in_a_list_is_that_layer() -> None:
    net, x = build("gap"), make_images(1)
    _, sites = observe_for(get_method("gradcam"), net, x, ["features.1"])
    assert [site.name for site in sites] == ["features.1"]
    _, sites = observe_for(get_method("fullycam"), net, x, ["features.1", "features.4"])
    assert [site.name for site in sites] == ["features.1", "features.4"]
    _, sites = observe_for(get_method("gradcam"), net, x, "features.1", layout=Layout.parse("nchw"))
    assert str(sites[0].layout) == "nchw"


class Cut(torch.autograd.Function):
    """Passes on what it gets, and no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> None:
        return None


class Deaf(nn.Module):
    def __init__(self, cut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.fc, self.cut = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), cut

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.cut(self.body(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("cut", "message"),
    [(Tensor.detach, "no gradient reaches layer 'body'"), (Cut.apply, "does not depend on layer 'body'")],
)
def test_a_layer_that_no_gradient_reaches_is_refused_by_methods_that_need_one(
    cut: Callable[[Tensor], Tensor], message: str
) -> None:
    net = prepare(Deaf(cut))
    with pytest.raises(InputError, match=message):
        sightline.explain(net, make_images(1), "gradcam", 0, layer="body")
    assert sightline.explain(net, make_images(1), "recipro_cam", 0, layer="body").maps.max() > 0


class Late(nn.Module):
    """Its scores are the head's, times a factor that changes unseen after the network was looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc, self.factor = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), [1.0]

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(self.body(x).relu().mean((2, 3)))
        return y if self.factor[0] == 1 else y * self.factor[0]


@pytest.mark.parametrize("size", [1e-2, 1.0, 1e3])
def test_scores_that_are_half_a_per_cent_beside_the_head_s_are_no_longer_the_head_s(size: float) -> None:
    net, x = prepare(Late()), make_images(1)
    with torch.no_grad():
        net.fc.weight.mul_(size)
        net.fc.bias.mul_(size)
    sightline.explain(net, x, "cam", 0)
    net.factor[0] = 1.0045
    assert sightline.explain(net, x, "cam", 0).maps.shape == (1, 1, 14, 14)
    net.factor[0] = 1.0055
    with pytest.raises(UnsupportedError, match="cam needs a head of pooling and one linear layer"):
        sightline.explain(net, x, "cam", 0)


@pytest.mark.parametrize(("factor", "accepted"), [(1.04, True), (1.07, False)])
def test_in_half_precision_five_per_cent_beside_the_head_s_scores_are_rounding(
    factor: float, accepted: bool
) -> None:
    net, x = prepare(Late(), dtype=torch.bfloat16), make_images(1, dtype=torch.bfloat16)
    sightline.explain(net, x, "cam", 0)
    net.factor[0] = factor
    if accepted:
        sightline.explain(net, x, "cam", 0)
    else:
        with pytest.raises(UnsupportedError, match="cam needs a head"):
            sightline.explain(net, x, "cam", 0)


class ConvHead(nn.Module):
    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.classes, self.pool = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 1), pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.classes(self.body(x).relu()))


@pytest.mark.parametrize("pool", [lambda x: x.amax((2, 3)), lambda x: x.mean((2, 3))], ids=["max", "mean"])
def test_cam_of_a_class_convolution_is_its_map_whatever_pools_it(pool: Callable[[Tensor], Tensor]) -> None:
    net, x = prepare(ConvHead(pool)), make_images(2)
    found = sightline.explain(net, x, "cam:bias=true", [0, 2]).maps
    torch.testing.assert_close(found, net.classes(net.body(x).relu())[:, [0, 2]].detach())


def test_methods_say_what_they_need_instead() -> None:
    x = make_images(1)
    with pytest.raises(UnsupportedError, match="fuses convolutions and this network has none"):
        sightline.explain(prepare(TokenToy()), x, "fullycam", 0)
    with pytest.raises(
        UnsupportedError, match=r"cam reads the layer before the pooling, 'features', not 'features\.1'"
    ):
        sightline.explain(build("gap"), x, "cam", 0, layer="features.1")
    with pytest.raises(UnsupportedError, match="cam needs a head of pooling and one linear layer"):
        sightline.explain(build("vgg end"), x, "cam", 0)
    target = SimpleNamespace(classes=None)
    with pytest.raises(UnsupportedError, match="cam explains a class by its weights, not a callable target"):
        get_method("cam").function(observe_for(get_method("cam"), build("gap"), x)[0], target)
