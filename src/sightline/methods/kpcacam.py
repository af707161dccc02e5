"""KPCA-CAM: Eigen-CAM with kernel PCA."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sightline.engine import Evidence
from sightline.methods.eigencam import like_the_sum
from sightline.methods.registry import register_method
from sightline.options import Positive
from sightline.targets import Target

Kernel = Literal["sigmoid", "rbf", "linear"]


def kernel_component(maps: Tensor, kernel: Kernel = "sigmoid", gamma: float | None = None) -> Tensor:
    """The first kernel principal component of the positions of (N, C, h, w): √λ u (N, h, w).

    u is the eigenvector of the largest eigenvalue λ of the centred kernel matrix (hw × hw) of the positions' channels,
    their mean subtracted. The sign agrees with Σ_k A^k, as in Eigen-CAM. ``gamma``: None is 1/C.

    >>> kernel_component(torch.tensor([[[[0., 2.]], [[0., 0.]]]]), "linear")
    tensor([[[-1.,  1.]]])
    """
    n, c, h, w = maps.shape
    x = maps.flatten(2).transpose(1, 2)
    x = x - x.mean(1, keepdim=True)
    total, scale = x.sum(2), 1 / c if gamma is None else gamma
    matrix = x @ x.transpose(1, 2)
    if kernel == "sigmoid":
        matrix = (scale * matrix + 1).tanh()
    elif kernel == "rbf":
        matrix = (-scale * torch.cdist(x, x) ** 2).exp()
    matrix = matrix - matrix.mean(1, keepdim=True)
    matrix = matrix - matrix.mean(2, keepdim=True)
    values, vectors = torch.linalg.eigh(matrix)
    projection = vectors[:, :, -1] * values[:, -1:].clamp(min=0).sqrt()
    return like_the_sum(projection, total, x.abs().sum(2).amax(1, keepdim=True)).reshape(n, h, w)


@register_method(
    "kpcacam", paper="Karmani et al., 2024 (arXiv:2410.00267)", needs=("activations",), class_specific=False
)
def kpcacam(
    evidence: Evidence, target: Target, *, kernel: Kernel = "sigmoid", gamma: Positive | None = None
) -> Tensor:
    """The first *kernel* principal component of the target layer's positions, the same for every class.

    k(a, b) = tanh(γ a·b + 1) (``sigmoid``, the paper's), exp(−γ |a − b|²) (``rbf``) or a·b (``linear``, which is
    Eigen-CAM), a and b the channels of two positions with the mean subtracted; γ = 1/C unless ``gamma`` is given. As in
    the authors' code, which uses scikit-learn's kernel PCA; its sign is left to chance there, and agrees with Σ_k A^k
    here. No ReLU. Time grows with (h·w)³: for late layers. Returns (N, h, w).

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="kpcacam", layer="0").maps.shape
    torch.Size([1, 1, 6, 6])
    """
    return kernel_component(evidence.activations, kernel, gamma)
