"""The evaluation protocols: a map's IoU with the true boxes at every threshold of the grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.boxes import cutoffs
from sightline.errors import InputError, require, unknown
from sightline.heatmap import make_heatmaps, normalise
from sightline.metrics import components, sweep
from sightline.types import BoxRule, Geometry, checked_boxes

require("evaluate", "cv2")  # fail now, not after the first batch

Array = NDArray[Any]
Map = Tensor | Array
Place = Geometry | tuple[int, int]
T = TypeVar("T")

PROTOCOLS = ("wsol-v1", "wsol-v2", "rethinking", "exact", "exact-all")
TAUS: Array = np.arange(0, 1, 0.001)  # bit for bit wsolevaluation's grid
SIDE = 224  # wsolevaluation scores everything at this size


def sweep_ious(
    maps: Tensor | Array | Sequence[Map],
    boxes: Sequence[Tensor],
    places: Sequence[Place],
    protocols: Sequence[str] = ("wsol-v1",),
    rule: BoxRule | None = None,
    map_hw: tuple[int, int] | None = None,
    workers: int = 1,
) -> dict[str, Array]:
    """The IoU of each map's box with the true boxes at every τ of the grid: {protocol: (N, 1000) float64}.

    ``maps``: N raw maps (h, w). ``boxes``: each image's true boxes (B, 4), half-open, in photo pixels; the
    best match counts. ``rule``: how maps are normalised, and what τ is relative to (its threshold and selection are
    not used). ``places``: each image's `Geometry`, or the photo's (H, W) if the map covers all of it. One pass over
    each map serves all τ (see `sightline.metrics.sweep`); ``workers`` threads share the maps.

    - ``wsol-v1`` and ``wsol-v2`` (Choe et al., CVPR 2020; TPAMI 2022), exactly as in wsolevaluation: the float64
      map is resized to 224×224, scaled to [0, 1] by its minimum and maximum (constant maps and those with NaN
      become zeros), truncated to 8 bits, and thresholded at u > int(τ · max u). Boxes come from OpenCV's contours,
      far corner (min(x + w, 223), min(y + h, 223)); V1 takes the contour with the largest `cv2.contourArea`
      (OpenCV's first of ties: the one whose first pixel comes last in reading order), V2 all contours, including
      those of holes; [0, 0, 0, 0] if nothing is left. True boxes: inclusive corners, scaled to 224 and truncated.
      IoU with inclusive corners.
    - ``rethinking`` (Bae et al., ECCV 2020): as V1, but normalised in single precision, without limiting the far
      corner, and the whole 224×224 if nothing is left. With ``relative_to="percentile"`` it is their PaS.
    - ``exact``: sightline's own rule: bilinear upsampling to the network's input size, `normalise`, the values
      ≥ τ · max (and > 0), the largest 8-connected component by pixel count, its box mapped to the photo, half-open
      IoU in float64; 0 if no box is left. ``exact-all``: the component that matches best.

    Raises `InputError` for different lengths, a map that is not of the stated size ``map_hw``, an image without a
    true box, a map with Inf (``exact``: or NaN), and an unknown protocol.

    >>> squares = torch.zeros(1, 8, 8); squares[:, 2:6, 2:6] = 1
    >>> ious = sweep_ious(squares, [torch.tensor([[2, 2, 6, 6]])], [(8, 8)], ["exact"])["exact"]
    >>> ious.shape, float(ious[0, 200])
    ((1, 1000), 1.0)
    """
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise unknown("protocol", protocol, PROTOCOLS)
    if not len(maps) == len(boxes) == len(places):
        raise InputError(
            f"{len(maps)} maps, boxes for {len(boxes)} images, {len(places)} places; expected one each"
        )
    rule = rule or BoxRule()

    def one(i: int) -> dict[str, Array]:
        raw = as_map(maps[i], map_hw)
        true_boxes = checked_boxes(torch.as_tensor(boxes[i])).double().cpu().numpy()
        if len(true_boxes) == 0:
            raise InputError(
                f"image {i} of the batch has no true box; only images with true boxes can be scored"
            )
        return _ious_of_one(raw, true_boxes, as_geometry(places[i]), protocols, rule)

    found = in_threads(one, range(len(maps)), workers)
    empty = np.zeros((0, len(TAUS)))
    return {name: np.stack([f[name] for f in found]) if found else empty for name in protocols}


def in_threads(function: Callable[[int], T], items: Iterable[int], workers: int) -> list[T]:
    """``[function(i) for i in items]`` in ``workers`` threads; the kernels release the GIL."""
    if workers <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))


def as_map(raw: Map, map_hw: tuple[int, int] | None = None) -> Array:
    """One raw map as a NumPy array (h, w); raises `InputError` if it is not of the stated size ``map_hw``."""
    tensor = torch.as_tensor(raw).detach().cpu()
    array: Array = (tensor if tensor.dtype == torch.float64 else tensor.float()).numpy()
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"a map has shape {tuple(array.shape)}; expected (h, w)")
    check_size(array, map_hw, "the map")
    if np.isinf(array).any():
        raise InputError("a map holds Inf")
    return array


def check_size(array: Array, stated_hw: tuple[int, int] | None, what: str) -> None:
    """Raise `InputError` with both sizes if the last two dimensions are not ``stated_hw``."""
    if stated_hw is not None and tuple(array.shape[-2:]) != tuple(stated_hw):
        (h, w), (height, width) = array.shape[-2:], stated_hw
        raise InputError(f"{what} is {h}×{w} (height × width); the stated size is {height}×{width}")


def as_geometry(place: Place) -> Geometry:
    """A `Geometry`; a size (H, W) stands for a map of the whole photo."""
    return place if isinstance(place, Geometry) else Geometry.identity((int(place[0]), int(place[1])))


def wsol_scoremap(raw: Array, rule: BoxRule | None = None, side: int = SIDE) -> Array:
    """A raw map (h, w) as wsolevaluation scores it: (side, side) float64 in [0, 1].

    Resized by OpenCV in float64, then (m - min) / max(m - min); all zeros if it is constant or holds NaN.

    >>> wsol_scoremap(np.array([[1.0, 3.0]]), side=2).tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    """
    import cv2

    rule = rule or BoxRule()
    resized: Array = cv2.resize(np.asarray(raw, np.float64), (side, side), interpolation=cv2.INTER_CUBIC)
    if np.isnan(resized).any() or resized.min() == resized.max():
        return np.zeros_like(resized)
    if rule.normalise != "minmax":
        return normalise(torch.from_numpy(resized), rule.normalise, rule.percentile).numpy()
    resized -= resized.min()
    resized /= resized.max()
    return resized


def wsol_true_boxes(boxes_xyxy: Array, geometry: Geometry, side: int = SIDE) -> Array:
    """True boxes (B, 4), half-open, in photo pixels -> inclusive corners at side × side, truncated.

    wsolevaluation uses inclusive corners, so 1 is subtracted from the far ones. If the network saw only part of the
    photo, corners are clipped to that part, as in the Rethinking CAM authors' code.

    >>> wsol_true_boxes(np.array([[10.0, 20.0, 111.0, 221.0]]), Geometry.identity((448, 224))).tolist()
    [[10.0, 10.0, 110.0, 110.0]]
    """
    x0, y0, x1, y1 = geometry.shown_xyxy
    inclusive = boxes_xyxy - np.array([0, 0, 1, 1])
    inclusive[:, 2:] = np.maximum(inclusive[:, 2:], inclusive[:, :2])  # boxes thinner than a pixel
    scaled = (inclusive - np.array([x0, y0, x0, y0])) * float(side) / np.array([x1 - x0, y1 - y0] * 2)
    truncated: Array = np.trunc(scaled)
    whole = (0.0, 0.0, float(geometry.photo_hw[1]), float(geometry.photo_hw[0]))
    return truncated if geometry.shown_xyxy == whole else truncated.clip(0, side - 1)


def _ious_of_one(
    raw: Array, true_boxes: Array, geometry: Geometry, protocols: Sequence[str], rule: BoxRule
) -> dict[str, Array]:
    found: dict[str, Array] = {}
    if any(name.startswith("wsol") for name in protocols):
        level = (wsol_scoremap(raw, rule) * 255).astype(np.uint8)
        ious = contour_ious(level, wsol_true_boxes(true_boxes, geometry), rule)
        found["wsol-v1"], found["wsol-v2"] = ious
    if "rethinking" in protocols:
        found["rethinking"] = _rethinking_ious(raw, wsol_true_boxes(true_boxes, geometry), rule)
    if any(name.startswith("exact") for name in protocols):
        found["exact"], found["exact-all"] = _exact_ious(raw, true_boxes, geometry, rule)
    return {name: found[name] for name in protocols}


def contour_ious(level: Array, true_boxes: Array, rule: BoxRule | None = None) -> tuple[Array, Array]:
    """V1's and V2's IoU at every τ for an 8-bit map (H, W) and inclusive true boxes (B, 4) of its size.

    >>> level = np.zeros((5, 5), np.uint8); level[1:4, 1:4] = 200
    >>> v1, v2 = contour_ious(level, np.array([[1.0, 1.0, 4.0, 4.0]]))
    >>> float(v1[500]), float(v2[500])
    (1.0, 1.0)
    """
    rule = rule or BoxRule()
    top = int(level.max())
    if top == 0:
        nothing = sweep.best_overlaps(np.zeros((1, 4)), true_boxes, 1.0)
        return np.full(len(TAUS), nothing[0]), np.full(len(TAUS), nothing[0])
    level = level.astype(np.int32)
    limit = np.array([level.shape[1] - 1, level.shape[0] - 1] * 2, np.float64)
    holes, filled = components.hole_lives(level, top)
    outer = components.component_lives(filled, top, _everywhere(level), True)
    boxes = np.minimum(_largest_contours(outer, level.size, top), limit)
    v1 = sweep.best_overlaps(boxes, true_boxes, 1.0)

    # All contours: of components outside holes, of islands in holes, and of the holes.
    islands = components.island_lives(level, top, holes)
    holes[:, components.X0 : components.Y1 + 1] += np.array([-1, -1, 1, 1], np.int32)  # the rim around it
    lives = np.concatenate([outer, islands, holes])
    overlap = sweep.best_overlaps(np.minimum(_boxes(lives), limit), true_boxes, 1.0)
    v2 = overlap[sweep.highest(lives, overlap, top)]
    at = _masks_at(level, rule)
    return v1[at], v2[at]


def _largest_contours(outer: Array, pixels: int, top: int) -> Array:
    """The box (top, 4), at each mask, of the contour with the largest area; of ties the last to begin."""
    return _boxes(outer)[
        sweep.highest(outer, _score(outer[:, components.SIZE], outer[:, components.FIRST], pixels), top)
    ]


def _score(size: Array, order: Array, pixels: int) -> Array:
    """Larger size first, then higher order; integers, exact in float64 up to 60 megapixels."""
    scores: Array = size.astype(np.float64) * (4 * pixels + 16) + order  # FIRST counts border pixels too
    return scores


def _everywhere(level: Array) -> Array:
    return np.full(level.shape, components.EVERYWHERE, np.uint8)


def _boxes(lives: Array) -> Array:
    boxes: Array = lives[:, components.X0 : components.Y1 + 1].astype(np.float64)
    return boxes


def _masks_at(level: Array, rule: BoxRule) -> Array:
    """The mask {u > m} of each τ: m = int(τ · max u), or of a percentile of u."""
    of = level.max() if rule.relative_to == "max" else np.percentile(level, rule.percentile)
    return np.asarray((TAUS * of).astype(np.int64))


def _rethinking_ious(raw: Array, true_boxes: Array, rule: BoxRule) -> Array:
    import cv2

    resized: Array = cv2.resize(np.asarray(raw, np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    low, high = resized.min(), resized.max()
    if not low < high:  # constant, or NaN: nothing to divide by
        whole = np.array([[0.0, 0.0, SIDE, SIDE]])
        return np.full(len(TAUS), sweep.best_overlaps(whole, true_boxes, 1.0)[0])
    level = ((resized - low) / (high - low) * 255).astype(np.uint8).astype(np.int32)
    top = int(level.max())
    _, filled = components.hole_lives(level, top)
    outer = components.component_lives(filled, top, _everywhere(level), True)
    ious: Array = sweep.best_overlaps(_largest_contours(outer, level.size, top), true_boxes, 1.0)
    return np.asarray(ious[_masks_at(level, rule)])


def sweep_boxes(raw: Map, place: Place, rule: BoxRule | None = None) -> Array:
    """The box of one raw map (h, w) at every τ of the grid, as protocol ``exact`` has it: (1000, 4) in photo pixels.

    NaN where nothing is left. Arguments as in `sweep_ious`.

    >>> square = torch.zeros(8, 8); square[2:6, 2:6] = 1
    >>> sweep_boxes(square, (8, 8))[200].tolist()
    [2.0, 2.0, 6.0, 6.0]
    """
    _, boxes, largest = _exact_lives(as_map(raw), as_geometry(place), rule or BoxRule())
    found = np.full((len(TAUS), 4), np.nan)
    found[: len(largest)] = boxes[largest]
    return found


def _exact_ious(raw: Array, true_boxes: Array, geometry: Geometry, rule: BoxRule) -> tuple[Array, Array]:
    lives, boxes, largest = _exact_lives(raw, geometry, rule)
    of_largest, best, top = np.zeros(len(TAUS)), np.zeros(len(TAUS)), len(largest)
    if top > 0:
        overlap = sweep.best_overlaps(boxes, true_boxes, 0.0)
        of_largest[:top] = overlap[largest]
        best[:top] = overlap[sweep.highest(lives, overlap, top)]
    return of_largest, best


@lru_cache(maxsize=8)
def _at_reference(rule: BoxRule) -> BoxRule:
    """The rule with the cutoff at what its thresholds are relative to; kept, since rules are validated when made."""
    return replace(rule, threshold=1.0)


def _exact_lives(raw: Array, geometry: Geometry, rule: BoxRule) -> tuple[Array, Array, Array]:
    """The lives of all regions, their boxes (n, 4) on the photo, and for each mask that is not empty its largest."""
    if np.isnan(raw).any():
        raise InputError("a map holds NaN")
    heatmap = make_heatmaps(torch.from_numpy(raw), geometry.input_hw, rule.normalise, rule.percentile)
    reference = cutoffs(heatmap, _at_reference(rule))
    level = sweep.levels_at_least(heatmap.numpy(), (reference * torch.from_numpy(TAUS).to(heatmap)).numpy())
    top = int(level.max())
    if top == 0:
        return np.zeros((0, components.COLUMNS), np.int32), np.zeros((0, 4)), np.zeros(0, np.int32)
    lives = components.component_lives(level.astype(np.int32), top, _everywhere(level), False)
    boxes = geometry.to_photo(torch.from_numpy(_boxes(lives))).numpy()
    size = _score(lives[:, components.SIZE], -lives[:, components.FIRST], level.size)
    return lives, boxes, sweep.highest(lives, size, top)
