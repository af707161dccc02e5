"""Muhammad & Yeasin 2020, by the full singular value decomposition of the hw×C matrix."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from references.plain import layer_and_gradient
from toynets import Toy


def first_component(stack: Tensor) -> Tensor:
    """(C, h, w) -> (h, w): centre each channel, project each pixel on the first right singular vector."""
    channels, h, w = stack.shape
    matrix = stack.reshape(channels, h * w).T.numpy()
    centred = matrix - matrix.mean(axis=0, keepdims=True)
    _, _, right = np.linalg.svd(centred, full_matrices=False)
    projected = centred @ right[0]
    total = matrix.sum(axis=1)
    if np.dot(projected, total - total.mean()) < 0:
        projected = -projected
    return torch.from_numpy(projected).reshape(h, w)


def eigencam(net: Toy, x: Tensor, c: int, layer: str | None = None) -> Tensor:
    a, _ = layer_and_gradient(net, x, c, layer)
    return first_component(a)


def eigengradcam(net: Toy, x: Tensor, c: int, layer: str | None = None) -> Tensor:
    a, g = layer_and_gradient(net, x, c, layer)
    return first_component(g * a)
