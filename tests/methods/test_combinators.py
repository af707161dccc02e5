"""Mirror images and fused layers: against the same by hand, and the identities that they keep."""

from __future__ import annotations

from typing import Any

import PIL.Image
import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.errors import InputError
from sightline.heatmap import fuse, propagate, upsample
from sightline.methods.combinators import combined, flipped, multi_layer, propagated, scaled
from sightline.methods.named import forget_method_name, name_method
from sightline.methods.spec import Affinity, MethodSpec, parse_method, parse_methods
from sightline.models.preprocess import Preprocess
from sightline.types import BoxRule
from toynets import TokenToy, make_images, prepare


@pytest.fixture
def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 1, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).double().eval()  # fmt: skip


def method(name: str, **options: Any) -> Any:
    def maps(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
        return sightline.explain(model, images, method=name, classes=classes, layer=layer, **options).maps

    return maps


IMAGES = torch.rand(2, 3, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([[0, 3], [2, 1]])


def test_flipped_is_the_mean_of_both(net: nn.Module) -> None:
    layercam = method("layercam")
    straight = layercam(net, IMAGES, CLASSES)
    mirrored = layercam(net, IMAGES.flip(3), CLASSES).flip(3)
    assert torch.equal(flipped(layercam)(net, IMAGES, CLASSES), (straight + mirrored) / 2)


def test_flipped_commutes_with_the_mirror(net: nn.Module) -> None:
    """M(flip x) = flip M(x), whatever the method."""
    both = flipped(method("gradcam"))
    torch.testing.assert_close(both(net, IMAGES.flip(3), CLASSES), both(net, IMAGES, CLASSES).flip(3))


def test_a_symmetric_image_and_kernel_are_left_alone(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data += module.weight.data.flip(3)
            module.stride = (1, 1)
    symmetric = IMAGES + IMAGES.flip(3)
    cam = method("cam")
    torch.testing.assert_close(flipped(cam)(net, symmetric, CLASSES), cam(net, symmetric, CLASSES))


def test_layers_are_fused_class_by_class(net: nn.Module) -> None:
    layercam = method("layercam")
    found = multi_layer(layercam, ["1", "3"], reduce="max")(net, IMAGES, CLASSES)
    assert found.shape == (2, 2, 9, 12)
    for k in range(2):
        by_hand = fuse(
            [layercam(net, IMAGES, CLASSES, layer=one)[:, k] for one in ("1", "3")], (9, 12), "max"
        )
        torch.testing.assert_close(found[:, k], by_hand)


def test_fully_cam_fuses_its_layers_itself(net: nn.Module) -> None:
    """The combinator of LayerCAM at both convolutions is Fully-CAM; given layers, Fully-CAM takes them at once."""
    whole = method("fullycam")(net, IMAGES, CLASSES)
    torch.testing.assert_close(multi_layer(method("layercam"), ["1", "3"])(net, IMAGES, CLASSES), whole)
    named = combined(method("fullycam"), MethodSpec("fullycam", layers=("1", "3")))
    torch.testing.assert_close(named(net, IMAGES, CLASSES), whole)


def test_a_recipe_fuses_then_mirrors(net: nn.Module) -> None:
    spec = MethodSpec("layercam", layers=("1", "3"), flip=True)
    by_hand = flipped(multi_layer(method("layercam"), ["1", "3"]))
    found = combined(method("layercam"), spec)(net, IMAGES, CLASSES)
    assert torch.equal(found, by_hand(net, IMAGES, CLASSES))
    one = combined(method("layercam"), MethodSpec("layercam", layers=("1",)))
    assert torch.equal(one(net, IMAGES, CLASSES), method("layercam")(net, IMAGES, CLASSES, layer="1"))


def test_wrong_layers_are_refused(net: nn.Module) -> None:
    with pytest.raises(InputError, match="two or more layers; got \\['1'\\]"):
        multi_layer(method("layercam"), ["1"])
    with pytest.raises(InputError, match="reduce='median'"):
        multi_layer(method("layercam"), ["1", "3"], reduce="median")
    with pytest.raises(InputError, match="layer='3' was given to a method that fuses"):
        multi_layer(method("layercam"), ["1", "3"])(net, IMAGES, CLASSES, layer="3")


@pytest.mark.parametrize(
    ("text", "spec", "label"),
    [
        ("cam", MethodSpec("cam"), "cam"),
        ("cam:nwc=true", MethodSpec("cam", {"nwc": True}), "cam nwc=true"),
        ("gradcam:layer=a,b:flip", MethodSpec("gradcam", {}, ("a", "b"), True), "gradcam layer=a+b flip"),
        ("fullycam:layers=a,b", MethodSpec("fullycam", {"layers": ["a", "b"]}), "fullycam layers=a,b"),
    ],
)
def test_what_a_text_means(text: str, spec: MethodSpec, label: str) -> None:
    assert parse_method(text) == spec
    assert spec.label == label


def test_what_holds_for_all() -> None:
    specs = parse_methods(
        ["cam:nwc=false", "gradcam:layer=b", "saliency"], ["nwc=true", "saliency.smooth=0.1"], ["a"]
    )
    assert specs == [
        MethodSpec("cam", {"nwc": False}, ("a",)),
        MethodSpec("gradcam", {"nwc": True}, ("b",)),
        MethodSpec("saliency", {"smooth": 0.1}),  # looks at the image's pixels: no layer
    ]
    with pytest.raises(InputError, match="layer='a' was given, but saliency takes no layer"):
        parse_methods(["saliency"], layers=["a"])
    with pytest.raises(InputError, match="did you mean 'gradcam'"):
        parse_method("grad_cam:flip")


# Several input sizes, and the affinity walk


def test_scales_are_the_mean_over_input_sizes(net: nn.Module) -> None:
    layercam = method("layercam")
    found = scaled(layercam, [1, 2])(net, IMAGES, CLASSES)
    larger = torch.nn.functional.interpolate(IMAGES, size=(18, 24), mode="bilinear", align_corners=False)
    parts = [upsample(layercam(net, x, CLASSES), (9, 12)) for x in (IMAGES, larger)]
    mean = sum(one / one.amax((2, 3), keepdim=True) for one in parts) / 2
    torch.testing.assert_close(found, mean / mean.amax((2, 3), keepdim=True))


def test_one_scale_is_the_map_over_its_maximum(net: nn.Module) -> None:
    maps = upsample(method("layercam")(net, IMAGES, CLASSES), (9, 12))
    found = scaled(method("layercam"), [1.0])(net, IMAGES, CLASSES)
    torch.testing.assert_close(found, maps / maps.amax((2, 3), keepdim=True))


def test_scales_take_the_larger_images_from_where_they_are_made(net: nn.Module) -> None:
    asked: list[tuple[int, int]] = []

    def photo(size_hw: tuple[int, int]) -> Tensor:
        asked.append(size_hw)
        return torch.ones(2, 3, *size_hw, dtype=torch.float64)

    found = scaled(method("layercam"), [1, 1.5], photo)(net, IMAGES, CLASSES)
    assert asked == [(14, 18)]  # 9 · 1.5 = 13.5, to the even one
    parts = [method("layercam")(net, x, CLASSES).flatten(0, 1) for x in (IMAGES, photo((14, 18)))]
    torch.testing.assert_close(found, fuse(parts, (9, 12)).view(2, 2, 9, 12))


def test_affinity_walks_on_the_stage_of_the_same_pass(net: nn.Module) -> None:
    passes: list[int] = []
    handle = net[0].register_forward_hook(lambda m, args, out: passes.append(len(out)))
    method("gradcam")(net, IMAGES, CLASSES)
    alone = len(passes)
    found = propagated(method("gradcam"), Affinity(power=3, steps=1))(net, IMAGES, CLASSES)
    handle.remove()
    assert len(passes) == alone + 1  # the structure is known by now: one pass for all of it
    features = net[:2](IMAGES).detach()  # the maps before the resolution falls
    by_hand = propagate(method("gradcam")(net, IMAGES, CLASSES), features, 3, 1)
    torch.testing.assert_close(found, by_hand)
    assert found.shape == (2, 2, 9, 12)
    named = propagated(method("gradcam"), Affinity(3, 1, ("1",)))(net, IMAGES, CLASSES)
    assert torch.equal(named, found)


def test_affinity_on_two_stages_is_their_mean(net: nn.Module) -> None:
    cam = method("cam", nwc=True)
    maps = cam(net, IMAGES, CLASSES)
    fine, coarse = net[:2](IMAGES).detach(), net[:3](IMAGES).detach()
    by_hand = fuse([propagate(maps, f).flatten(0, 1) for f in (fine, coarse)], (9, 12)).view(2, 2, 9, 12)
    torch.testing.assert_close(propagated(cam, Affinity(stages=2))(net, IMAGES, CLASSES), by_hand)


def test_a_power_for_each_stage(net: nn.Module) -> None:
    cam = method("cam", nwc=True)
    maps = cam(net, IMAGES, CLASSES)
    stages = zip((net[:2](IMAGES).detach(), net[:3](IMAGES).detach()), (8.0, 3.0), strict=True)
    by_hand = fuse([propagate(maps, f, p).flatten(0, 1) for f, p in stages], (9, 12)).view(2, 2, 9, 12)
    for powers, count in (
        ((8.0, 3.0), 2),
        ((9.0, 8.0, 3.0), 3),
    ):  # this network has two stages: the last powers
        found = propagated(cam, Affinity(powers, stages=count))(net, IMAGES, CLASSES)
        torch.testing.assert_close(found, by_hand)


def test_as_many_powers_as_stages(net: nn.Module) -> None:
    assert parse_method("localise:affinity.power=9,3,4").affinity == Affinity((9.0, 3.0, 4.0), stages=3)
    with pytest.raises(
        InputError, match=r"affinity\.power=8,4 for 1 stage; expected one power, or one per stage"
    ):
        sightline.explain(net, IMAGES, "cam:affinity.power=8,4")


def test_a_finer_stage_is_averaged_to_the_grid(net: nn.Module) -> None:
    found = propagated(method("gradcam"), Affinity(grid=5))(net, IMAGES, CLASSES)
    assert found.shape == (2, 2, 4, 5)  # 9×12 has 108 positions, 25 are allowed


def test_affinity_refuses_a_layer_without_a_map(net: nn.Module) -> None:
    with pytest.raises(InputError, match="layer '6' showed no map"):
        propagated(method("cam"), Affinity(stages=("6",)))(net, IMAGES, CLASSES)
    with pytest.raises(InputError, match="unknown layer 'fc'"):
        propagated(method("cam"), Affinity(stages=("fc",)))(net, IMAGES, CLASSES)
    assert not any(module._forward_hooks for module in net.modules())


def test_everything_from_the_inside_out(net: nn.Module) -> None:
    spec = parse_method("cam:nwc=true:flip:scales=1,1.5:affinity:affinity.stages=2")
    cam = method("cam", nwc=True)
    by_hand = scaled(propagated(flipped(cam), Affinity(stages=2)), [1, 1.5])
    assert torch.equal(combined(cam, spec)(net, IMAGES, CLASSES), by_hand(net, IMAGES, CLASSES))


def test_localise_is_the_class_map_of_positive_weights(net: nn.Module) -> None:
    for name, threshold in (("localise", 0.3), ("localise-fast", 0.4)):
        spec = parse_method(name)
        assert spec.label == name
        assert spec.rule == BoxRule(threshold=threshold)
        gradcam, cam = method(spec.name, **spec.options), method("cam", nwc=True)
        found = combined(gradcam, spec)(net, IMAGES, CLASSES)
        torch.testing.assert_close(found, combined(cam, spec)(net, IMAGES, CLASSES))
        assert found.amax((2, 3)).flatten().tolist() == pytest.approx([1] * 4)
    changed = parse_method("localise:scales=1")
    assert changed.scales == (1,)
    assert changed.rule is None  # it is no longer what the threshold was chosen for


def test_a_name_of_ones_own() -> None:
    name_method("sharp", "layercam:flip", BoxRule(threshold=0.5))
    try:
        assert parse_method("sharp") == parse_method("layercam:flip")
        assert parse_method("sharp").rule == BoxRule(threshold=0.5)
    finally:
        forget_method_name("sharp")
    with pytest.raises(InputError, match="unknown method 'sharp'"):
        parse_method("sharp")
    with pytest.raises(InputError, match="one word without"):
        name_method("a:b", "cam")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cam:scales=1,big", "expected comma-separated numbers"),
        ("cam:scales=1,0", "expected factors of the input size"),
        ("cam:affinity.powr=2", "did you mean 'power'"),
        ("cam:affinity.power=many", "affinity.power='many': expected a number above 0"),
        ("cam:affinity.grid=1", "expected an integer of at least 2"),
        ("cam:afinity", "option 'afinity'"),
        ("locallise", "did you mean 'localise'"),
    ],
)
def test_combinators_typed_wrongly(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_method(text)


# Everywhere a method string is read


def photo(side: int) -> PIL.Image.Image:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (side, side, 3), generator=generator, dtype=torch.uint8)
    return PIL.Image.fromarray(pixels.numpy())


def loaded(net: nn.Module) -> sightline.LoadedModel:
    return sightline.load_model(net.float(), transform=Preprocess((12, 12), resize=12))


def test_explain_reads_photos_again_for_larger_inputs(net: nn.Module) -> None:
    model, seen = loaded(net), []
    net[0].register_forward_hook(lambda m, args, out: seen.append(args[0]))
    found = sightline.explain(model, photo(24), "layercam:scales=1,2", classes="top2")
    assert found.maps.shape == (1, 2, 12, 12)
    sharp = Preprocess((24, 24), resize=24).prepare(photo(24))[0]
    assert torch.equal(seen[-1][0], sharp)  # the photo's own pixels, not the 12 × 12 enlarged
    by_hand = scaled(method("layercam"), [1, 2], lambda size_hw: sharp[None])
    small = Preprocess((12, 12), resize=12).prepare(photo(24))[0][None]
    torch.testing.assert_close(found.maps, by_hand(net, small, found.classes))
    assert found.method == "layercam scales=1,2"


@pytest.mark.parametrize("text", ["cam:scales=2", "cam:scales=2,1", "cam:scales=2:affinity"])
def test_classes_are_those_of_the_photo_at_its_own_size(net: nn.Module, text: str) -> None:
    found = sightline.explain(net, IMAGES, text, classes="top2")
    plain = sightline.explain(net, IMAGES, "cam", classes="top2")
    assert torch.equal(found.classes, plain.classes)
    assert torch.equal(found.logits, plain.logits)


def test_localise_fast_is_one_pass_and_brings_its_threshold(net: nn.Module) -> None:
    passes: list[int] = []
    net[0].register_forward_hook(lambda m, args, out: passes.append(len(out)))
    sightline.explain(net, IMAGES, "localise-fast")
    passes.clear()
    found = sightline.explain(net, IMAGES, "localise-fast")
    assert passes == [2]
    assert found.box_rule() == BoxRule(0.4)
    assert found.box_rule(select="all") == BoxRule(0.4, select="all")
    assert found.box_rule(threshold=0.2) == found.box_rule(BoxRule(0.2)) == BoxRule(0.2)
    assert found.box_rule(relative_to="percentile").threshold == 0.35  # that of the percentile
    assert torch.equal(found.boxes()[0][0], found.boxes(0.4)[0][0])
    assert sightline.explain(net, IMAGES, "cam:flip").box_rule() == BoxRule(0.2)


def test_a_layer_beside_a_combinator_is_used(net: nn.Module) -> None:
    found = sightline.explain(net, IMAGES, "layercam:flip", classes=1, layer="1")
    by_hand = sightline.explain(net, IMAGES, "layercam:layer=1:flip", classes=1)
    assert torch.equal(found.maps, by_hand.maps)
    assert found.layers == ["1"]


def test_targets_go_through_combinators_unless_they_name_a_place(net: nn.Module) -> None:
    contrast = sightline.targets.Contrast(2, 0)
    found = sightline.explain(net, IMAGES, "gradcam:flip:affinity", target=contrast).maps
    straight, mirrored = (
        sightline.explain(net, x, "gradcam", target=contrast).maps for x in (IMAGES, IMAGES.flip(3))
    )
    by_hand = propagate((straight + mirrored.flip(3)) / 2, net[:2](IMAGES).detach())
    torch.testing.assert_close(found, by_hand)
    place = sightline.targets.Detection([0, 0, 4, 4], 1)
    with pytest.raises(
        InputError, match=r"Detection\(.* names a place in the image, and flip and scales move it"
    ):
        sightline.explain(net, IMAGES, "gradcam:flip", target=place)


def test_affinity_walks_on_tokens_too() -> None:
    net, x = prepare(TokenToy()), make_images()
    maps = sightline.explain(net, x, "gradcam").maps
    found = sightline.explain(net, x, "gradcam:affinity").maps
    tokens = net.norm(net.block(torch.cat([net.token.expand(2, -1, -1), patches(net, x)], 1)))[:, 1:]
    features = tokens.transpose(1, 2).reshape(2, 6, 4, 4).detach()
    torch.testing.assert_close(found, propagate(maps, features))


def patches(net: TokenToy, x: Tensor) -> Tensor:
    return net.patch(x).relu().flatten(2).transpose(1, 2)


def test_layers_and_their_layout_go_to_the_methods_that_have_a_layer() -> None:
    first, second, third = parse_methods(["cam", "saliency", "gradcam:layer=b"], (), ["a"], layout="nhwc")
    assert [one.layers for one in (first, second, third)] == [("a",), (), ("b",)]
    assert [one.layout for one in (first, second, third)] == ["nhwc", "auto", "nhwc"]


def test_a_name_of_the_whole_is_shown_and_not_compared() -> None:
    named = MethodSpec("cam", {"nwc": True}, alias="mine")
    assert named == MethodSpec("cam", {"nwc": True})
    assert (named.label, MethodSpec("cam", {"nwc": True}).label) == ("mine", "cam nwc=true")
