"""Eigen-CAM and Eigen-Grad-CAM."""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.engine import Evidence
from sightline.methods.registry import register_method
from sightline.targets import Target


def first_component(maps: Tensor, centre: bool = True) -> Tensor:
    """X (N, hw, C) projected onto its first right singular vector: (N, C, h, w) -> (N, h, w).

    ``centre``: each column's mean is subtracted first. X v₁ = σ₁ u₁, where u₁ is the first eigenvector of the Gram
    matrix X Xᵀ (hw × hw) and v₁ that of Xᵀ X (C × C); the smaller one is used. The sign is chosen so that the map
    correlates positively with Σ_k A^k (without centring: so that its product with Σ_k A^k is positive); if that sum is
    0 or constant, as after a layer norm, so that the value of largest magnitude is positive.

    >>> first_component(torch.tensor([[[[0., 2.]], [[0., 0.]]]]))
    tensor([[[-1.,  1.]]])
    >>> first_component(torch.tensor([[[[0., 2.]], [[0., 0.]]]]), centre=False)
    tensor([[[0., 2.]]])
    """
    n, _, h, w = maps.shape
    x, scale = _near_one(maps.flatten(2).transpose(1, 2))
    total = x.sum(2)
    if centre:
        x, total = x - x.mean(1, keepdim=True), total - total.mean(1, keepdim=True)
    if x.shape[1] <= x.shape[2]:
        values, vectors = torch.linalg.eigh(x @ x.transpose(1, 2))
        projection = vectors[:, :, -1] * values[:, -1:].clamp(min=0).sqrt()
    else:  # more positions than channels (an early layer): v₁ itself, from the C × C matrix
        projection = (x @ torch.linalg.eigh(x.transpose(1, 2) @ x).eigenvectors[:, :, -1:])[:, :, 0]
    signed = like_the_sum(projection, total, x.abs().sum(2).amax(1, keepdim=True))
    return torch.ldexp(signed, scale[:, 0]).reshape(n, h, w)


def like_the_sum(projection: Tensor, total: Tensor, size: Tensor) -> Tensor:
    """A projection (N, P), of either sign, with the sign that agrees with Σ_k A^k, ``total`` (N, P).

    If that sum is 0, measured by the ``size`` (N, 1) of its terms: with the sign whose largest value is positive.

    >>> like_the_sum(torch.tensor([[1.0, -2.0]]), torch.tensor([[-1.0, 1.0]]), torch.ones(1, 1))
    tensor([[-1.,  2.]])
    """
    agreement = (projection * total).sum(1, keepdim=True)
    nothing = 100 * torch.finfo(projection.dtype).eps * size
    largest = projection.gather(1, projection.abs().argmax(1, keepdim=True))
    agreement = agreement.where(total.abs().amax(1, keepdim=True) > nothing, largest)
    return projection * torch.where(agreement < 0, -1.0, 1.0).to(projection)


def _near_one(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (N, P, C) with magnitudes up to 1, and the exponents of 2 (N, 1, 1) taken out: squares must not overflow.

    >>> _near_one(torch.tensor([[[4., -2.]]]))
    (tensor([[[ 0.5000, -0.2500]]]), tensor([[[3]]], dtype=torch.int32))
    """
    scale = torch.frexp(x.abs().amax((1, 2), keepdim=True)).exponent.clamp(-120, 120)
    return torch.ldexp(x, -scale), scale


@register_method(
    "eigencam",
    paper="Muhammad & Yeasin, IJCNN 2020",
    needs=("activations",),
    class_specific=False,
)
def eigencam(evidence: Evidence, target: Target, *, centre: bool = True) -> Tensor:
    """The first principal component of the target layer, the same for every class.

    A (hw × C) is projected onto its first right singular vector. ``centre=True`` (the default) subtracts each
    column's mean first, as pytorch-grad-cam does; ``centre=False`` is the paper's method, which projects A
    unchanged (on activations ≥ 0 its first component is close to the mean activation). No ReLU. Returns (N, h, w).

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="eigencam", layer="0").maps.shape
    torch.Size([1, 1, 6, 6])
    """
    return first_component(evidence.activations, centre)


@register_method("eigengradcam", paper="Muhammad & Yeasin, IJCNN 2020, on g ⊙ A (pytorch-grad-cam)")
def eigengradcam(evidence: Evidence, target: Target, *, centre: bool = True) -> Tensor:
    """The first principal component of g ⊙ A: a class-specific Eigen-CAM. Returns (N, h, w).

    ``centre``: as in `eigencam`.

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="eigengradcam", layer="0").maps.shape
    torch.Size([1, 1, 6, 6])
    """
    return first_component(evidence.gradient(target) * evidence.activations, centre)
