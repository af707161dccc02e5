"""Is the map about this network at all? Sensitivity to small changes, and to random weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from sightline.errors import InputError

Explain = Callable[[Tensor], Tensor]  # images (N, 3, H, W) -> maps (N, h, w)


def max_sensitivity(
    explain: Explain, images: Tensor, radius: float = 0.02, samples: int = 10, seed: int = 0
) -> Tensor:
    """max over δ, |δ|_∞ ≤ r, of ‖Φ(x + δ) − Φ(x)‖ / ‖Φ(x)‖ (Yeh et al., NeurIPS 2019): (N,) ≥ 0; low is good.

    δ is drawn uniformly, ``samples`` times; an all-zero map has 0 if it stays zero, else ∞.

    >>> max_sensitivity(lambda x: torch.ones(len(x), 2, 2), torch.zeros(1, 3, 4, 4))
    tensor([0.])
    """
    if samples < 1 or radius <= 0:
        raise InputError(
            f"samples={samples}, radius={radius}; expected at least 1 sample and a radius above 0"
        )
    generator = torch.Generator().manual_seed(seed)
    clean = explain(images).flatten(1)
    worst = torch.zeros(len(images), device=clean.device, dtype=clean.dtype)
    for _ in range(samples):
        delta = (torch.rand(images.shape[1:], generator=generator).to(images) * 2 - 1) * radius
        change = (explain(images + delta).flatten(1) - clean).norm(dim=1)
        worst = torch.maximum(worst, torch.where(change > 0, change / clean.norm(dim=1), 0))
    return worst


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Rank correlation of each pair of maps, ties at their mean rank: (N, h, w), (N, h, w) -> (N,) in [−1, 1].

    A constant map has no ranks: its correlation is 0.

    >>> spearman(torch.tensor([[[1., 2., 3.]]]), torch.tensor([[[10., 40., 90.]]]))
    tensor([1.])
    """
    ra, rb = (_mean_ranks(m.flatten(1).double()) for m in (a, b))
    ra, rb = ra - ra.mean(1, keepdim=True), rb - rb.mean(1, keepdim=True)
    scale = ra.norm(dim=1) * rb.norm(dim=1)
    return torch.where(scale > 0, (ra * rb).sum(1) / scale.clamp(min=1e-300), 0).to(a.dtype)


def _mean_ranks(values: Tensor) -> Tensor:
    rows = []
    for row in values:
        _, inverse, counts = torch.unique(row, return_inverse=True, return_counts=True)
        last = counts.cumsum(0).double()
        rows.append((last - (counts - 1) / 2)[inverse])
    return torch.stack(rows)


def randomised_cascade(network: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Cascading randomisation from the last layer to the first (Adebayo et al., NeurIPS 2018).

    Yields ("", an unchanged copy), then for every layer with weights, from the output back to the image, (its name,
    the network with that layer and all later ones re-initialised). A map that does not change shows edges, not what
    the network learned. The given network is not modified.

    >>> [name for name, _ in randomised_cascade(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()))]
    ['', '0']
    """
    changed = copy.deepcopy(network)
    yield "", changed
    layers = [(n, m) for n, m in changed.named_modules() if can_reset(m)]
    if not layers:
        raise InputError("the network has no layer whose weights can be re-initialised")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in reversed(layers):
            module.reset_parameters()
            yield name, changed


def can_reset(module: nn.Module) -> bool:
    own = any(True for _ in module.parameters(recurse=False))
    return own and callable(getattr(module, "reset_parameters", None))
