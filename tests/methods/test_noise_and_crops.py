"""The combinators `smooth` and `tencrop`: against the same by hand, and the identities that they keep."""

from __future__ import annotations

from typing import Any

import PIL.Image
import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.errors import InputError
from sightline.heatmap import upsample
from sightline.methods.combinators import smoothed, tencrop
from sightline.methods.spec import MethodSpec, Smooth, parse_method
from sightline.models.preprocess import Preprocess

IMAGES = torch.rand(2, 3, 14, 21, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([[0, 3], [2, 1]])


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    ).double().eval()  # fmt: skip


def cam(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
    return sightline.explain(model, images, "cam", classes=classes, layer=layer).maps


def test_smooth_is_the_mean_over_noisy_images(net: nn.Module) -> None:
    found = sightline.explain(net, IMAGES, "cam:smooth.samples=3:smooth.sigma=0.1:smooth.seed=5", CLASSES)
    generator, total = torch.Generator().manual_seed(5), torch.zeros_like(found.maps)
    for _ in range(3):
        drawn = torch.randn(IMAGES.shape[1:], generator=generator).double()
        noisy = torch.stack([one + 0.1 * (one.max() - one.min()) * drawn for one in IMAGES])
        total += cam(net, noisy, CLASSES)
    torch.testing.assert_close(found.maps, total / 3)
    assert torch.equal(found.logits, sightline.explain(net, IMAGES, "cam").logits)  # of the clean images
    assert found.method == "cam smooth smooth.samples=3 smooth.sigma=0.1 smooth.seed=5"


def test_without_noise_smooth_changes_nothing(net: nn.Module) -> None:
    found = smoothed(cam, Smooth(samples=2, sigma=0))(net, IMAGES, CLASSES)
    torch.testing.assert_close(found, cam(net, IMAGES, CLASSES))


def test_smooth_is_also_an_option_of_saliency(net: nn.Module) -> None:
    assert parse_method("saliency:smooth=0.1") == MethodSpec("saliency", {"smooth": 0.1})
    assert parse_method("saliency:smooth=0.1:smooth").smooth == Smooth()


def test_tencrop_lays_the_crops_where_they_were_cut(net: nn.Module) -> None:
    """The maps of a network that answers pixel by pixel: crops and their mirror images agree with the whole."""
    pixelwise = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    ).double().eval()  # fmt: skip
    found = tencrop(cam)(pixelwise, IMAGES, CLASSES)
    assert found.shape == (2, 2, 16, 24)
    large = nn.functional.interpolate(IMAGES, size=(16, 24), mode="bilinear", antialias=True)
    torch.testing.assert_close(found, cam(pixelwise, large, CLASSES))


def test_tencrop_by_hand(net: nn.Module) -> None:
    large = nn.functional.interpolate(IMAGES, size=(16, 24), mode="bilinear", antialias=True)
    total, times = torch.zeros(2, 2, 16, 24).double(), torch.zeros(16, 24)
    for top, left in [(0, 0), (0, 3), (2, 0), (2, 3), (1, 1)]:
        crop = large[..., top : top + 14, left : left + 21]
        for maps in (cam(net, crop, CLASSES), cam(net, crop.flip(-1), CLASSES).flip(-1)):
            total[..., top : top + 14, left : left + 21] += upsample(maps, (14, 21)) / 2
        times[top : top + 14, left : left + 21] += 1
    torch.testing.assert_close(sightline.explain(net, IMAGES, "cam:tencrop", CLASSES).maps, total / times)


def test_photos_are_read_again_for_tencrop() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model = sightline.load_model(net, transform=Preprocess((14, 14), 14, (0.0,) * 3, (1.0,) * 3))
    photo = PIL.Image.effect_noise((64, 64), 80).convert("RGB")
    maps = sightline.explain(model, photo, "cam:tencrop", classes=0).maps
    again = Preprocess((16, 16), 16, (0.0,) * 3, (1.0,) * 3)
    whole = sightline.load_model(net, transform=again)
    torch.testing.assert_close(maps, sightline.explain(whole, photo, "cam", classes=0).maps)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cam:smooth.samples=0", "smooth.samples='0': expected an integer of at least 1"),
        ("cam:smooth.sigma=-1", "smooth.sigma='-1': expected a number of at least 0"),
        ("cam:smooth.sample=3", "unknown smooth option 'sample'; did you mean 'samples'"),
        ("cam:tencrop=yes", "expected 'tencrop' alone"),
    ],
)
def test_typed_wrongly(text: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_method(text)
    assert message in str(refused.value)
