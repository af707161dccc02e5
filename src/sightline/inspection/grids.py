"""Where the cells of a layer's grid look, exactly: convolutions, poolings and padding followed by arithmetic.

A map is enlarged to the image as if its grid covered all of it. Padding makes that right to less than a cell; a
convolution without padding loses half its reach at each edge, and behind a deep stack of them the grid's cells look at
the middle of the image, with the outermost seeing as far as the edge.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sightline.inspection.axes import bare
from sightline.inspection.functions import CONVOLUTIONS
from sightline.inspection.layers import Spans
from sightline.inspection.recording import Op

_TRANSPOSED = frozenset(f"conv_transpose{axes}d" for axes in (1, 2, 3))
# Of the image's side, beside one cell and two pixels: less is the usual play of strides and even kernels.
LEAST = 0.05


def given(op: Op, place: int, name: str, usual: Any) -> Any:
    """An argument of an operation."""
    args, kwargs = op.arguments
    return kwargs.get(name, args[place] if len(args) > place else usual)


def each(value: Any, count: int) -> tuple[int, ...]:
    """A number for every axis."""
    if isinstance(value, (tuple, list)):
        return tuple(value) if len(value) == count else (value[0],) * count
    return (value,) * count


def kernel_reach(op: Op) -> tuple[int, ...]:
    """How many positions a convolution or a pooling reaches over, along each axis; 1 for anything else."""
    axes = op.output.ndim - 2
    name = bare(op.function)
    if name in CONVOLUTIONS or name in _TRANSPOSED:
        apart, kernel = (
            given(op, 7 if name in _TRANSPOSED else 5, "dilation", 1),
            tuple(op.inputs[1].shape[2:]),
        )
    elif _pools(op):
        kernel = each(_window(op)[0], axes)
        apart = given(op, 4, "dilation", 1) if "max_pool" in name else 1
    else:
        return (1,) * axes
    return tuple(d * (k - 1) + 1 for d, k in zip(each(apart, axes), kernel, strict=False))


def _pools(op: Op) -> bool:
    """A pooling by a window of one size; those of adaptive and fractional ones lie over all of the map."""
    others = ("adaptive", "fractional", "unpool")
    return "pool" in op.function and not any(word in op.function for word in others)


def _window(op: Op) -> tuple[Any, Any]:
    """The kernel and the stride of a pooling; a norm's exponent stands before them."""
    place = 2 if "lp_pool" in op.function else 1
    kernel = given(op, place, "kernel_size", None)
    return kernel, given(op, place + 1, "stride", None) or kernel


def behind(op: Op, spans: Spans) -> Spans:
    """The edges of the grid behind an operation, of which those before it are ``spans``.

    Cell j of a convolution (kernel k, stride s, padding p) looks at position j·s − p + (k − 1)/2 of what it is given.
    """
    name, axes = bare(op.function), len(spans)
    if op.inputs[0].ndim != axes + 2:
        return spans
    sides, made, reach = op.inputs[0].shape[2:], op.output.shape[2:], kernel_reach(op)
    if name in CONVOLUTIONS:
        stride, padding = each(given(op, 3, "stride", 1), axes), given(op, 4, "padding", 0)
        if isinstance(padding, str):
            padding = [(k - 1) / 2 for k in reach] if padding == "same" else 0
    elif name in _TRANSPOSED:
        steps, pads = each(given(op, 3, "stride", 1), axes), each(given(op, 4, "padding", 0), axes)
        return tuple(
            _edges(start + step / 2 - step / s * ((k - 1) / 2 - p + 0.5), step / s, count)
            for (start, step), s, p, k, count in zip(
                _steps(spans, sides), steps, pads, reach, made, strict=True
            )
        )
    elif _pools(op):
        stride, padding = each(_window(op)[1], axes), 0 if "lp_pool" in name else given(op, 3, "padding", 0)
    else:
        return spans
    pads = each(padding, axes)
    return tuple(
        _edges(start + step * ((k - 1) / 2 - p + 0.5 - s / 2), step * s, count)
        for (start, step), s, p, k, count in zip(_steps(spans, sides), stride, pads, reach, made, strict=True)
    )


def paddings(op: Op, axes: int) -> list[tuple[int, int]] | None:
    """By how much each axis' edges move: (-before, after)."""
    pads = given(op, 1, "pad", None)
    if not isinstance(pads, (tuple, list)) or not all(isinstance(one, int) for one in pads):
        return None
    pairs = [(-before, after) for before, after in zip(pads[::2], pads[1::2], strict=True)]
    return [*[(0, 0)] * (axes - len(pairs)), *reversed(pairs)]


def moved(spans: Spans, changes: Sequence[tuple[int, int]], sides: Sequence[int]) -> Spans:
    """The spans with their edges moved by whole positions."""
    steps = [step for _, step in _steps(spans, sides)]
    return tuple(
        (start + before * step, stop + after * step)
        for (start, stop), (before, after), step in zip(spans, changes, steps, strict=True)
    )


def _steps(spans: Spans, sides: Sequence[int]) -> list[tuple[float, float]]:
    return [(start, (stop - start) / side) for (start, stop), side in zip(spans, sides, strict=True)]


def _edges(start: float, step: float, count: int) -> tuple[float, float]:
    return (start, start + step * count)


def widest(known: Iterable[Spans]) -> Spans:
    """The smallest spans that hold all of several.

    >>> widest([((0, 4),), ((1, 5),)])
    ((0, 5),)
    """
    axes = zip(*known, strict=True)
    return tuple((min(start for start, _ in spans), max(stop for _, stop in spans)) for spans in axes)


def ends_inside(exact: Spans, nominal: Spans, cells: Sequence[int]) -> bool:
    """Whether a grid's cells look at the middle only: at both edges of an axis a cell, 2 pixels and `LEAST` are left.

    >>> ends_inside(((6, 22),), ((0, 28),), (4,)), ends_inside(((0.5, 28.5),), ((0, 28),), (14,))
    (True, False)
    """
    for (start, stop), (first, last), count in zip(exact, nominal, cells, strict=True):
        lost = min(start - first, last - stop)
        if lost >= max((stop - start) / count, LEAST * (last - first), 2) and stop > start:
            return True
    return False
