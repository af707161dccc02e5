"""Mirror images and fused layers: against the same by hand, and the identities that they keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.errors import InputError
from sightline.heatmap import fuse
from sightline.methods.combinators import combined, flipped, multi_layer
from sightline.methods.spec import MethodSpec, parse_method, parse_methods


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
    with pytest.raises(InputError, match="layer='a' was given, and saliency takes no layer"):
        parse_methods(["saliency"], layers=["a"])
    with pytest.raises(InputError, match="did you mean 'gradcam'"):
        parse_method("grad_cam:flip")
