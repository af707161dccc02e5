"""Smooth Grad-CAM++."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from sightline.engine import Evidence
from sightline.methods.cam import class_map
from sightline.methods.registry import register_method
from sightline.methods.smoothgrad import make_noise
from sightline.options import Count, NotNegative, Seed
from sightline.targets import Target


@register_method("smoothgradcam_pp", paper="Omeiza et al., 2019 (arXiv:1908.01224)")
def smoothgradcam_pp(
    evidence: Evidence, target: Target, *, samples: Count = 25, sigma: NotNegative = 0.15, seed: Seed = 0
) -> Tensor:
    """Grad-CAM++ whose derivatives D₁, D₂, D₃ are means over noisy images: D_m = mean of g^m, m = 1, 2, 3.

    a = D₂ / (2 D₂ + D₃ · Σ_ab A_ab); w_k = Σ_ij a ReLU(D₁); L = ReLU(Σ_k w_k A^k). The m-th derivatives are powers of
    g, as in Grad-CAM++; A is the clean image's. If its denominator is ≤ 0, a is 0, with a warning. ``samples``,
    ``sigma`` (a share of the image's range) and ``seed`` are SmoothGrad's; σ = 0 gives Grad-CAM++.
    Returns (N, h, w), ≥ 0.

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                           torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="smoothgradcam_pp", layer="1", samples=2).maps.shape
    torch.Size([1, 1, 6, 6])
    """
    generator = torch.Generator().manual_seed(seed)
    images, activations = evidence.images.detach(), evidence.activations
    # g is divided by its largest value, so that g³ does not underflow: D_m = scaleᵐ · moment_m.
    scale = evidence.gradient(target).abs().amax((1, 2, 3), keepdim=True)
    first, second, third = (torch.zeros_like(activations) for _ in range(3))
    for _ in range(samples):
        g = evidence.at(images + make_noise(images, sigma, generator)).gradient(target)
        g = g / scale.where(scale > 0, 1)
        first, second, third = first + g / samples, second + g**2 / samples, third + g**3 / samples
    denominator = 2 * second + scale * activations.sum((2, 3), keepdim=True) * third
    if bool(((first > 0) & (denominator <= 0)).any()):
        warnings.warn(
            "smoothgradcam_pp: a denominator is not positive; its weight was set to 0", stacklevel=2
        )
    share = torch.where(denominator > 0, second / denominator.where(denominator > 0, 1), 0)
    return class_map((share * scale * first.relu()).sum((2, 3)), activations).relu()
