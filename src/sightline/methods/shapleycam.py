"""Shapley-CAM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sightline.engine import Evidence
from sightline.errors import UnsupportedError
from sightline.methods.cam import class_map
from sightline.methods.registry import register_method
from sightline.targets import CallableTarget, ClassTarget, Target, logits_of


@register_method("shapleycam", paper="Cai, 2025 (arXiv:2501.06261)")
def shapleycam(evidence: Evidence, target: Target, *, rest: bool = False) -> Tensor:
    """w_k = mean_ij (g − ½ H A)^k_ij with the Hessian H = ∂²y^c/∂A²; L = ReLU(Σ_k w_k A^k).

    The Shapley values of the layer's positions, to second order. Where the network behind the layer is piecewise linear
    (ReLU, pooling, linear layers), H = 0 and the map is Grad-CAM's; it differs behind attention, GELU or a norm.
    ``rest``: of the paper's utility y^c + log p^c (ReST) instead of y^c, for which H is not 0 in such networks either;
    p is the softmax. The product H A is one more backward pass. Returns (N, h, w), ≥ 0. Raises `UnsupportedError` for
    ``rest`` with a target that is not a class.

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="shapleycam", layer="0").maps.shape
    torch.Size([1, 1, 6, 6])
    """
    if rest:
        if not isinstance(target, ClassTarget):
            raise UnsupportedError(
                "shapleycam's rest=true needs a class, not a callable target; leave it out"
            )
        target = CallableTarget(_Rest(target))
    weight = (evidence.gradient(target) - 0.5 * _hessian_product(evidence, target)).mean((2, 3))
    return class_map(weight, evidence.activations).relu()


def _hessian_product(evidence: Evidence, target: Target) -> Tensor:
    """H A; fused attention has no second derivative, so such a network runs again with attention spelled out."""
    try:
        return evidence.hessian_product(target)
    except RuntimeError:
        with sdpa_kernel(SDPBackend.MATH):
            return evidence.at(evidence.images.detach()).hessian_product(target)


@dataclass(frozen=True, eq=False)
class _Rest:
    """y^c + log p^c."""

    target: ClassTarget

    def __call__(self, output: Any) -> Tensor:
        logits = logits_of(output)
        assert logits is not None  # the class target has said so
        return self.target(output) + self.target(logits.log_softmax(1))

    def at(self, rows: Tensor) -> _Rest:
        return _Rest(self.target.at(rows))
