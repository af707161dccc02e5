"""Infer the geometry of an unknown transform by applying it to black, white, ramp and two-toned photos."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sightline.errors import InputError
from sightline.types import Geometry

_CORNERS, _HALF = (
    (0.15, 0.85),
    0.05,
)  # where patches are turned, and half their size, in shares of what is shown
_LEVELS = 4  # of 255, by which a patch differs from itself turned, on the mean
_MOSTLY = 0.5  # of what changes in the input lies where the patches are

Transform = Callable[[Image.Image], Tensor]
Floats = NDArray[np.float64]

_EXPECTED = "expected a fixed resize, crop or pad, then a scaling of the values"


@dataclass(frozen=True)
class Measured:
    """The transform's geometry, and the (x - mean) / std it applies to each channel in [0, 1].

    ``per_image``: it scales each photo by that photo's own values; ``mean`` and ``std`` then say nothing (0 and 1).
    """

    geometry: Geometry
    mean: tuple[float, ...]
    std: tuple[float, ...]
    per_image: bool = False


class _OwnValuesError(InputError):
    """What the probes show contradicts itself, as where each photo is scaled by its own values."""


def run(transform: Transform, photo: Image.Image) -> Tensor:
    """``transform(photo)`` as a plain float32 tensor (C, H, W), or `InputError` saying what it returned."""
    try:
        output: Any = transform(photo)
    except Exception as error:
        raise InputError(
            f"the transform failed on an RGB image of {photo.width} × {photo.height} pixels: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(output, Tensor) or output.ndim != 3 or not output.is_floating_point():
        got = f"{output.dtype} {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"the transform returns {got}; expected a float tensor of shape (C, H, W)")
    return output.detach().cpu().as_subclass(Tensor).float()


def measure(transform: Transform, photo_hw: tuple[int, int]) -> Measured:
    """Infer what ``transform`` does to photos of this size, to about a tenth of an input pixel.

    A black and a white photo give the normalisation. Two grey ramps, one along each side, give every input pixel's
    position on the photo; a line fitted to these positions is the geometry. A second pair of ramps over just the
    visible part refines it. Where uniform photos give nothing (each photo is standardised by its own values), the
    places at which two-toned photos turn from black to white give the geometry. Raises `InputError` if no line fits
    (rotation, mirroring, distortion), if the values are not a scaling of the photo's, and if the transform is random.

    >>> from torchvision.transforms.functional import pil_to_tensor
    >>> found = measure(lambda photo: pil_to_tensor(photo.crop((10, 20, 74, 84))).float() / 255, (100, 200))
    >>> [round(edge, 1) for edge in found.geometry.shown_xyxy]
    [10.0, 20.0, 74.0, 84.0]
    """
    before = _random_states()
    try:
        try:
            probe = _Probe(transform, photo_hw)
            (x0, x1), (y0, y1) = probe.extent(axis=1), probe.extent(axis=0)
        except _OwnValuesError as error:
            return _by_edges(transform, photo_hw, error)
        return Measured(Geometry(photo_hw, probe.input_hw, (x0, y0, x1, y1)), probe.mean, probe.std)
    finally:
        if _random_states() != before:  # this is the real fault, whatever else was raised
            raise InputError("the transform draws random numbers; expected the evaluation transform")


def _random_states() -> tuple[object, ...]:
    """The states of the usual random generators: drawing from one changes it."""
    numpy: Any = np.random.get_state()
    return (torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy[1].tobytes(), numpy[2])


def _values(transform: Transform, grey: NDArray[np.uint8]) -> Floats:
    """What the transform makes of a grey photo (H, W): (C, h, w)."""
    values: Floats = run(transform, Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2))).double().numpy()
    return values


def _by_edges(transform: Transform, photo_hw: tuple[int, int], refusal: InputError) -> Measured:
    """The geometry from photos that are black up to some place and white from there on, along either axis.

    Only differences within a photo are used, so that each may be scaled by its own values. Raises ``refusal`` where
    nothing of such photos is seen.
    """
    extents, shapes = [], set()
    for axis in (0, 1):
        places, edges = [], []
        for place in {round(photo_hw[axis] * k / 10) for k in range(1, 10)} - {0, photo_hw[axis]}:
            grey = np.zeros(photo_hw, np.uint8)
            grey[(slice(place, None), slice(None))[:: 1 - 2 * axis]] = 255
            shown = _values(transform, grey)
            shapes.add(shown.shape)
            if (edge := _edge(shown.mean(0) if axis == 0 else shown.mean(0).T)) is not None:
                places.append(place)
                edges.append(edge)
        count = shown.shape[1 + axis]
        if len(places) < 2 or len(shapes) > 1:
            raise refusal
        slope, offset = np.polyfit(edges, places, 1)
        if slope <= 0 or np.abs(slope * np.array(edges) + offset - places).max() > 1 + slope:
            raise InputError(f"the transform mirrors, rotates or distorts the photo; {_EXPECTED}")
        start, stop, near = offset, offset + slope * count, 0.2 * slope
        whole = float(photo_hw[axis])
        extents.append((0.0 if abs(start) < near else start, whole if abs(stop - whole) < near else stop))
    (y0, y1), (x0, x1) = extents
    channels, height, width = shapes.pop()
    geometry = Geometry(photo_hw, (height, width), (x0, y0, x1, y1))
    return Measured(geometry, (0.0,) * channels, (1.0,) * channels, per_image=True)


def _edge(rows: Floats) -> float | None:
    """Where rows (h, w), alike along w, turn from one value to a higher one; None if they do not, or near an end.

    >>> _edge(np.array([[1.0], [1.0], [1.0], [1.0], [4.0], [7.0], [7.0], [7.0], [7.0]]))
    4.5
    """
    lines = rows.mean(1)
    low, high = lines[0], lines[-1]
    if not np.isfinite(rows).all() or not high - low > 1e-6:
        return None
    level = (lines - low) / (high - low)
    if np.abs(rows - lines[:, None]).max() > 0.02 * (high - low) or level.min() < -0.2 or level.max() > 1.2:
        raise InputError(f"the transform rotates, distorts or pads the photo; {_EXPECTED}")
    edge = float(len(level) - level.sum())
    return edge if 4 <= edge <= len(level) - 4 else None


class _Probe:
    """The brightness a transform gives photos of one size."""

    def __init__(self, transform: Transform, photo_hw: tuple[int, int]) -> None:
        self.transform, self.photo_hw = transform, photo_hw
        self.black = self._shown(np.zeros(photo_hw, np.uint8))
        self.span = self._shown(np.full(photo_hw, 255, np.uint8)) - self.black
        self.input_hw = (self.black.shape[1], self.black.shape[2])
        strength = np.abs(self.span).min(axis=0)
        self.visible = strength > 0.5 * strength.max()  # elsewhere the transform pads
        if not strength.max() > 1e-6:
            raise _OwnValuesError(
                f"the transform maps black and white photos to the same values; {_EXPECTED}"
            )
        spans = np.median(self.span[:, self.visible], axis=1)
        blacks = np.median(self.black[:, self.visible], axis=1)
        self.std = tuple(float(1 / span) for span in spans)
        self.mean = tuple(float(-black / span) for black, span in zip(blacks, spans, strict=True))

    def _shown(self, grey: NDArray[np.uint8]) -> Floats:
        values = _values(self.transform, grey)
        if not np.isfinite(values).all():
            raise _OwnValuesError(f"the transform gives NaN or Inf for a uniform photo; {_EXPECTED}")
        if hasattr(self, "black") and values.shape != self.black.shape:
            raise InputError(
                f"the transform gives {self.black.shape}, then {values.shape}; expected one size"
            )
        return values

    def extent(self, axis: int) -> tuple[float, float]:
        """The range of the photo's height (axis 0) or width (1) that the input covers."""
        length = self.photo_hw[axis]
        roughly = self._fit(axis, 0.0, float(length))
        margin = 0.05 * (roughly[1] - roughly[0])
        start, stop = self._fit(axis, roughly[0] - margin, roughly[1] + margin)
        pixel = (stop - start) / self.input_hw[axis]
        if max(abs(start - roughly[0]), abs(stop - roughly[1])) > length / 64 + 1 + pixel:
            start, stop = self._at_full_contrast(axis, roughly)
        near = 0.1 * pixel  # below this it is measurement error
        return (0.0 if abs(start) < near else start), (float(length) if abs(stop - length) < near else stop)

    def _at_full_contrast(self, axis: int, roughly: tuple[float, float]) -> tuple[float, float]:
        """The range by a ramp from black to white in what is seen, which a transform that stretches contrast leaves.

        Raises `InputError` where that differs from the first ramp's, or two calls from each other: the crop moves.
        """
        start, stop = self._fit(axis, *roughly)
        pixel = (stop - start) / self.input_hw[axis]
        noise = np.random.default_rng(0).integers(0, 256, self.photo_hw, dtype=np.uint8)
        same = np.array_equal(self._shown(noise), self._shown(noise))
        if (
            not same
            or max(abs(start - roughly[0]), abs(stop - roughly[1])) > self.photo_hw[axis] / 64 + 1 + pixel
        ):
            raise InputError("the transform's crop changes between calls; expected a deterministic one")
        return start, stop

    def _fit(self, axis: int, low: float, high: float) -> tuple[float, float]:
        """`extent`, from a ramp rising from black at ``low`` to white at ``high``."""
        length, count = self.photo_hw[axis], self.input_hw[axis]
        places = np.arange(length) + 0.5
        ramp = np.clip((places - low) / (high - low), 0, 1)
        levels = self._levels(ramp, axis)
        # Resizing repeats the last pixel at the photo's edges, where no position can be read.
        edge = 0.03 * (ramp[-1] - ramp[0])
        inside = (levels > ramp[0] + edge) & (levels < ramp[-1] - edge)
        if length < 4 or inside.sum() < 2:
            return self._by_visibility(axis)
        centres = (np.arange(count) + 0.5)[inside]
        seen = low + levels[inside] * (high - low)
        slope, offset = np.polyfit(centres, seen, 1)
        wrong = np.abs(slope * centres + offset - seen).max()
        # One reading resolves no more than an 8-bit level, a photo pixel, and an input pixel.
        if slope <= 0 or wrong > (high - low) / 128 + 1 + abs(slope):
            turned = "mirrors or rotates" if slope <= 0 else "distorts"
            raise InputError(f"the transform {turned} the photo, or its values; {_EXPECTED}")
        return float(offset), float(offset + slope * count)

    def _levels(self, ramp: Floats, axis: int) -> Floats:
        """The brightness in [0, 1] of each input row (axis 0) or column (1), and NaN where it is padding."""
        grey = np.rint(ramp * 255).astype(np.uint8)
        photo = np.broadcast_to(grey[:, None] if axis == 0 else grey[None, :], self.photo_hw)
        shown = self._shown(photo)
        with np.errstate(divide="ignore", invalid="ignore"):
            level = np.where(self.visible, ((shown - self.black) / self.span).mean(axis=0), np.nan)
        some = self.visible.any(axis=1 - axis)
        lines: Floats = np.full(self.input_hw[axis], np.nan)
        rows = level if axis == 0 else level.T
        lines[some] = np.nanmean(rows[some], axis=1)
        spread = np.nanmax(np.abs(rows[some] - lines[some][:, None]))
        if spread > 0.02:  # the position on the photo must be constant along a line of the input
            raise InputError(f"the transform rotates or distorts the photo; {_EXPECTED}")
        return lines

    def _by_visibility(self, axis: int) -> tuple[float, float]:
        """For photos too small for a ramp: everything that is not padding is assumed to be the whole photo."""
        (lines,) = self.visible.any(axis=1 - axis).nonzero()
        first, last = int(lines[0]), int(lines[-1]) + 1
        per_line = self.photo_hw[axis] / (last - first)
        return -first * per_line, (self.input_hw[axis] - first) * per_line


