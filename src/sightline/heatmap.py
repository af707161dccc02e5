"""From raw maps to heatmaps: upsampling, normalising, fusing. Pure torch, batched, on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.errors import InputError, unknown
from sightline.options import Count, Range, check_value, shown
from sightline.types import NORMALISATIONS

PERCENTILE = (Annotated[float, Range(0, 100)],)
UPSAMPLING_MODES = ("bilinear", "bicubic", "nearest")
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}  # by the number of axes
REDUCTIONS = ("sum", "mean", "max")
IVR_QUANTILE = 0.45
MOST_VALUES = 2**32  # of upsampled maps: 16 GiB in single precision
Spans = Sequence[tuple[float, float]]  # (y0, y1), (x0, x1): pixel edges


def as_planes(maps: Tensor, axes: int) -> Tensor:
    """Maps (..., *grid) with one to three spatial axes as pictures (..., h, w).

    A line is a picture of height 1; the slices of a volume lie below each other: (D, H, W) becomes (D·H, W).

    >>> as_planes(torch.zeros(2, 5), 1).shape, as_planes(torch.zeros(2, 3, 4, 5), 3).shape
    (torch.Size([2, 1, 5]), torch.Size([2, 12, 5]))
    """
    if axes == 2:
        return maps
    return maps.unsqueeze(-2) if axes == 1 else maps.flatten(-3, -2)


def from_planes(planes: Tensor, grid: Sequence[int]) -> Tensor:
    """The inverse of `as_planes`: pictures (..., h, w) -> (..., *grid).

    >>> from_planes(torch.zeros(2, 12, 5), (3, 4, 5)).shape
    torch.Size([2, 3, 4, 5])
    """
    return planes if len(grid) == 2 else planes.reshape(*planes.shape[:-2], *grid)


def upsample(maps: Tensor, size_hw: Sequence[int], mode: str = "bilinear") -> Tensor:
    """Resize maps (..., h, w) to (..., H, W) = ``size_hw``, aligning pixel centres.

    A size of one or three numbers is that of lines (..., l) or volumes (..., d, h, w): linear, trilinear. ``mode`` is
    ``bilinear``, ``bicubic`` (Keys, a = -0.75; it overshoots; pictures only) or ``nearest`` (by pixel centres), each
    with ``align_corners=False``. Leading dimensions are kept, float64 stays float64, half
    precision becomes float32. Raises `InputError` for an unknown mode or a size below 1.

    >>> upsample(torch.tensor([[0.0, 4.0]]), (1, 4))
    tensor([[0., 1., 3., 4.]])
    """
    if mode not in UPSAMPLING_MODES:
        raise unknown("upsampling mode", mode, UPSAMPLING_MODES)
    size = _size(size_hw)
    if mode == "bicubic" and len(size) != 2:
        raise InputError(f"size {tuple(size)} with mode 'bicubic'; expected 'bilinear' or 'nearest'")
    maps = _as_float_maps(maps, len(size))
    leading, grid = maps.shape[: -len(size)], maps.shape[-len(size) :]
    if tuple(grid) == tuple(size):
        return maps
    if not torch.compiler.is_compiling():  # an exporter keeps the batch size open
        _check_room(maps, leading.numel(), size)
    if maps.numel() == 0:
        return maps.new_zeros(*leading, *size)
    flat = maps.reshape(-1, 1, *grid)
    if mode == "nearest":
        resized = F.interpolate(flat, size=tuple(size), mode="nearest-exact")
    else:
        mode = _LINEAR[len(size)] if mode == "bilinear" else mode
        resized = F.interpolate(flat, size=tuple(size), mode=mode, align_corners=False)
    return resized.reshape(*leading, *size)


def place(maps: Tensor, covers: Spans, size_hw: tuple[int, int], repeat_edges: bool = False) -> Tensor:
    """Maps (..., h, w) whose grid covers a part of an image, or more than it, on the whole image: (..., H, W).

    ``covers``: the edges of the grid in pixels of the image, (y0, y1), (x0, x1). Bilinear, as `upsample`. What the grid
    does not cover shows nothing: 0, or the map's minimum where that is lower; a constant map stays constant. With
    ``repeat_edges`` it shows what the nearest cell does, as a convolution's outermost cells see as far as the edge.

    >>> place(torch.tensor([[1.0, 3.0]]), ((0, 1), (1, 3)), (1, 4))
    tensor([[0., 1., 3., 0.]])
    >>> place(torch.tensor([[1.0, 3.0]]), ((0, 1), (1, 3)), (1, 4), repeat_edges=True)
    tensor([[1., 1., 3., 3.]])
    """
    maps = _as_float_maps(maps)
    height, width = size_hw
    whole = ((0.0, float(height)), (0.0, float(width)))
    if repeat_edges:
        return resample(maps, covers, whole, size_hw)
    rows, columns = _centres(whole[0], height, maps), _centres(whole[1], width, maps)
    (top, bottom), (left, right) = covers
    inside = ((rows >= top) & (rows <= bottom))[:, None] & (columns >= left) & (columns <= right)
    low, high = torch.aminmax(maps.flatten(-2), dim=-1)
    nothing = torch.where(low == high, low, low.clamp(max=0))[..., None, None]
    return torch.where(inside, resample(maps, covers, whole, size_hw), nothing)


def spread(maps: Tensor, covers: Spans, size: Sequence[int]) -> Tensor:
    """Maps (..., *grid) whose cells look at the middle of an input of ``size``, at each of its positions.

    `place` with ``repeat_edges``, for one, two or three spatial axes.

    >>> spread(torch.tensor([1.0, 3.0]), ((1, 3),), (4,))
    tensor([1., 1., 3., 3.])
    """
    maps = _as_float_maps(maps, len(size))
    for axis, (span, side) in enumerate(zip(covers, size, strict=True), start=-len(size)):
        weights = _weights(_centres((0.0, float(side)), side, maps), span, maps.shape[axis])
        maps = (maps.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return maps


def resample(maps: Tensor, covers: Spans, wanted: Spans, size_hw: tuple[int, int]) -> Tensor:
    """Maps that cover one rectangle at the cells of a grid of ``size_hw`` over another; bilinear, edges repeated.

    >>> resample(torch.tensor([[1.0, 3.0, 5.0]]), ((0, 1), (0, 3)), ((0, 1), (1, 3)), (1, 2))
    tensor([[3., 5.]])
    """
    maps = _as_float_maps(maps)
    sides = (maps.shape[-2], maps.shape[-1])
    down, across = (
        _weights(_centres(want, count, maps), have, side)
        for want, count, have, side in zip(wanted, size_hw, covers, sides, strict=True)
    )
    return down @ maps @ across.T


def _centres(span: tuple[float, float], count: int, like: Tensor) -> Tensor:
    steps = torch.arange(count, dtype=like.dtype, device=like.device) + 0.5
    return span[0] + steps * ((span[1] - span[0]) / count)


def _weights(at: Tensor, span: tuple[float, float], side: int) -> Tensor:
    """(len(at), side): how much each of the cells that cover a span counts at each place."""
    cell = ((at - span[0]) / (span[1] - span[0]) * side - 0.5).clamp(0, side - 1)
    cells = torch.arange(side, dtype=at.dtype, device=at.device)
    return (1 - (cell[:, None] - cells).abs()).clamp(min=0)


def _size(size_hw: Sequence[int]) -> tuple[int, ...]:
    """The size, checked; an exporter's open sizes are left alone."""
    if torch.compiler.is_compiling():
        return tuple(size_hw)
    kind = {1: tuple[Count], 3: tuple[Count, Count, Count]}
    try:
        axes = len(size_hw) if isinstance(size_hw, (tuple, list, torch.Size)) else 2
        return tuple(check_value((kind.get(axes, tuple[Count, Count]),), size_hw, ""))
    except InputError:
        raise InputError(
            f"size_hw is {shown(size_hw)}; expected a height and a width of at least 1"
        ) from None


