"""The last step down in resolution, found by sizes: networks of every common shape, and where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sightline.errors import UnsupportedError
from sightline.inspection.stages import last_stages
from toynets import build, make_images


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ("layer3", "layer4")),
        ("resnet50", ("layer3", "layer4")),
        ("vgg11", ("features.14", "features.15")),  # its target layer is as large as what the pooling leaves
        ("mobilenet_v2", ("features.13", "features.14")),
        ("squeezenet1_1", ("features.7", "features.8")),
        ("densenet121", ("features.denseblock3", "features.transition3")),
        ("efficientnet_b0", ("features.5", "features.6")),
    ],
)
def test_torchvision(name: str, expected: tuple[str, str]) -> None:
    import torchvision

    net = torchvision.models.get_model(name, weights=None).eval()
    x = torch.zeros(1, 3, 128, 128)
    assert last_stages(net, x, 2) == expected
    assert last_stages(net, x) == expected[:1]


def test_efficientnet_lite0() -> None:
    import timm

    net = timm.create_model("efficientnet_lite0").eval()
    assert last_stages(net, torch.zeros(1, 3, 96, 96), 2) == ("blocks.4", "blocks.5")
    assert last_stages(net, torch.zeros(1, 3, 224, 224)) == ("blocks.4",)


@pytest.mark.parametrize("name", ["gap", "in-place, functional mean", "squeezenet end", "vgg end"])
def test_a_plain_trunk_is_looked_into(name: str) -> None:
    assert last_stages(build(name), make_images(), 2) == ("features.1", "features.2")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ("layer1", "layer2", "layer3", "layer4")),
        ("vgg11", ("features.4", "features.9", "features.14", "features.15")),
        (
            "densenet121",
            ("features.denseblock1", "features.denseblock2", "features.denseblock3", "features.transition3"),
        ),
    ],
)
def test_earlier_stages(name: str, expected: tuple[str, ...]) -> None:
    import torchvision

    net = torchvision.models.get_model(name, weights=None).eval()
    assert last_stages(net, torch.zeros(1, 3, 128, 128), 4) == expected
    assert last_stages(net, torch.zeros(1, 3, 128, 128), 3) == expected[1:]


def test_more_stages_than_there_are() -> None:
    assert last_stages(build("gap"), make_images(), 9)[-2:] == ("features.1", "features.2")


def test_one_resolution_has_one_stage() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    for count in (1, 2, 5):
        assert last_stages(net, torch.zeros(1, 3, 8, 8), count) == ("1",)


def test_a_network_without_maps_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"no stage was found .*affinity.stages=LAYER"):
        last_stages(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), torch.zeros(1, 3, 8, 8))
