"""Photos whose maps are known: a network that shows each class its own colour, and squares with halos."""

from __future__ import annotations

from collections.abc import Sequence

import PIL.Image
import pytest
import torch
from torch import nn

from sightline.models.loading import LoadedModel, load_model
from sightline.models.preprocess import Preprocess
from sightline.types import Dataset, Sample

HALO, CORE = (2, 2, 14, 14), (2, 2, 6, 6)  # 144 and 16 pixels: IoU 1/9
RED, FAINT, GREEN = (255, 0, 0), (102, 0, 0), (0, 255, 0)  # 102 / 255 = 0.4


def photo(*rectangles: tuple[tuple[int, int, int, int], tuple[int, int, int]]) -> PIL.Image.Image:
    """A black photo of 16×16 with filled rectangles, later ones on top."""
    image = PIL.Image.new("RGB", (16, 16))
    for corners, colour in rectangles:
        image.paste(colour, corners)
    return image


def boxes(*corners: tuple[int, int, int, int]) -> torch.Tensor:
    return torch.tensor(corners, dtype=torch.float32)


def split(name: str, samples: Sequence[Sample]) -> Dataset:
    return Dataset("squares", name, list(samples), ("red", "green"))


def halo(name: str) -> Sample:
    """The true box is the halo: right for τ ≤ 0.4 only."""
    return Sample(name, photo((HALO, FAINT), (CORE, RED)), 0, boxes(HALO))


def core(name: str) -> Sample:
    """The same photo, the true box is the core: right for τ > 0.4 only."""
    return Sample(name, photo((HALO, FAINT), (CORE, RED)), 0, boxes(CORE))


def hidden(name: str) -> Sample:
    """A small green square, its box right at every τ, beside so much red that the network says red."""
    return Sample(name, photo(((8, 0, 16, 16), RED), ((1, 10, 5, 14), GREEN)), 1, boxes((1, 10, 5, 14)))


@pytest.fixture
def val() -> Dataset:
    """Three halos, a core, a hidden one."""
    return split("val", [halo("a"), halo("b"), core("c"), halo("d"), hidden("e")])


@pytest.fixture
def other() -> Dataset:
    """The split to choose on: three cores and a halo."""
    return split("held", [core("p"), core("q"), halo("r"), core("s")])


@pytest.fixture
def eye() -> LoadedModel:
    """Class map c = 2 · colour channel c of the photo, score c = its mean: every figure can be worked out by hand."""
    net = nn.Sequential(
        nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(3)[:2, :, None, None])
        net[3].weight.copy_(2 * torch.eye(2))
        net[3].bias.zero_()
    preprocess = Preprocess((16, 16), 16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return load_model(net, categories=["red", "green"], transform=preprocess)