def _check_room(maps: Tensor, count: int, size: tuple[int, ...]) -> None:
    """Raise `InputError` for maps that no machine holds; what the machine says of them is no help."""
    values = count * math.prod(size)
    if values > MOST_VALUES:
        sides = " × ".join(f"{side:,}" for side in size)
        raise InputError(
            f"{count:,} maps of {sides} need {values * maps.element_size() / 2**30:,.0f} GiB; "
            f"expected at most {MOST_VALUES * maps.element_size() / 2**30:,.0f}"
        )


def normalise(maps: Tensor, how: str = "minmax", percentile: float = 90.0) -> Tensor:
    """Rescale each map of (..., H, W) to [0, 1] by its own values.

    - ``minmax``: (m - min) / (max - min)
    - ``max``: max(m, 0) / max
    - ``percentile``: (m - min) / percentile_i of (m - min), clipped to [0, 1]; if that percentile is 0
      (most of the map equals its minimum), every value above the minimum becomes 1, the limit of the formula
    - ``ivr``: max(m - q, 0) / max(m - q), q the 0.45-quantile (Kim et al., ICCV 2021)

    A map that has no positive value, or is constant, points nowhere: its heatmap is all zeros. NaN is
    passed through. Raises `InputError` for an unknown ``how`` or a percentile outside [0, 100].

    >>> normalise(torch.tensor([[-1.0, 0.0], [1.0, 3.0]]))
    tensor([[0.0000, 0.2500],
            [0.5000, 1.0000]])
    >>> normalise(torch.tensor([[-1.0, 0.0], [1.0, 3.0]]), "max")
    tensor([[0.0000, 0.0000],
            [0.3333, 1.0000]])
    """
    if how not in NORMALISATIONS:
        raise unknown("normalisation", how, NORMALISATIONS)
    maps = _as_float_maps(maps)
    if maps.numel() == 0:
        return maps
    return torch.where(_shows_nothing(maps), torch.zeros_like(maps), _rescale(maps, how, percentile))


