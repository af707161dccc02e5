"""What an explanation can do depends on what was explained: pictures, signals or volumes; images alone or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch

from sightline.errors import UnsupportedError
from sightline.inspection.inputs import rows_of

T = TypeVar("T")


def only_pictures(size: Sequence[int], what: str) -> None:
    """Raise `UnsupportedError` for signals (L,) and volumes (D, H, W).

    >>> only_pictures((8, 8), "a box")
    """
    if len(size) != 2:
        kind = "signals" if len(size) == 1 else "volumes"
        shape = " × ".join(map(str, size))
        raise UnsupportedError(f"{what} is of pictures, and these are {kind} of {shape}; use heatmaps()")


def for_image(explain: Callable[..., T], i: int, n: int) -> Callable[..., T]:
    """`explain` for image i of n alone, with its row of what the network takes beside the image."""
    given: Any = getattr(explain, "keywords", {}).get("inputs")
    return explain if given is None or n == 1 else partial(explain, inputs=rows_of(given, torch.tensor([i])))
