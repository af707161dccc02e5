"""Which layer was the first to give NaN or Inf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sightline.inspection.guard import eval_mode, own_thread
from sightline.inspection.recording import tensors_in


def first_not_finite(network: nn.Module, images: Tensor) -> str:
    """Run again with an eye on every layer and say which was the first to give NaN or Inf."""
    found: list[str] = []
    if not torch.isfinite(images).all():
        return "the images hold NaN or Inf"

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not all(torch.isfinite(t).all() for t in tensors_in(output) if t.is_floating_point()):
                found.append(name or type(module).__name__)

        return hook

    handles = [m.register_forward_hook(own_thread(watch(name))) for name, m in network.named_modules()]
    try:
        with eval_mode(network), torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    first = found[0] if found else "an operation outside its layers"
    return f"the network's output holds NaN or Inf, first made by layer '{first}'"
