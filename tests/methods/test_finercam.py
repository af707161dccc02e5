"""Finer-CAM against the difference of gradients, by hand, and the identities that make it a contrast."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline
from references.more_methods import finercam
from references.plain import each
from sightline.errors import InputError, UnsupportedError
from sightline.methods.finercam import most_similar
from toynets import ALL_TOYS, CLASSES, HandGap, build, image, make_images

PICKED = torch.tensor([[2, 0], [1, 3]])


@pytest.mark.parametrize("options", [{}, {"n": 1}, {"n": 2, "gamma": 0.9}, {"base": "layercam"}], ids=str)
@pytest.mark.parametrize("name", ALL_TOYS)
def test_equals_the_reference(name: str, options: dict[str, object]) -> None:
    net, x = build(name), make_images()
    maps = sightline.explain(net, x, method="finercam", classes=PICKED, **options).maps
    expected = each(finercam, net, x, PICKED, **options)
    assert expected.max() > 1e-3
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-10)


def test_by_hand() -> None:
    # F = (2.5, 0.5, 0): y = (2.5, 2, 0.5, -3). Of class 0 the two nearest are 1 and 2, w = (0, 4, 0) and (0, 1, 0):
    # y_0 - 0.6 · (y_1 + y_2)/2 has w = (1, -1.5, 0): ReLU(A1 - 1.5 A2)/4 = [[1, 0.5], [3, 2.5]]/4.
    x = image([[[1, 2], [3, 4]], [[0, 1], [0, 1]], [[0, 0], [0, 0]]])
    net = HandGap([[1, 0, 0], [0, 4, 0], [0, 1, 0], [0, 0, 0]], [0, 0, 0, -3])
    maps = sightline.explain(net, x, method="finercam", classes=0, layer="body", n=2).maps
    expected = torch.tensor([[1, 0.5], [3, 2.5]], dtype=torch.float64) / 4
    torch.testing.assert_close(maps[0, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("base", ["gradcam", "layercam"])
def test_without_a_comparison_it_is_its_base(base: str) -> None:
    net, x = build("vgg end"), make_images()
    maps = sightline.explain(net, x, method="finercam", classes=PICKED, gamma=0.0, base=base).maps
    torch.testing.assert_close(maps, sightline.explain(net, x, method=base, classes=PICKED).maps)


def test_a_class_that_has_a_twin_disappears() -> None:
    # γ = 1 and one other class with the same weights: nothing tells them apart.
    net, x = build("gap"), make_images()
    with torch.no_grad():
        net.fc.weight[2], net.fc.bias[2] = net.fc.weight[1], net.fc.bias[1]
    maps = sightline.explain(net, x, method="finercam", classes=1, gamma=1.0, n=1).maps
    assert maps.abs().max() < 1e-12


def test_nearest_scores_either_side_and_never_the_class_itself() -> None:
    logits = torch.tensor([[1.0, 5, 4.9, 5.3], [0, 0, 9, -1]])
    assert most_similar(logits, torch.tensor([1, 2]), 3).tolist()[0] == [2, 3, 0]
    assert 2 not in most_similar(logits, torch.tensor([1, 2]), 3)[1]


def test_more_others_than_there_are_takes_all() -> None:
    net, x = build("gap"), make_images()
    all_others = sightline.explain(net, x, method="finercam", classes=PICKED, n=CLASSES - 1).maps
    assert torch.equal(sightline.explain(net, x, method="finercam", classes=PICKED, n=50).maps, all_others)


def test_what_it_refuses() -> None:
    net, x = build("gap"), make_images()
    with pytest.raises(UnsupportedError, match="compares classes"):
        sightline.explain(net, x, method="finercam", target=lambda out: out[:, 0])
    with pytest.raises(InputError, match="did you mean 'gradcam'"):
        sightline.explain(net, x, method="finercam", base="grad_cam")
    with pytest.raises(InputError, match="n=0"):
        sightline.explain(net, x, method="finercam", n=0)
    one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    with pytest.raises(UnsupportedError, match="one output"):
        sightline.explain(one.double(), x, method="finercam", classes=0)