def _rescale(maps: Tensor, how: str, percentile: float) -> Tensor:
    """The four equations; each divides a non-negative map by one of its own statistics."""
    if how == "max":
        shifted = maps.clamp(min=0)
    elif how == "ivr":
        shifted = (maps - quantile(maps, IVR_QUANTILE)[..., None, None]).clamp(min=0)
    else:
        shifted = maps - maps.amin((-2, -1), keepdim=True)
    if how != "percentile":
        return _divide_by_max(shifted)  # ivr: all zeros if the 0.45-quantile is the maximum
    percentile = check_value(PERCENTILE, percentile, f"percentile is {shown(percentile)};")
    scale = quantile(shifted, percentile / 100)[..., None, None]
    return torch.where(scale == 0, (shifted > 0).to(shifted), shifted / scale).clamp(max=1)


def make_heatmaps(
    maps: Tensor, size_hw: Sequence[int], normalise: str = "minmax", percentile: float = 90.0
) -> Tensor:
    """Raw maps (..., h, w) -> heatmaps (..., H, W) in [0, 1]: bilinear upsampling, then `normalise`.

    With a size of one or three numbers: lines, or volumes (see `upsample`), each normalised as a whole.
    Whether a map is blank (constant, or without a positive value) is decided on the raw map: upsampling a
    constant leaves rounding noise that normalisation would blow up.

    >>> make_heatmaps(torch.tensor([[0.0, 4.0]]), (1, 4))
    tensor([[0.0000, 0.2500, 0.7500, 1.0000]])
    >>> make_heatmaps(torch.tensor([[[-3.0, -1.0]], [[5.0, 5.0]]]), (1, 3))
    tensor([[[0., 0., 0.]],
            [[0., 0., 0.]]])
    """
    axes = len(size_hw) if isinstance(size_hw, (tuple, list)) and len(size_hw) in (1, 3) else 2
    maps = _as_float_maps(maps, axes)
    whole = upsample(maps, size_hw)
    planes = _normalise(as_planes(whole, axes), normalise, percentile)
    if maps.numel():
        planes = torch.where(_shows_nothing(as_planes(maps, axes)), torch.zeros_like(planes), planes)
    return from_planes(planes, whole.shape[-axes:])