def check_place(transform: Transform, photo: Image.Image, shown: Tensor, geometry: Geometry) -> None:
    """Raise `InputError` unless ``transform`` shows of this photo the part that it shows of others of its size.

    Near the corners of that part, patches of the photo are turned by 180°, which keeps its values as they are (flat
    ones are filled with pixels from anywhere in it); what changes in the input must lie where they are by ``geometry``.
    A transform that crops by content changes elsewhere.
    """
    pixels, before = np.array(photo), np.array(photo)
    expected = np.zeros(geometry.input_hw, bool)
    columns, rows = (_patches(geometry, axis) for axis in (0, 1))
    for (down, lines), (across, places) in product(rows, columns):
        patch = before[down, across]
        turned = patch[::-1, ::-1]
        if np.abs(patch.astype(float) - turned).mean() < _LEVELS:
            picked = np.random.default_rng(0).integers(0, photo.width * photo.height, patch.shape[:2])
            turned = before.reshape(-1, 3)[picked]
        pixels[down, across] = turned
        expected[lines, places] = True
    if np.array_equal(pixels, before):
        return  # a photo of one colour: nothing would change
    other = run(transform, Image.fromarray(pixels))
    apart = (
        (other - shown).abs().sum(0).numpy() if other.shape == shown.shape else np.ones_like(expected, float)
    )
    if not apart.sum() > 0 or apart[expected].sum() < _MOSTLY * apart.sum():
        raise InputError(
            f"the transform shows another part of this photo than of others of {photo.width} × {photo.height} pixels: "
            "it crops or turns by content; expected a fixed resize, crop or pad (crop the photos before, and explain "
            "what is left)"
        )


def _patches(geometry: Geometry, axis: int) -> list[tuple[slice, slice]]:
    """Along x (0) or y (1): where in the photo two patches lie, and where in the input, with some room around them."""
    low, high = geometry.shown_xyxy[axis], geometry.shown_xyxy[axis + 2]
    side, count = geometry.photo_hw[1 - axis], geometry.input_hw[1 - axis]
    first, last = max(0.0, low), min(float(side), high)
    found = []
    for share in _CORNERS:
        middle, half = first + share * (last - first), _HALF * (last - first)
        start, stop = round(middle - half), max(round(middle - half) + 1, round(middle + half))
        within = [(place - low) / (high - low) * count for place in (start, stop)]
        room = 2 + 0.02 * count
        found.append((slice(start, stop), slice(max(0, int(within[0] - room)), int(within[1] + room) + 1)))
    return found
