"""Method strings, and the pass that a method needs: every part alone and with others, each refusal in its words."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.errors import InputError, UnsupportedError
from sightline.heatmap import upsample
from sightline.inspection.layout import Layout
from sightline.methods import get_method
from sightline.methods.combinators import combined, tencrop
from sightline.methods.named import forget_method_name, name_method, named_methods
from sightline.methods.observation import MOST_SHARED, observe_for, own_pass, shareable, shared_passes
from sightline.methods.options import parse_options
from sightline.methods.spec import Affinity, MethodSpec, Smooth, parse_method, parse_methods
from sightline.types import BoxRule
from toynets import TokenToy, build, make_images, prepare

WALK = Affinity(power=(6.0, 3.0, 4.0), stages=3)


@pytest.mark.parametrize(
    ("text", "spec", "label"),
    [
        ("cam", MethodSpec("cam"), "cam"),
        (" cam : nwc = true ", MethodSpec("cam", {"nwc": True}), "cam nwc=true"),
        ("cam:flip:tencrop", MethodSpec("cam", flip=True, tencrop=True), "cam flip tencrop"),
        ("cam:layer= a , b,", MethodSpec("cam", layers=("a", "b")), "cam layer=a+b"),
        ("cam:scales=1, 1.5", MethodSpec("cam", scales=(1.0, 1.5)), "cam scales=1,1.5"),
        ("cam:affinity", MethodSpec("cam", affinity=Affinity()), "cam affinity"),
        (
            "cam:affinity.stages=a,b:affinity.power=2",
            MethodSpec("cam", affinity=Affinity(2.0, stages=("a", "b"))),
            "cam affinity affinity.power=2 affinity.stages=a,b",
        ),
        (
            "cam:affinity.grid=2:affinity.steps=0",
            MethodSpec("cam", affinity=Affinity(steps=0, grid=2)),
            "cam affinity affinity.steps=0 affinity.grid=2",
        ),
        ("cam:smooth.seed=3", MethodSpec("cam", smooth=Smooth(seed=3)), "cam smooth smooth.seed=3"),
        ("saliency:smooth=0.02", MethodSpec("saliency", {"smooth": 0.02}), "saliency smooth=0.02"),
        ("saliency:smooth", MethodSpec("saliency", smooth=Smooth()), "saliency smooth"),
    ],
)
def test_a_method_string_and_its_label(text: str, spec: MethodSpec, label: str) -> None:
    assert parse_method(text) == spec
    assert spec.label == label
    assert spec.rule is None
    assert spec.combines == (label not in ("cam", "cam nwc=true", "saliency smooth=0.02"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cam::flip", "has an empty part; expected NAME:OPTION=VALUE:combinator"),
        (" ", "unknown method ''"),
        ("camm", "unknown method 'camm'; did you mean 'cam'"),
        ("localize", "unknown method 'localize'; did you mean 'localise'"),
        ("cam:flip:flip", "flip is given twice in 'cam:flip:flip'"),
        ("cam:flip=1", "expected 'flip' alone$"),
        ("cam:affinity=2", r"expected 'affinity' alone, or a setting such as affinity\.power=4"),
        ("saliency:smooth.x=2", "unknown smooth option 'x'"),
        ("cam:flip.x=2", "'flip.x=2' in 'cam:flip.x=2'; expected flip"),
        ("cam:scales.x=2", "expected scales=1,1.5,2"),
        ("cam:scales", "'scales' in 'cam:scales' has no value; expected e.g. scales=1,1.5,2"),
        ("cam:layer= ,", "has no value; expected e.g. layer=layer3,layer4"),
        ("cam:affinity.power", "has no value; expected e.g. affinity.power=4"),
        ("cam:scales=a", "scales='a'; expected comma-separated numbers"),
        ("cam:scales=1,0", "scales=1,0; expected factors of the input size"),
        ("cam:scales=inf", "scales=inf; expected factors"),
        ("cam:affinity.stages=0", "affinity.stages"),
        ("cam:affinity.stages=4", "affinity.stages=4; expected 1, 2, 3, or names of layers"),
        ("cam:affinity.grid=1", "affinity.grid"),
        ("cam:affinity.steps=101", "affinity.steps"),
    ],
)
def test_a_method_string_that_is_none(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_method(text)


def test_the_power_of_each_stage() -> None:
    assert Affinity(3.0).powers(2) == (3.0, 3.0)
    assert [WALK.powers(n) for n in (3, 2, 1)] == [(6, 3, 4), (3, 4), (4,)]
    assert Affinity((1.0, 2.0), stages=("a", "b")).powers(2) == (1, 2)
    with pytest.raises(InputError, match="power=1,2 for 1 stage; expected one power, or one per stage"):
        Affinity((1.0, 2.0)).powers(1)
    with pytest.raises(InputError, match="power=1 for 2 stages;"):
        Affinity((1.0,), stages=2).powers(2)
    with pytest.raises(InputError, match="stages is empty"):
        Affinity(stages=())


def test_a_name_with_other_settings_behind_it() -> None:
    name_method(
        "mine", "cam:nwc=true:affinity.power=2:affinity.steps=3:smooth.samples=4", BoxRule(0.7), "a test"
    )
    try:
        mine = parse_method("mine")
        assert (mine.alias, mine.label, mine.rule) == ("mine", "mine", BoxRule(0.7))
        assert named_methods()["mine"].summary == "a test"
        changed = parse_method("mine:affinity.steps=1:smooth.seed=9:bias=true:layer=a:scales=2")
        assert (changed.alias, changed.rule) == ("", None)
        assert changed.options == {"nwc": True, "bias": True}
        assert changed.affinity == Affinity(2.0, 1)
        assert changed.smooth == Smooth(4, seed=9)
        assert (changed.layers, changed.scales, changed.flip, changed.tencrop) == (
            ("a",),
            (2.0,),
            False,
            False,
        )
        assert parse_method("mine:affinity").affinity == Affinity(2.0, 3)
        assert parse_method("mine:nwc=false").options == {"nwc": False}
        name_method("mine", "cam:flip:tencrop:layer=a:scales=2")
        again = parse_method("mine:nwc=true:affinity.power=5")
        assert (again.flip, again.tencrop, again.layers, again.scales) == (True, True, ("a",), (2.0,))
        assert (again.affinity, again.smooth) == (Affinity(5.0), None)
        assert parse_method("mine").rule == BoxRule()
    finally:
        forget_method_name("mine")
    assert "mine" not in named_methods()


def test_what_is_given_for_all_methods_goes_to_those_that_have_it() -> None:
    specs = parse_methods(["cam:layer=a:nwc=false", "rise", "localise"], ["nwc=true", "rise.masks=8"], ["b"])
    assert [spec.options for spec in specs] == [{"nwc": False}, {"masks": 8}, {"nwc": True}]
    assert [spec.layers for spec in specs] == [("a",), (), ("b",)]
    assert [spec.alias for spec in specs] == ["", "", ""]
    assert [spec.flip for spec in parse_methods(["cam", "localise-fast"], flip=True)] == [True, True]
    plain = parse_methods(["localise", "cam"])
    assert (plain[0].alias, plain[0].rule, plain[1].layout) == ("localise", BoxRule(0.3), "auto")
    laid = parse_methods(["cam", "rise"], layers=["a"], layout="nhwc")
    assert [spec.layout for spec in laid] == ["nhwc", "auto"]
    assert laid[0].label == "cam layer=a layout=nhwc"
    for given, message in (
        ({"layers": ["a"]}, "layer='a' was given, but rise, occlusion takes no layer"),
        ({"layout": "nhwc"}, "layout='nhwc' was given, but rise, occlusion takes no layer"),
        ({"options": ["nwc=1"]}, "unknown option of rise and occlusion: 'nwc'"),
    ):
        with pytest.raises(InputError, match=message):
            parse_methods(["rise", "occlusion"], **given)
    with pytest.raises(InputError, match="was given without a layer; name the layer that it describes"):
        MethodSpec("cam", layout="nhwc")
    with pytest.raises(InputError, match=r"scales=2 shows others"):
        MethodSpec("cam", layers=("a",), scales=(2,), layout="ntc:2x2")


def test_options_by_name_or_by_method_and_name() -> None:
    assert parse_options(["cam", "scorecam"], ["nwc=yes", "channels=2"]) == {
        "cam": {"nwc": True},
        "scorecam": {"nwc": True, "channels": 2},
    }
    for pairs, message in (
        (["nwc=1", "nwc=0"], "option nwc is given twice, '1' and '0'"),
        (["nwc=maybe"], "option nwc='maybe' of cam"),
        (["gradcam.nwc=1"], "unknown method in the option's name 'gradcam'; .*'cam'"),
    ):
        with pytest.raises(InputError, match=message):
            parse_options(["cam"], pairs)


# The order of combinators


def test_combinators_go_from_the_inside_out_and_photos_are_read_again_by_the_outermost() -> None:
    asked: list[tuple[int, int]] = []

    def resized(size_hw: tuple[int, int]) -> Tensor:
        asked.append(size_hw)
        return torch.rand(1, 1, *size_hw, generator=torch.Generator().manual_seed(0))

    def first(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
        layers.append(layer)
        return images[:, :1]

    layers: list[Any] = []
    x, none = torch.zeros(1, 1, 7, 14), torch.zeros(1, 1)
    combined(first, MethodSpec("cam", tencrop=True), resized)(nn.Identity(), x, none)
    assert asked == [(8, 16)]
    assert set(layers) == {None}
    asked.clear()
    both = MethodSpec("cam", tencrop=True, scales=(2,), layers=("a",))
    found = combined(first, both, resized)(nn.Identity(), x, none)
    assert asked == [(14, 28)]  # the crops are cut from the image at twice its size
    assert set(layers) == {None, "a"}
    inner = upsample(tencrop(first)(nn.Identity(), resized((14, 28)), none), (7, 14))
    torch.testing.assert_close(found, inner / inner.max())
    layers.clear()
    combined(first, MethodSpec("fullycam", layers=("a", "b")))(nn.Identity(), x, none)
    assert layers == [["a", "b"]]


# The pass that a method needs


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
    """Its scores are the head's, times a factor that can be changed after the network was looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc, self.factor = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), 1.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(self.body(x).relu().mean((2, 3)))
        return y if self.factor == 1 else y * self.factor


@pytest.mark.parametrize("size", [1e-2, 1.0, 1e3])
def test_scores_that_are_half_a_per_cent_beside_the_head_s_are_no_longer_the_head_s(size: float) -> None:
    net, x = prepare(Late()), make_images(1)
    with torch.no_grad():
        net.fc.weight.mul_(size)
        net.fc.bias.mul_(size)
    sightline.explain(net, x, "cam", 0)
    net.factor = 1.0045
    assert sightline.explain(net, x, "cam", 0).maps.shape == (1, 1, 14, 14)
    net.factor = 1.0055
    with pytest.raises(UnsupportedError, match="cam needs a head of pooling and one linear layer"):
        sightline.explain(net, x, "cam", 0)


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
