"""Self-taught localisation (Bazzani et al., WACV 2016) as a plugin; it needs scikit-image for the segments.

    sightline --plugin recipes/localise/self_taught.py explain photo.jpg --method self_taught

The photo is cut into segments, each is greyed out, and the drop of the class's score says how much it matters.
Neighbours with the most similar drops are merged, two at a time, and every merged region is greyed out in turn. No box
is used. The box of the best merged region is a proposal by itself: `proposals`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

import sightline

Mask = np.ndarray  # (H, W) bool


def segments_of(image: Tensor, count: int) -> np.ndarray:
    """SLIC segments (H, W), 0 … S - 1, of an image (3, H, W) in the network's normalisation."""
    from skimage.segmentation import slic

    picture = image.detach().cpu().permute(1, 2, 0).double().numpy()
    picture = (picture - picture.min()) / max(float(np.ptp(picture)), 1e-9)
    labels = slic(picture, n_segments=count, compactness=10, start_label=0, channel_axis=-1)
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


def neighbours(labels: np.ndarray) -> set[tuple[int, int]]:
    """Pairs (a, b), a < b, of segments that share an edge.

    >>> sorted(neighbours(np.array([[0, 1], [2, 1]])))
    [(0, 1), (0, 2), (1, 2)]
    """
    found: set[tuple[int, int]] = set()
    for one, other in ((labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])):
        pairs = np.stack([one[one != other], other[one != other]], 1)
        found |= {(int(min(pair)), int(max(pair))) for pair in np.unique(pairs, axis=0)}
    return found


def proposals(
    labels: np.ndarray, drops: Callable[[list[Mask]], list[float]]
) -> list[tuple[float, Mask]]:
    """(drop, region) of every segment and of every merged region but the whole photo.

    Agglomerative clustering: of all neighbouring regions, the two whose drops differ least are merged.
    """
    regions: dict[int, Mask] = {int(i): labels == i for i in np.unique(labels)}
    value = dict(zip(regions, drops(list(regions.values())), strict=True))
    pairs = neighbours(labels)
    found = [(value[i], region) for i, region in regions.items()]
    while len(regions) > 2 and pairs:
        a, b = min(pairs, key=lambda pair: abs(value[pair[0]] - value[pair[1]]))
        new = max(value) + 1
        regions[new] = regions.pop(a) | regions.pop(b)
        (value[new],) = drops([regions[new]])
        found.append((value[new], regions[new]))
        renamed = [tuple(new if end in (a, b) else end for end in pair) for pair in pairs]
        pairs = {(min(pair), max(pair)) for pair in renamed if pair[0] != pair[1]}
    return found


@sightline.register_method("self_taught", paper="Bazzani et al., WACV 2016", needs=(), joint=True)
def self_taught(evidence, targets: Sequence, *, segments: int = 24) -> Tensor:
    """M(p) = mean over the segments and merged regions r ∋ p of y^c(x) − y^c(x with r grey): (N, K, H, W)."""
    images = evidence.images.detach()
    maps = images.new_zeros(len(images), len(targets), *evidence.size_hw)
    for i, image in enumerate(images):
        labels = segments_of(image, segments)
        for k, target in enumerate(targets):
            clean = float(evidence.score(target)[i])

            def drops(masks: list[Mask], image=image, target=target, clean=clean, i=i) -> list[float]:
                hidden = torch.stack([image * torch.from_numpy(~mask).to(image) for mask in masks])
                rows = torch.full((len(masks),), i)
                return [clean - float(score) for score in target.at(rows)(evidence.rescore(hidden))]

            regions = proposals(labels, drops)
            total, times = np.zeros(labels.shape), np.zeros(labels.shape)
            for drop, region in regions:
                total[region] += drop
                times[region] += 1
            maps[i, k] = torch.from_numpy(total / times).to(maps)
    return maps
