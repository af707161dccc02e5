"""Class maps of a linear head for many images, cached like features, and the boxes they give."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.boxes import make_boxes
from sightline.data.classes import match_classes
from sightline.data.images import read_bytes, read_image
from sightline.discovery.cache import VectorCache
from sightline.discovery.features import FeatureExtractor, Source, probe_photo, source_of
from sightline.discovery.linear import LinearHead
from sightline.engine import observe
from sightline.errors import InputError
from sightline.heatmap import make_heatmaps
from sightline.methods.cam import class_map
from sightline.methods.observation import observe_for
from sightline.methods.registry import get_method
from sightline.pipeline import as_batch
from sightline.progress import tracked
from sightline.types import BoxRule, Geometry, ImageSource

CHUNK = 256  # heatmaps upsampled at once
HEADER = 11  # numbers before the map in each cached row


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """Raw ``maps`` (N, h, w) of each image's top-scoring class, ``classes`` (N,)."""

    maps: Tensor
    classes: NDArray[np.int64]
    geometries: tuple[Geometry, ...]

    def boxes(self, threshold: float) -> Tensor:
        """The box (N, 4) of each map in photo pixels, by the paper's rule; the whole photo if the map is empty."""
        found = []
        for start in range(0, len(self.maps), CHUNK):
            part = slice(start, start + CHUNK)
            heatmaps = make_heatmaps(self.maps[part, None], self.geometries[start].input_hw)
            for geometry, row in zip(
                self.geometries[part], make_boxes(heatmaps, BoxRule(threshold)), strict=True
            ):
                height, width = geometry.photo_hw
                whole = Tensor([0, 0, width, height])
                found.append(geometry.to_photo(row[0])[0] if len(row[0]) else whole)
        return torch.stack(found)


class ClassMapper:
    """Maps of the top-scoring class of ``head``: c = argmax W·GAP(A) + b, M = Σ_k w_k^c A_k.

    They are cached in ``cache`` by checksum of weights, head, transform and image.
    """

    def __init__(
        self, model: nn.Module, head: LinearHead, cache: str | Path | None, batch_size: int = 64
    ) -> None:
        self.extractor, self.head, self.batch_size = FeatureExtractor(model, "whole"), head, batch_size
        digest = hashlib.sha256(head.weight.tobytes() + head.bias.tobytes()).hexdigest()
        key = {**self.extractor.key, "maps of head_sha256": digest}
        self.store = VectorCache(None if cache is None else Path(cache), key)

    def maps(self, sources: Sequence[Source], progress: bool = True) -> ClassMaps:
        """One map per image; an unreadable image raises `ImageError`."""
        found: list[NDArray[np.float32]] = []
        try:
            for start in tracked(range(0, len(sources), self.batch_size), "maps", progress):
                found += self._batch([source_of(s) for s in sources[start : start + self.batch_size]])
        finally:
            self.store.flush()
        rows = np.stack(found)
        height, width = (int(side) for side in rows[0, :2])
        geometries = tuple(_geometry(row) for row in rows)
        maps = torch.from_numpy(rows[:, HEADER:].copy()).view(-1, height, width)
        return ClassMaps(maps, rows[:, 2].astype(np.int64), geometries)

    def _batch(self, sources: Sequence[ImageSource | str]) -> list[NDArray[np.float32]]:
        keys = [hashlib.sha256(read_bytes(source)).digest() for source in sources]
        kept = {key: self.store.get(key) for key in keys}
        missing = [i for i, key in enumerate(keys) if kept[key] is None]
        if missing:
            computed = self._compute([read_image(sources[i]) for i in missing])
            for i, row in zip(missing, computed, strict=True):
                self.store.add(keys[i], row)
                kept[keys[i]] = row
        return [found for key in keys if (found := kept[key]) is not None]

    def _compute(self, photos: list[PIL.Image.Image]) -> list[NDArray[np.float32]]:
        """One row per image: h, w, class, the geometry, and the map."""
        batch = as_batch(self.extractor.model, photos)
        images, geometries = batch.images, batch.geometries
        activations = observe(
            self.extractor.network, images, [self.extractor.layer], gradient=False
        ).activations
        weight, bias = (torch.from_numpy(x).to(activations) for x in (self.head.weight, self.head.bias))
        classes = (activations.mean((2, 3)) @ weight.T + bias).argmax(1)
        maps = class_map(weight[classes], activations).cpu()
        rows = []
        for one, label, g in zip(maps, classes.tolist(), geometries, strict=True):
            header = [*one.shape, label, *g.photo_hw, *g.input_hw, *g.shown_xyxy]
            rows.append(np.concatenate([np.asarray(header, np.float32), one.flatten().numpy()]))
        return rows


def _geometry(row: NDArray[np.float32]) -> Geometry:
    photo_h, photo_w, input_h, input_w = (int(side) for side in row[3:7])
    x0, y0, x1, y1 = (float(edge) for edge in row[7:HEADER])
    return Geometry((photo_h, photo_w), (input_h, input_w), (x0, y0, x1, y1))


def own_head(model: nn.Module, classes: Sequence[str]) -> LinearHead | None:
    """The network's own weights for some classes; None if it lacks one of them or has no such head.

    >>> own_head(nn.Identity(), ["tabby"]) is None
    True
    """
    known: Sequence[str] | None = getattr(model, "categories", None)
    if known is None:
        return None
    try:
        places = match_classes(classes, known, len(known))
        images = as_batch(model, [probe_photo()]).images
        evidence, _ = observe_for(get_method("cam"), getattr(model, "network", model), images)
    except InputError:  # another kind of head, or an unknown class
        return None
    weight, bias = (x[places].cpu().numpy() for x in evidence.classifier_weights())
    return LinearHead(weight, bias, tuple(classes))
