"""What must hold of a layer while it is observed: one tensor, reached once, a map of the images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sightline.errors import InputError, UnsupportedError
from sightline.inspection.layers import LayerRef
from sightline.inspection.layout import NCHW
from sightline.inspection.recording import output_tensor, tensors_in


def one_tensor(site: LayerRef, output: Any) -> Tensor:
    """The one tensor that a layer returned."""
    found = output_tensor(output)
    if found is not None:
        return found
    inside = ", ".join(str(tuple(t.shape)) for t in tensors_in(output))
    raise InputError(
        f"layer '{site}' returns a {type(output).__name__} of ({inside}); expected one tensor (N, C, h, w): "
        f"name one of its submodules instead"
    )


class OtherPathError(InputError):
    """The network did not go the way that was found before: look again."""


def check_calls(site: LayerRef, calls: int) -> None:
    """Raise `OtherPathError` unless a layer was reached, and once where its name says no call."""
    if site.op is None and site.call is None and calls > 1:
        raise OtherPathError(
            f"layer '{site.name}' is called {calls} times in one pass; name one call: "
            + ", ".join(f"'{site.name}#{k}'" for k in range(min(calls, 4)))
        )
    if calls <= (site.call or 0) and (site.op is None or not calls):
        times = f"is called {calls} times" if calls else "is not reached"
        raise OtherPathError(f"layer '{site}' {times} in the forward pass; name one that is")


def check_map(site: LayerRef, activation: Tensor, images: Tensor) -> None:
    """Raise `InputError` unless a layer's tensor is a map of the images."""
    if torch.compiler.is_compiling():  # an exporter keeps sizes open; a check, or `len`, would settle them
        return
    layout, n = site.layout or NCHW, len(images)
    if len(activation) != n:
        raise OtherPathError(
            f"layer '{site}' returns {tuple(activation.shape)} for {n} image{'s' if n > 1 else ''}: its first axis "
            "is not the batch (`sightline layers MODEL` lists what may be named)"
        )
    wrong = layout.mismatch(activation)
    if wrong or layout.to_map(activation).shape[2:].numel() < 2 or not activation.is_floating_point():
        raise OtherPathError(
            f"layer '{site}' has no spatial map: it returns {tuple(activation.shape)}"
            f"{f', which is not {layout}: {wrong}' if site.layout and wrong else ''}; expected (N, C, h, w) "
            "with more than one position (`sightline layers MODEL` lists them)"
        )
    axes = layout.to_map(activation).ndim - 2
    if axes != images.ndim - 2 or (axes != 2 and site.covers is not None and not site.unpadded):
        what = (
            "covers only a part of its input" if axes == images.ndim - 2 else f"has {axes} axes of positions"
        )
        raise UnsupportedError(
            f"layer '{site}' {what}, and the input has {images.ndim - 2}, {tuple(images.shape)}: its maps cannot be "
            "laid over the input"
        )
