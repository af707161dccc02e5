"""What is found to be covered of an image by the output of a network that is one function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.inspection.coverage import Coverage
from sightline.inspection.reading import Reader
from sightline.inspection.recording import key_of, record
from toynets import Through

Function = Callable[[Tensor], Any]
H, W = 24, 32
WHOLE = ((0, H), (0, W))
KERNEL = torch.rand(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)) + 0.1


def conv(x: Tensor, padding: Any = 1) -> Tensor:
    """A convolution that keeps the size."""
    return F.conv2d(x, KERNEL.to(x), padding=padding)


WEAK = 0.3  # less than half as strong as the rest


def ones(*shape: int) -> Tensor:
    return torch.ones(1, 4, *shape)


def covered(
    function: Function, sides: tuple[int, ...] = (H, W), image: Tensor | None = None
) -> tuple[Coverage, Any]:
    """What was found of a network that is a function, and the key of its output."""
    net, x = Through(function), torch.rand(1, 3, *sides) if image is None else image
    seen = record(net, x)
    return Coverage(Reader(net, seen), net), key_of(seen.output)


def spans(function: Function, sides: tuple[int, ...] = (H, W)) -> Any:
    coverage, key = covered(function, sides)
    return coverage.spans.get(key)
