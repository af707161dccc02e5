"""What one pass over the images counts, and which images it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.boxes import make_boxes
from sightline.data.images import open_picture
from sightline.errors import InputError
from sightline.files import reading
from sightline.heatmap import make_heatmaps
from sightline.metrics.accumulators import BoxTally, PixelTally
from sightline.metrics.ilsvrc import ILSVRC
from sightline.metrics.pixels import truth_mask
from sightline.types import BoxRule, Geometry, Sample

if TYPE_CHECKING:
    import PIL.Image

Array = NDArray[Any]
OnProgress = Callable[[int], None]


@dataclass
class Counts:
    """The counts of one pass over a split; per-image arrays are in the order of ``indices``."""

    tallies: list[BoxTally | PixelTally | None]
    indices: list[int] = field(default_factory=list)
    sizes_hw: list[tuple[int, int]] = field(default_factory=list)
    ranks: list[Tensor] = field(default_factory=list)  # (N, 2) bool: true class first, among the first five
    guesses: list[ILSVRC] = field(default_factory=list)  # one per method

    def __add__(self, other: Counts) -> Counts:
        """The counts of both, this one's images first: parts of a split can be counted separately and merged."""
        return Counts(
            [_added(mine, its) for mine, its in zip(self.tallies, other.tallies, strict=True)],
            self.indices + other.indices,
            self.sizes_hw + other.sizes_hw,
            self.ranks + other.ranks,
            [mine + its for mine, its in zip(self.guesses, other.guesses, strict=True)],
        )

    def add(self, batch: Batch, right: Tensor) -> None:
        """Add the images of a batch; ``right`` (N, ≤ 5): which of the most probable classes is the true one."""
        self.indices += batch.indices
        self.sizes_hw += [geometry.photo_hw for geometry in batch.geometries]
        self.ranks.append(torch.stack([right[:, 0], right.any(1)], 1))

    def right(self, top: int) -> Array | None:
        """Whether the true class is among the ``top`` (1 or 5) most probable: (N,) bool; None without a model."""
        if not self.ranks:
            return None
        found: Array = torch.cat(self.ranks)[:, 0 if top == 1 else 1].numpy()
        return found


def merged(parts: Sequence[Counts]) -> Counts:
    """Merge the counts of the parts of a split, in order."""
    return reduce(add, parts)


def _added(
    mine: BoxTally | PixelTally | None, its: BoxTally | PixelTally | None
) -> BoxTally | PixelTally | None:
    if isinstance(mine, BoxTally) and isinstance(its, BoxTally):
        return mine + its
    if isinstance(mine, PixelTally) and isinstance(its, PixelTally):
        return mine + its
    return None


@dataclass
class Skipped:
    """Images that cannot be scored: refused at once, or skipped and listed with the reason."""

    on_bad: str
    reasons: dict[int, str] = field(default_factory=dict)

    def add(self, found: dict[int, str]) -> None:
        """Add bad images; unless they are to be skipped, raise `InputError` with their number and the first three."""
        if found and self.on_bad == "refuse":
            some = "; ".join(list(found.values())[:3])
            more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
            images = "1 image" if len(found) == 1 else f"{len(found)} images"
            raise InputError(f"{images} cannot be scored: {some}{more}; on-bad skip leaves them out")
        self.reasons.update(found)


@dataclass
class Batch:
    """Some images with their samples and geometries; ``images`` (N, 3, H, W) if a model runs on them."""

    indices: list[int] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    geometries: list[Geometry] = field(default_factory=list)
    photos: list[PIL.Image.Image] = field(default_factory=list)  # if requested
    images: Tensor = field(default_factory=lambda: torch.zeros(0))

    def add(self, index: int, sample: Sample, geometry: Geometry) -> None:
        """One more image."""
        self.indices.append(index)
        self.samples.append(sample)
        self.geometries.append(geometry)


def boxes_of(raw: Tensor, geometry: Geometry, rule: BoxRule) -> Tensor:
    """The box (≤ 1, 4) of one raw map (h, w) in photo pixels."""
    heatmap = make_heatmaps(raw, geometry.input_hw, rule.normalise, rule.percentile)
    return geometry.to_photo(make_boxes(heatmap[None, None], rule)[0][0])


def box_outside(sample: Sample, photo_hw: tuple[int, int]) -> str | None:
    """An error line if a true box leaves its photo by more than a pixel (data sets round differently), or None."""
    height, width = photo_hw
    for x0, y0, x1, y1 in sample.boxes_xyxy.tolist():
        if min(x0, y0) < -1 or x1 > width + 1 or y1 > height + 1:
            return f"{sample.id}: box {x0:g} {y0:g} {x1:g} {y1:g} leaves its photo of {width}×{height}"
    return None


def true_mask(sample: Sample) -> Array:
    """The true mask of an image at 224×224 (see `truth_mask`); raises `InputError` if its parts differ in size."""
    parts = [_read_mask(path) for path in sample.masks]
    ignore = None if sample.ignore_mask is None else _read_mask(sample.ignore_mask)
    shapes = {part.shape for part in [*parts, *([] if ignore is None else [ignore])]}
    if len(shapes) > 1:
        sizes = " and ".join(f"{h}×{w}" for h, w in sorted(shapes))
        raise InputError(f"{sample.id}: its masks have different sizes, {sizes}; expected one size")
    return truth_mask(parts, ignore)


def _read_mask(path: Path) -> Array:
    with reading(f"mask {path}", "an image"), open_picture(path) as picture:
        return np.asarray(picture.convert("L")) > 127 if picture.mode == "1" else np.asarray(picture) > 0


def update(tally: BoxTally | PixelTally | None, maps: Sequence[Any], batch: Batch) -> None:
    if isinstance(tally, BoxTally):
        tally.update(maps, [sample.boxes_xyxy for sample in batch.samples], batch.geometries)
    elif isinstance(tally, PixelTally):
        tally.update(maps, [true_mask(sample) for sample in batch.samples], batch.indices)


def chunks(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(indices), size):
        yield list(indices[start : start + size])
