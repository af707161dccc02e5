"""Class maps of a linear head for many images, in batches, and resized to any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sightline.discovery.features import Source, source_of
from sightline.heatmap import make_heatmaps
from sightline.models.loading import LoadedModel
from sightline.pipeline import explain
from sightline.progress import tracked


def head_maps(
    model: LoadedModel,
    sources: Sequence[Source],
    classes: Sequence[int],
    *,
    batch_size: int = 64,
    progress: bool = True,
) -> tuple[Tensor, list[tuple[int, int]]]:
    """M_c = Σ_k w_k^c A_k for the class given for each image: raw maps (N, h, w), and the photos' (H, W).

    ``model``: from `attach_head`. The network sees the whole photo, so a map covers all of it.
    """
    maps, sizes = [], []
    for start in tracked(range(0, len(sources), batch_size), "maps", progress):
        part = slice(start, start + batch_size)
        wanted = torch.tensor(classes[part])
        explanation = explain(model, [source_of(s) for s in sources[part]], method="cam", classes=wanted)
        maps.append(explanation.maps[:, 0].cpu())
        sizes += [geometry.photo_hw for geometry in explanation.geometries]
    return torch.cat(maps), sizes


def heat(raw: Tensor, size_hw: tuple[int, int], normalise: str = "minmax") -> Tensor:
    """One raw map (h, w) as a heatmap (H, W) in [0, 1].

    >>> heat(torch.tensor([[0.0, 4.0]]), (1, 2))
    tensor([[0., 1.]])
    """
    return make_heatmaps(raw[None], size_hw, normalise)[0]
