"""Method strings and combinators: every part alone and with others, each refusal in its words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.errors import InputError
from sightline.heatmap import place, resample, upsample
from sightline.methods import register_method, unregister_method
from sightline.methods.combinators import combined, flipped, propagated, scaled, smoothed, tencrop
from sightline.methods.named import forget_method_name, name_method, named_methods
from sightline.methods.options import parse_options
from sightline.methods.spec import Affinity, MethodSpec, Smooth, parse_method, parse_methods
from sightline.types import BoxRule
from toynets import prepare

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


@pytest.mark.parametrize(
    "around",
    [
        flipped,
        tencrop,
        lambda method: scaled(method, [1, 2]),
        lambda method: smoothed(method, Smooth(2)),
        lambda method: propagated(method, Affinity(stages=("0",))),
    ],
)
def test_the_layer_that_was_asked_for_reaches_the_method_through_each_combinator(
    around: Callable[..., Any],
) -> None:
    asked: list[Any] = []

    def first(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
        asked.append(layer)
        model(images)
        return images[:, :1]

    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.LazyLinear(2))
    net(torch.zeros(1, 3, 7, 7))
    size = nn.Sequential(net[0], nn.AdaptiveAvgPool2d(7), *net[1:]).eval()
    around(first)(size, torch.rand(1, 3, 7, 7), torch.zeros(1, 1), layer="mine")
    assert set(asked) == {"mine"}


class Half(nn.Module):
    """Sees the left half of an image of 16 × 64 pixels, by a map of 8 × 16 cells."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Sequential(nn.Conv2d(3, 6, 3, 2, padding=1), nn.ReLU()), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x[..., :32]).mean((2, 3)))


@pytest.mark.parametrize(("grid", "size"), [(28, (8, 16)), (4, (2, 5))])
def test_a_walk_of_no_steps_shows_a_crop_s_map_where_it_was_on_the_grid_that_was_asked_for(
    grid: int, size: tuple[int, int]
) -> None:
    net = prepare(Half())
    x = torch.randn(1, 3, 16, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    text = f"gradcam:affinity.steps=0:affinity.grid={grid}"
    found = sightline.explain(net, x, text, 1, layer="body").maps
    plain = sightline.explain(net, x, "gradcam", 1, layer="body").maps
    whole, covers = ((0.0, 16.0), (0.0, 64.0)), ((0.0, 16.0), (0.0, 32.0))
    there = upsample(resample(plain, whole, covers, (8, 16)), size)
    torch.testing.assert_close(found, place(there, covers, (16, 64)))


def test_an_option_without_default_must_be_given_to_each_method_that_has_one() -> None:
    def needy(evidence: Any, target: Any, *, power: float) -> Tensor:
        raise NotImplementedError

    register_method("needy", paper="a test")(needy)
    try:
        with pytest.raises(InputError, match="method 'needy' needs its option 'power'"):
            parse_methods(["cam", "needy"])
        assert parse_methods(["cam", "needy"], ["power=2"])[1].options == {"power": 2.0}
    finally:
        unregister_method("needy")
