"""The ReLUs of a graph: guided backpropagation clamps what comes to them from above."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sightline.errors import UnsupportedError
from sightline.inspection.recording import tensors_in

_KINKED = {"ReluBackward0", "HardtanhBackward0"}  # and a clamp at 0 from below
_SMOOTH = {
    "LeakyReluBackward": "leaky ReLU",
    "GeluBackward": "GELU",
    "SiluBackward": "SiLU",
    "HardswishBackward": "hard swish",
    "EluBackward": "ELU",
    "CeluBackward": "CELU",
    "TanhBackward": "tanh",
    "MishBackward": "Mish",
    "SoftplusBackward": "softplus",
    "PreluKernelBackward": "PReLU",
    "RreluWithNoiseBackward": "RReLU",
}
_OPAQUE = ("CheckpointFunction", "CompiledFunction", "DifferentiableGraph")


class Switch:
    """Whether the next backward pass goes through the ReLUs by the guided rule."""

    guided = False


def guide_relus(output: Any, switch: Switch) -> None:
    """Before each ReLU's own backward (R·1[f > 0]), clamp what comes from above: R·1[f > 0]·1[R > 0].

    The autograd graph shows every ReLU, module, functional or in place; nothing can slip through unseen.
    """
    seen: set[Any] = set()
    todo = [t.grad_fn for t in tensors_in(output) if t.grad_fn is not None]
    count = 0

    def clamp(grads: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return (grads[0].clamp(min=0),) if switch.guided else None

    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        name = node.name()
        _refuse_unguidable(name, node)
        if name in _KINKED or (name.startswith("Clamp") and getattr(node, "_saved_min", None) == 0):
            node.register_prehook(clamp)
            count += 1
        todo.extend(following for following, _ in node.next_functions if following is not None)
    if not count:
        raise UnsupportedError(
            "guided backpropagation needs ReLU and this network has none; use 'saliency' or 'gradcam'"
        )


def _refuse_unguidable(name: str, node: Any) -> None:
    for start, activation in _SMOOTH.items():
        if name.startswith(start):
            raise UnsupportedError(
                f"guided backpropagation is defined for ReLU and this network has {activation}; "
                "use 'saliency' or 'gradcam'"
            )
    if any(word in name for word in _OPAQUE) or isinstance(node, torch.autograd.function.BackwardCFunction):
        raise UnsupportedError(f"guided backpropagation cannot see the ReLUs inside {name}; use 'saliency'")
    if name == "HardtanhBackward0" and float(node._saved_min_val) != 0:
        raise UnsupportedError("guided backpropagation is defined for ReLU and this network has hard tanh")
    if name == "ThresholdBackward0":
        raise UnsupportedError("guided backpropagation is defined for ReLU and this network has a threshold")
