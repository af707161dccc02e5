"""What one pass does to positions: crops, padding, resizing, mirroring, each with its numbers.

Where a layer's maps lie is found once per network and size. It holds for a pass that moves positions in the same way;
one that cuts elsewhere or mirrors this time (by the image's content, a flag, a new hook) has to be looked at anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from sightline.inspection.axes import bare
from sightline.inspection.recording import Op, function_name

Move = tuple[Any, ...]  # the function's name, and its arguments other than tensors

_FIRST_AXIS = frozenset(["narrow", "select"])  # of which the first axis holds the images
_MOVERS = frozenset(
    ["getitem", "flip", "fliplr", "flipud", "roll", "rot90", "pad", "interpolate", "upsample", "upsample_nearest",
     "upsample_bilinear", "grid_sample", "affine_grid", "unfold", "fold", "pixel_shuffle", "pixel_unshuffle", "gather",
     "index_select", "take_along_dim", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", *_FIRST_AXIS]
)  # fmt: skip


def move_of(name: str, arguments: Any) -> Move | None:
    """What a function does to positions, spelled without its tensors; None for nothing.

    An index or a cut along the first axis picks images and moves nothing.

    >>> import torch
    >>> x = torch.zeros(1, 3, 8, 8)
    >>> move_of("flip", ((x, [-1]), {})), move_of("relu", ((x,), {}))
    (('flip', (-1,)), None)
    >>> move_of("__getitem__", ((x, (slice(0, 1), ..., slice(2, 6))), {})), move_of("__getitem__", ((x, 0), {}))
    (('getitem', (Ellipsis, (2, 6, None))), None)
    """
    name, (args, kwargs) = bare(name), arguments
    if name not in _MOVERS:
        return None
    if name == "getitem":
        index = _plain(args[1]) if isinstance(args[1], tuple) else (_plain(args[1]),)
        index = index if index[:1] == (...,) else index[1:]
        return (name, index) if any(part not in (..., None, _ALL) for part in index) else None
    if name in _FIRST_AXIS and (args[1] if len(args) > 1 else kwargs.get("dim")) == 0:
        return None
    return (name, *map(_plain, args[1:]), *((key, _plain(kwargs[key])) for key in sorted(kwargs)))


_ALL = (None, None, None)  # `slice(None)`, spelled


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return int(value) if value.ndim == 0 and not value.is_floating_point() else "tensor"
    if isinstance(value, slice):
        return (_plain(value.start), _plain(value.stop), _plain(value.step))
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value


class Moves(TorchFunctionMode):
    """Counts what the pass that runs inside does to positions, until it has ``ended``."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Move] = Counter()
        self.ended = self._paused = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self.ended and not self._paused:
            name = function_name(func)
            if name.strip("_") in _MOVERS and (move := move_of(name, (args, kwargs or {}))) is not None:
                self.counts[move] += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def pause(self) -> Iterator[None]:
        """The observer's own operations are not the network's."""
        was, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = was


def moves_in(ops: Sequence[Op]) -> tuple[tuple[int, Move], ...]:
    """What the operations of a record do to positions, each with its number."""
    found = ((op.index, move_of(op.function, op.arguments)) for op in ops)
    return tuple((index, move) for index, move in found if move is not None)


def same_moves(before: Counter[Move], now: Counter[Move], same_number: bool) -> bool:
    """Whether two passes move positions alike; of other numbers of images, whether they make the same moves."""
    return before == now if same_number else before.keys() == now.keys()
