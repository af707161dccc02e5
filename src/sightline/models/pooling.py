"""The pooling between a trunk and its linear layer: average, maximum, thresholded average."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sightline.errors import InputError, UnsupportedError, unknown

POOLINGS = ("gap", "gmp", "tap")


class GlobalAveragePool(nn.Module):
    """Global average pooling (Lin et al. 2013; Zhou et al. 2016): p_k = mean_xy F_k(x, y).

    Features (N, C, h, w) -> (N, C). Followed by a linear layer, the mean of a class's map plus its bias is
    that class's score.

    >>> GlobalAveragePool()(torch.tensor([[[[0., 2.], [4., 6.]]]]))
    tensor([[3.]])
    """

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((-2, -1))


class GlobalMaxPool(nn.Module):
    """Global max pooling (Oquab et al. 2015): p_k = max_xy F_k(x, y); equal maxima share the gradient.

    Features (N, C, h, w) -> (N, C).

    >>> GlobalMaxPool()(torch.tensor([[[[0., 2.], [4., 6.]]]]))
    tensor([[6.]])
    """

    def forward(self, features: Tensor) -> Tensor:
        return features.amax((-2, -1))


class ThresholdedAveragePool(nn.Module):
    """Thresholded average pooling (Bae et al., "Rethinking CAM", ECCV 2020).

    p_k = Σ F_k·1[F_k > θ·max F_k] / max(1, #{F_k > θ·max F_k}), for each image and channel, with a strict >.
    The gradient flows only through values above the threshold. Features (N, C, h, w), all ≥ 0 -> (N, C).

    Raises `InputError` unless 0 ≤ θ < 1, and `UnsupportedError` if a feature is negative (the threshold is
    a share of the maximum, which is meaningless below zero).

    >>> ThresholdedAveragePool(theta=0.5)(torch.tensor([[[[0., 2.], [4., 6.]]]]))
    tensor([[5.]])
    """

    looks_at_values = True  # a tracer must keep it whole

    def __init__(self, theta: float = 0.1) -> None:
        super().__init__()
        if not 0 <= theta < 1:
            raise InputError(f"theta is {theta}; expected 0 ≤ theta < 1 (the paper uses 0.1)")
        self.theta = theta

    def forward(self, features: Tensor) -> Tensor:
        # An exporter cannot trace a branch on values, so the check is skipped there.
        if not torch.compiler.is_compiling() and bool((features < 0).any()):
            raise UnsupportedError(
                "thresholded average pooling got a negative feature; expected ≥ 0 (a ReLU's output): use gap"
            )
        keep = features > self.theta * features.amax((-2, -1), keepdim=True)
        total = (features * keep).sum((-2, -1))
        return total / keep.sum((-2, -1)).clamp(min=1)

    def extra_repr(self) -> str:
        return f"theta={self.theta}"


def make_pooling(name: str, theta: float = 0.1) -> nn.Module:
    """The pooling named ``"gap"``, ``"gmp"`` or ``"tap"`` (with TAP's ``theta``); otherwise raises `InputError`.

    >>> make_pooling("tap", theta=0.2)
    ThresholdedAveragePool(theta=0.2)
    """
    if name == "gap":
        return GlobalAveragePool()
    if name == "gmp":
        return GlobalMaxPool()
    if name == "tap":
        return ThresholdedAveragePool(theta)
    raise unknown("pooling", name, POOLINGS)