_normalise = normalise  # `make_heatmaps` has an argument of that name


def difference(a: Tensor, b: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Where one raw map (..., h, w) is above another, and where below: (..., H, W) in [-1, 1].

    D = up(a - b) / max abs(up(a - b)); zeros if the two are the same. For class maps (Zhou et al., CVPR 2016) a - b
    is the class map of the difference of the two scores. Raises `InputError` for maps of different shapes.

    >>> difference(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 2.0]]), (1, 2))
    tensor([[ 1.0000, -0.5000]])
    """
    if a.shape != b.shape:
        raise InputError(f"maps of shapes {tuple(a.shape)} and {tuple(b.shape)}; expected the same")
    apart = upsample(_as_float_maps(a) - _as_float_maps(b), size_hw)
    largest = apart.abs().amax((-2, -1), keepdim=True)
    return torch.where(largest > 0, apart / largest.where(largest > 0, 1), torch.zeros_like(apart))


def fuse(
    maps: Sequence[Tensor], size_hw: tuple[int, int], reduce: str = "sum", per_layer_norm: bool = True
) -> Tensor:
    """Fuse the maps of several layers, each (N, h_l, w_l), into one (N, H, W).

    F = R_l( up(M^l) / max up(M^l) ) / max, with R the sum, mean or maximum over the layers: the fusion
    module of Fully-CAM (Song et al., IEEE Access 2022). ``per_layer_norm=False`` leaves out the inner
    division. A map whose maximum is not positive counts as zero. Raises `InputError` for no maps, unequal
    N, or an unknown ``reduce``.

    >>> fuse([torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[1.0, 4.0]]])], (1, 2))
    tensor([[[1.0000, 0.8000]]])
    """
    if reduce not in REDUCTIONS:
        raise unknown("reduction", reduce, REDUCTIONS)
    shapes = [tuple(layer.shape) for layer in maps]
    if not shapes or any(len(shape) != 3 or shape[0] != shapes[0][0] for shape in shapes):
        raise InputError(
            f"fuse was given maps of shapes {shapes}; expected one or more (N, h, w), all with the same N"
        )

    def full_size(layer: Tensor) -> Tensor:
        full = upsample(layer, size_hw)
        return _divide_by_max(full) if per_layer_norm else full

    total = full_size(maps[0])
    for layer in maps[1:]:  # one layer at a time: only two full-size maps in memory at once
        full = full_size(layer)
        total = torch.maximum(total, full) if reduce == "max" else total + full
    return _divide_by_max(total)  # the mean differs from the sum by a factor that cancels here


def propagate(
    maps: Tensor,
    features: Tensor,
    power: float = 4.0,
    steps: int = 2,
    limit: int = 2**24,
    grid: int | None = None,
) -> Tensor:
    """Spread maps (N, K, h, w) by a random walk between positions with similar features (N, C, H, W): (N, K, H, W).

    m ← A^steps · up(m), A = ReLU(f fᵀ)^power, each row divided by its sum, f (H·W, C) the features' unit vectors.
    Each position takes the mean of the positions similar to it. At most ``limit`` entries of A are in memory at once.
    ``grid``: features with more than grid² positions are averaged over areas until they have at most so many, and
    that is the size of the result. A position without features (a zero vector) resembles no other and keeps its
    value. Half precision becomes float32.
    Raises `InputError` for mismatched shapes, a power that is not above 0, and negative steps.

    >>> maps, features = torch.tensor([[[[4.0, 0.0, 2.0]]]]), torch.tensor([[[[1.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]])
    >>> propagate(maps, features)
    tensor([[[[2., 2., 2.]]]])
    """
    if maps.ndim != 4 or features.ndim != 4 or len(maps) != len(features):
        raise InputError(
            f"propagate was given maps {tuple(maps.shape)} and features {tuple(features.shape)}; "
            "expected (N, K, h, w) and (N, C, H, W)"
        )
    if power <= 0 or steps < 0:
        raise InputError(f"power={power}, steps={steps}; expected a power above 0 and 0 or more steps")
    size_hw = _within(features.shape[2], features.shape[3], grid)
    if size_hw != tuple(features.shape[2:]):
        features = F.interpolate(_as_float_maps(features), size=size_hw, mode="area")
    values = upsample(maps, size_hw).flatten(2).transpose(1, 2)  # (N, P, K)
    unit = F.normalize(_as_float_maps(features).flatten(2), dim=1)  # (N, C, P)
    places = unit.shape[2]
    at_once = max(1, limit // places**2)
    walked = [
        _walk(some, of, power, steps, max(1, limit // (places * at_once)))
        for some, of in zip(torch.split(values, at_once), torch.split(unit.to(values), at_once), strict=True)
    ]
    return torch.cat(walked).transpose(1, 2).reshape(*maps.shape[:2], *size_hw)


def _within(height: int, width: int, grid: int | None) -> tuple[int, int]:
    """The size with at most grid² positions, in about the same proportions.

    >>> _within(56, 28, 28), _within(14, 14, 28)
    ((39, 19), (14, 14))
    """
    if grid is None or height * width <= grid * grid:
        return height, width
    scale = grid / math.sqrt(height * width)
    return max(1, int(height * scale)), max(1, int(width * scale))


def _walk(values: Tensor, unit: Tensor, power: float, steps: int, rows: int) -> Tensor:
    """``steps`` steps of the walk on values (N, P, K), computing ``rows`` rows of the matrix (N, P, P) at a time."""
    whole = _transitions(unit, slice(None), power) if rows >= unit.shape[2] else None
    for _ in range(steps):
        if whole is not None:
            values = whole @ values
        else:
            starts = range(0, unit.shape[2], rows)
            values = torch.cat([_transitions(unit, slice(i, i + rows), power) @ values for i in starts], 1)
    return values


def _transitions(unit: Tensor, rows: slice, power: float) -> Tensor:
    """Rows of A = ReLU(f fᵀ)^power, each divided by its sum: unit vectors (N, C, P) -> (N, R, P)."""
    like = (unit[:, :, rows].transpose(1, 2) @ unit).clamp_(min=0).pow_(power)
    total = like.sum(2, keepdim=True)
    places = torch.arange(unit.shape[2], device=unit.device)
    own = (places[rows, None] == places).to(unit)
    return torch.where(total > 0, like / total.where(total > 0, 1), own)


def quantile(maps: Tensor, q: float) -> Tensor:
    """The q-quantile of each map (..., H, W) -> (...), interpolated linearly as in NumPy.

    By selection, not sorting, and without the size limit of `torch.quantile`.

    >>> quantile(torch.tensor([[0.0, 1.0], [2.0, 10.0]]), 0.5)
    tensor(1.5000)
    """
    if not 0 <= q <= 1:
        raise InputError(f"quantile q={q}; expected a number from 0 to 1")
    flat = _as_float_maps(maps).flatten(-2)
    position = q * (flat.shape[-1] - 1)
    low = math.floor(position)
    below = flat.kthvalue(low + 1, dim=-1).values
    if position == low:
        return below
    above = flat.kthvalue(low + 2, dim=-1).values
    return torch.lerp(below, above, position - low)


def _shows_nothing(maps: Tensor) -> Tensor:
    """(..., 1, 1) bool: no positive value, or the same value everywhere (False if there is a NaN)."""
    low, high = torch.aminmax(maps.flatten(-2), dim=-1)
    return ((high <= 0) | (low == high))[..., None, None]


def _divide_by_max(maps: Tensor) -> Tensor:
    high = maps.amax((-2, -1), keepdim=True)
    return torch.where(high <= 0, torch.zeros_like(maps), maps / high)


def _as_float_maps(maps: Tensor, axes: int = 2) -> Tensor:
    if maps.ndim < axes:
        expected = "(..., d, h, w)" if axes == 3 else "(..., h, w)"
        raise InputError(f"maps have shape {tuple(maps.shape)}; expected {expected}")
    return maps if maps.dtype in (torch.float32, torch.float64) else maps.float()
