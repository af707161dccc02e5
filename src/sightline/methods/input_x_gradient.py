"""Input × gradient."""

from __future__ import annotations

from torch import Tensor

from sightline.engine import Evidence
from sightline.methods.registry import register_method
from sightline.targets import Target


@register_method(
    "input_x_gradient",
    paper="Shrikumar et al., 2016 (arXiv:1605.01713)",
    needs=("input_gradient",),
    signed=True,
)
def input_x_gradient(evidence: Evidence, target: Target) -> Tensor:
    """x ⊙ ∂y^c/∂x, x the network's input (0: the data set's mean colour); signed (N, 3, H, W).

    On a network of ReLUs without biases the values sum to y^c. The map is the channel-wise maximum of the magnitude.

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2, bias=False))
    >>> e = sightline.explain(net, torch.rand(1, 3, 8, 8), method="input_x_gradient", classes=0)
    >>> bool(torch.isclose(e.signed.sum(), e.logits[0, 0], atol=1e-5))
    True
    """
    return evidence.images.detach() * evidence.input_gradient(target)
