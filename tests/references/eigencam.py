"""Muhammad & Yeasin 2020, by the full singular value decomposition of the hw×C matrix; and its centred form."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from references.plain import layer_and_gradient
from toynets import Toy


def first_component(stack: Tensor, centre: bool = True) -> Tensor:
    """(C, h, w) -> (h, w): project each pixel on the first right singular vector, each channel centred first or not."""
    channels, h, w = stack.shape
    matrix = stack.reshape(channels, h * w).T.numpy()
    if centre:
        matrix = matrix - matrix.mean(axis=0, keepdims=True)
    _, _, right = np.linalg.svd(matrix, full_matrices=False)
    projected = matrix @ right[0]
    if np.dot(projected, matrix.sum(axis=1)) < 0:
        projected = -projected
    return torch.from_numpy(projected).reshape(h, w)


def eigencam(net: Toy, x: Tensor, c: int, layer: str | None = None, centre: bool = True) -> Tensor:
    """``centre=False`` is the paper's: A itself on its first right singular vector."""
    a, _ = layer_and_gradient(net, x, c, layer)
    return first_component(a, centre)


def eigengradcam(net: Toy, x: Tensor, c: int, layer: str | None = None, centre: bool = True) -> Tensor:
    a, g = layer_and_gradient(net, x, c, layer)
    return first_component(g * a, centre)
