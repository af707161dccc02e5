"""Saliency: the gradient of the score with respect to the image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from sightline.engine import Evidence
from sightline.errors import UnsupportedError
from sightline.methods.registry import register_method
from sightline.options import NotNegative
from sightline.targets import Target


@register_method(
    "saliency", paper="Simonyan et al., ICLR workshop 2014", needs=("input_gradient",), signed=True
)
def saliency(evidence: Evidence, target: Target, *, smooth: NotNegative = 0.0) -> Tensor:
    """∂y^c/∂x; the map is the channel-wise maximum of its magnitude.

    ``smooth``: σ of a Gaussian over the map, as a share of the image's side; 0.02 is our choice for the "backprop"
    baseline for boxes. It smooths the magnitude, so the sign of the gradient is lost. Returns (N, 3, H, W).

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    >>> e = sightline.explain(net, torch.rand(1, 3, 8, 8), method="saliency", classes=0)
    >>> bool(torch.allclose(e.signed[0, 0].flatten(), net[1].weight[0]))
    True
    """
    gradient = evidence.input_gradient(target)
    if not smooth:
        return gradient
    if len(evidence.grid) != 2:
        raise UnsupportedError(
            f"saliency's smooth is for pictures, and the input is {evidence.grid}; leave it out"
        )
    magnitude = gradient.abs().amax(1, keepdim=True)
    return gaussian(magnitude, smooth * max(evidence.size_hw)).expand_as(gradient)


def gaussian(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of (N, 1, H, W), σ in pixels, truncated at 4σ, with reflected borders.

    >>> bool(torch.isclose(gaussian(torch.ones(1, 1, 9, 9), 2.0).mean(), torch.tensor(1.0)))
    True
    """
    radius = min(int(4 * sigma + 0.5), min(maps.shape[2:]) - 1)
    at = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = kernel / kernel.sum()
    maps = conv2d(pad(maps, (radius, radius, 0, 0), mode="reflect"), kernel[None, None, None, :])
    return conv2d(pad(maps, (0, 0, radius, radius), mode="reflect"), kernel[None, None, :, None])
