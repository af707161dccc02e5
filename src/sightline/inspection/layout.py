"""How a layer's tensor is a map: which axis is the batch, which the channels, and where the positions are."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from sightline.errors import InputError

MAX_PREFIX = 16  # class, distillation and register tokens
_AXES = {"nchw": 4, "nhwc": 4, "ntc": 3, "nct": 3, "ncl": 3, "ncdhw": 5}
_TOKENS = ("ntc", "nct")


@dataclass(frozen=True)
class Layout:
    """The order of a tensor's axes, and for tokens how they lie in the image.

    ``order`` "nchw", "nhwc"; "ntc" and "nct" for tokens (T = ``prefix`` + h·w, row by row); "ncl" and "ncdhw" for
    one and three spatial axes. ``grid`` (h, w) is needed for tokens only, ``prefix`` counts the tokens that stand
    before the patches and have no place. Raises `InputError` where these do not go together.

    >>> import torch
    >>> tokens = Layout("ntc", prefix=1, grid=(2, 3))
    >>> tokens.to_map(torch.zeros(5, 7, 4)).shape
    torch.Size([5, 4, 2, 3])
    >>> str(tokens)
    'ntc:1+2x3'
    """

    order: str = "nchw"
    prefix: int = 0
    grid: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.order not in _AXES:
            raise InputError(f"layout {self.order!r}; expected one of {', '.join(_AXES)}")
        if self.order in _TOKENS and (self.grid is None or not 1 <= len(self.grid) <= 3):
            raise InputError(
                f"layout {self.order!r} needs the grid of its tokens, e.g. '{self.order}:1+14x14'"
            )
        if not 0 <= self.prefix <= MAX_PREFIX or (self.prefix and self.order not in _TOKENS):
            raise InputError(
                f"layout {self.order!r} with {self.prefix} prefix tokens; expected 0 to {MAX_PREFIX}"
            )

    @classmethod
    def parse(cls, text: str) -> Layout:
        """A layout as it is written: an order, and for tokens their grid behind the number of prefix tokens.

        >>> Layout.parse("ntc:1+14x14"), Layout.parse("nhwc")
        (Layout(order='ntc', prefix=1, grid=(14, 14)), Layout(order='nhwc', prefix=0, grid=None))
        """
        order, _, rest = text.strip().lower().partition(":")
        found = re.fullmatch(r"(?:(\d+)\+)?(\d+(?:x\d+)*)", rest)
        if rest and found is None:
            raise InputError(f"layout {text!r}; expected 'nchw', 'nhwc', 'ntc:14x14' or 'ntc:1+14x14'")
        grid = tuple(int(side) for side in found[2].split("x")) if found else None
        return cls(order, int(found[1] or 0) if found else 0, grid)

    def __str__(self) -> str:
        if self.grid is None or self.order not in _TOKENS:
            return self.order
        prefix = f"{self.prefix}+" if self.prefix else ""
        return f"{self.order}:{prefix}{'x'.join(map(str, self.grid))}"

    @property
    def channel_axis(self) -> int:
        return 1 if self.order in ("nchw", "nct", "ncl", "ncdhw") else _AXES[self.order] - 1

    @property
    def spatial_axes(self) -> tuple[int, ...]:
        """The axes that hold positions (for tokens the one that holds all of them)."""
        return tuple(axis for axis in range(1, _AXES[self.order]) if axis != self.channel_axis)

    def mismatch(self, tensor: Tensor) -> str:
        """Why a tensor is not of this layout; "" where it is.

        >>> import torch
        >>> Layout("ntc", 1, (2, 3)).mismatch(torch.zeros(5, 8, 4))
        '8 tokens are not 1 + 2 × 3'
        """
        if tensor.ndim != _AXES[self.order]:
            return f"it has {tensor.ndim} axes and not {_AXES[self.order]}"
        sides = tuple(tensor.shape[axis] for axis in self.spatial_axes)
        if self.order in _TOKENS:
            assert self.grid is not None
            given = f"{self.prefix} + " if self.prefix else ""
            fits = sides[0] == self.prefix + math.prod(self.grid)
            return "" if fits else f"{sides[0]} tokens are not {given}{' × '.join(map(str, self.grid))}"
        if self.grid is not None and sides != self.grid:
            return f"its sides are {' × '.join(map(str, sides))} and not {' × '.join(map(str, self.grid))}"
        return ""

    def to_map(self, tensor: Tensor) -> Tensor:
        """The (N, C, *grid) view of a tensor; prefix tokens are left out."""
        if self.order == "nhwc":
            return tensor.movedim(-1, 1)
        if self.order not in _TOKENS:
            return tensor
        assert self.grid is not None
        tokens = tensor.transpose(1, 2) if self.order == "ntc" else tensor
        patches = tokens[:, :, self.prefix :]
        return patches.reshape(*patches.shape[:2], *self.grid)

    def from_map(self, maps: Tensor, like: Tensor) -> Tensor:
        """The inverse of `to_map`; prefix tokens are those of ``like``.

        >>> import torch
        >>> layout, tensor = Layout("ntc", 1, (2, 3)), torch.rand(5, 7, 4)
        >>> torch.equal(layout.from_map(layout.to_map(tensor), tensor), tensor)
        True
        """
        if self.order == "nhwc":
            return maps.movedim(1, -1)
        if self.order not in _TOKENS:
            return maps
        flat = maps.flatten(2)
        if self.order == "nct":
            return _joined(like[:, :, : self.prefix], flat, 2)
        return _joined(like[:, : self.prefix], flat.transpose(1, 2), 1)


def _joined(prefix: Tensor, patches: Tensor, axis: int) -> Tensor:
    """Prefix tokens before the patches."""
    return torch.cat([prefix.to(patches.dtype), patches], axis) if prefix.shape[axis] else patches


NCHW = Layout()
