"""What is read of the record of one pass through a network, or through one function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.inspection.reading import Reader
from sightline.inspection.recording import Op, record
from toynets import Through

N, C, H, W = 2, 4, 6, 5
Function = Callable[[Tensor], Any]
WEIGHT = torch.rand(C, 3, 3, 3, generator=torch.Generator().manual_seed(0)) - 0.4


def conv(x: Tensor, stride: int = 1) -> Tensor:
    return F.conv2d(x, WEIGHT, None, stride, 1)


def read(net: nn.Module | Function, *shape: int, n: int = N) -> Reader:
    net = net if isinstance(net, nn.Module) else Through(net)
    return Reader(net, record(net.eval(), torch.rand(n, *(shape or (3, H, W)))))


def named(reader: Reader, function: str, number: int = 0) -> Op:
    return [op for op in reader.ops if op.function == function][number]
