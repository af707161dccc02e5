"""A network that one can compute by hand, and photos whose features are known."""

from __future__ import annotations

import numpy as np
import PIL.Image
import torch
from torch import nn

from sightline.models.preprocess import Preprocess

SIDE = 8
PLAIN = Preprocess((SIDE, SIDE), SIDE, (0.0,) * 3, (1.0,) * 3)


class Colours(nn.Module):
    """Three units, one a colour: A_k is the photo's channel k (1×1 identity), the head adds them up its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Linear(3, 2)
        self.conv.weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.conv.bias.data.zero_()
        self.fc.weight.data = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.5]])
        self.fc.bias.data = torch.tensor([0.25, -0.5])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.relu(self.conv(x)).mean((2, 3)))


def patch(
    colour: tuple[int, int, int], box: tuple[int, int, int, int] = (0, 0, SIDE, SIDE)
) -> PIL.Image.Image:
    """A black photo of 8×8 pixels with one coloured box."""
    photo = PIL.Image.new("RGB", (SIDE, SIDE))
    photo.paste(colour, box)
    return photo


def random_photos(count: int, side: int = 20, seed: int = 0) -> list[PIL.Image.Image]:
    rng = np.random.default_rng(seed)
    return [PIL.Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]
