"""Networks and images to try how a network is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from toynets import Through


def box(changed: Tensor) -> tuple[int, int, int, int]:
    """The rows and columns [top, bottom, left, right) in which a mask (H, W) holds."""
    rows, columns = changed.nonzero().T
    found = (int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1)
    assert int(changed.sum()) == (found[1] - found[0]) * (found[3] - found[2])
    return found


class Takes(nn.Module):
    """A function of the image as a layer, called as often as wanted; one image at a time where ``single``."""

    def __init__(self, function: Callable[[Tensor], Any], single: bool = False, calls: int = 1) -> None:
        super().__init__()
        self.layer, self.single, self.calls, self.behind = Through(function), single, calls, nn.Identity()

    def forward(self, x: Tensor) -> Any:
        if self.single and len(x) > 1:
            raise ValueError("one image at a time")
        for _ in range(self.calls):
            out = self.layer(x)
        if isinstance(out, Tensor):
            out.mul_(0)  # what follows works in place
        return self.behind(x)


def patches(x: Tensor, side: int = 8) -> Tensor:
    """(N, C, H, W) -> (N, h · w, C)"""
    return torch.nn.functional.avg_pool2d(x, side).flatten(2).transpose(1, 2)
