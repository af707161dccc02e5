"""ROAD: remove and debias, with noisy linear imputation solved for a whole batch of masks at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.errors import InputError
from sightline.metrics.faithfulness import Score, check_heatmaps, ranks

PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)


class Road(NamedTuple):
    """``morf``, ``lerf`` (N, P): the probability after a share p of the pixels is removed, most or least relevant
    first; ``combined`` (N,) = mean over p of (LeRF − MoRF)/2, in [−0.5, 0.5]; high is good."""

    morf: Tensor
    lerf: Tensor
    combined: Tensor


def road(
    score: Score,
    images: Tensor,
    heatmaps: Tensor,
    percentiles: Sequence[float] = PERCENTILES,
    noise: float = 0.01,
    seed: int = 0,
) -> Road:
    """Remove-and-debias (Rong et al., ICML 2022), most and least relevant pixels first.

    Removed pixels are imputed by `impute`, so that the mask's shape carries no information; ``noise`` is the standard
    deviation of the noise added to them. images (N, 3, H, W) normalised, heatmaps (N, H, W).
    """
    check_heatmaps(images, heatmaps)
    bad = [p for p in percentiles if not 0 < p < 100]
    if bad or not percentiles:
        raise InputError(f"percentiles={list(percentiles)}; expected values between 0 and 100")
    generator = torch.Generator().manual_seed(seed)
    n, _, height, width = images.shape
    place = ranks(heatmaps).view(n, height, width)
    both, rows = images.repeat(2, 1, 1, 1), torch.arange(n, device=images.device).repeat(2)
    found = []
    for p in percentiles:
        count = round(p / 100 * height * width)
        removed = torch.cat([place < count, place >= height * width - count])
        drawn = torch.randn(images.shape[1:], generator=generator).to(images) * noise
        found.append(score(impute(both, removed) + drawn * removed[:, None], rows))
    morf, lerf = torch.split(torch.stack(found, 1), n)
    return Road(morf, lerf, ((lerf - morf) / 2).mean(1))


def impute(images: Tensor, removed: Tensor, tolerance: float = 5e-4, most_iterations: int = 500) -> Tensor:
    """Fill the removed pixels so that each is the weighted mean of its neighbours: (N, C, H, W), mask (N, H, W).

    (Σ_j w_ij) x_i = Σ_j w_ij x_j over the 8 neighbours inside the image, w = 1/6 for edge and 1/12 for diagonal
    neighbours. The system is symmetric positive definite; conjugate gradients solve it for all images and channels
    together, to a relative residual of ``tolerance``, each resolution starting from the solution at half of it
    (the cascadic multigrid of Bornemann & Deuflhard, 1996). Kept pixels are unchanged. Raises `InputError` if
    nothing is kept.

    >>> x = torch.tensor([[[[0., 9., 2.]]]])
    >>> impute(x, torch.tensor([[[False, True, False]]]))
    tensor([[[[0., 1., 2.]]]])
    """
    if bool(removed.flatten(1).all(1).any()):
        raise InputError("every pixel of an image is removed; keep at least one")
    hole = removed[:, None].to(images.dtype)
    return _solve(images * (1 - hole), hole, tolerance, most_iterations)


def _solve(kept: Tensor, hole: Tensor, tolerance: float, most_iterations: int) -> Tensor:
    """``kept`` is 0 where ``hole`` is 1; returns kept + the solution in the hole."""
    height, width = kept.shape[2:]
    if max(height, width) == 1:
        return kept
    solution = _from_half(kept, hole, tolerance, most_iterations) * hole
    diagonal = _neighbours(torch.ones_like(hole))
    residual = (_neighbours(kept + solution) - diagonal * solution) * hole
    enough = tolerance * _norm(_neighbours(kept) * hole)
    direction = residual
    product = _dot(residual, residual)
    for iteration in range(most_iterations):
        if iteration % 4 == 0 and bool((product.sqrt() <= enough).all()):
            break
        applied = (diagonal * direction - _neighbours(direction)).mul_(hole)
        step = _ratio(product, _dot(direction, applied))
        solution.addcmul_(step, direction)
        residual = residual.addcmul(step, applied, value=-1)
        product, before = _dot(residual, residual), product
        direction = torch.addcmul(residual, _ratio(product, before), direction)
    return kept + solution


def _from_half(kept: Tensor, hole: Tensor, tolerance: float, most_iterations: int) -> Tensor:
    """The solution at half the resolution, upsampled; a coarse pixel is known if any of its four is."""
    known = F.avg_pool2d(1 - hole, 2, ceil_mode=True)
    mean = F.avg_pool2d(kept, 2, ceil_mode=True) / known.clamp(min=1e-12)
    coarse_hole = (known == 0).to(kept.dtype)
    coarse = _solve(mean * (1 - coarse_hole), coarse_hole, tolerance, most_iterations)
    return F.interpolate(coarse, size=kept.shape[2:], mode="bilinear", align_corners=False)


def _neighbours(x: Tensor) -> Tensor:
    """Σ_j w_ij x_j with zeros outside, times 12, and 4 x_i, which cancels: [1 2 1]ᵀ[1 2 1] * x, separably."""
    padded = F.pad(x, (1, 1, 1, 1))
    across = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    return across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((2, 3), keepdim=True)


def _norm(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / b.clamp(min=torch.finfo(b.dtype).tiny), torch.zeros_like(a))
