"""A small network with names and a photo of two colours, for the app's tests."""

from __future__ import annotations

from io import BytesIO

import torch
from PIL import Image
from torch import nn

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")


def photo(width=40, height=20, left="red", right="blue", kind="png"):
    """The bytes of a photo with two halves."""
    image = Image.new("RGB", (width, height), left)
    image.paste(Image.new("RGB", (width - width // 2, height), right), (width // 2, 0))
    stream = BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def network(classes=len(NAMES)):
    """Class k is channel k mod 3 of the photo, so that its map is known: red, green, blue."""
    first, last = nn.Conv2d(3, 3, 1, bias=False), nn.Linear(3, classes)
    first.weight.data = torch.eye(3).view(3, 3, 1, 1)
    last.weight.data = 4 * torch.eye(3)[torch.arange(classes) % 3] - 0.1 * torch.arange(classes)[:, None]
    last.bias.data.zero_()
    return nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
