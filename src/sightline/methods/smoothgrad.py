"""SmoothGrad."""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.engine import Evidence
from sightline.methods.registry import register_method
from sightline.options import Count, NotNegative, Seed
from sightline.targets import Target


def make_noise(images: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise like ``images`` (N, 3, H, W): σ is a share of each image's range.

    >>> make_noise(torch.zeros(1, 3, 2, 2), 0.15, torch.Generator().manual_seed(0)).abs().max().item()
    0.0
    """
    flat = images.flatten(1)
    span = (flat.amax(1) - flat.amin(1)).view(-1, *[1] * (images.ndim - 1))
    # One draw with one image's shape for the whole batch: an image's map does not depend on the rest of the batch.
    drawn = torch.randn(images.shape[1:], generator=generator, dtype=torch.float32)
    return sigma * span * drawn.to(images)


@register_method("smoothgrad", paper="Smilkov et al., 2017", needs=("input_gradient",), signed=True)
def smoothgrad(
    evidence: Evidence, target: Target, *, samples: Count = 25, sigma: NotNegative = 0.15, seed: Seed = 0
) -> Tensor:
    """The mean of ∂y^c/∂x over ``samples`` noisy images, σ = 0.15 of the input's range; then as saliency.

    The class is that of the clean image. ``seed`` fixes the noise. Returns (N, 3, H, W).

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    >>> e = sightline.explain(net, torch.rand(1, 3, 8, 8), method="smoothgrad", classes=0, samples=2)
    >>> bool(torch.allclose(e.signed[0, 0].flatten(), net[1].weight[0]))
    True
    """
    generator = torch.Generator().manual_seed(seed)
    images = evidence.images.detach()
    total = torch.zeros_like(images)
    for _ in range(samples):
        noisy = images + make_noise(images, sigma, generator)
        total += evidence.at(noisy).input_gradient(target)
    return total / samples
