"""Guided backpropagation and Guided Grad-CAM."""

from __future__ import annotations

from torch import Tensor

from sightline.engine import Evidence
from sightline.methods.gradcam import gradcam
from sightline.methods.registry import register_method
from sightline.targets import Target


@register_method(
    "guided_backprop",
    paper="Springenberg et al., ICLR workshop 2015",
    needs=("input_gradient", "guided"),
    signed=True,
)
def guided_backprop(evidence: Evidence, target: Target) -> Tensor:
    """The gradient with respect to the image; each ReLU passes only R·1[f > 0]·1[R > 0]; signed (N, 3, H, W).

    Applies to every ReLU and ReLU6, as a module, a function or in place (a saturated ReLU6 passes nothing, as in its
    own derivative). Networks with leaky ReLU, GELU, SiLU, …, or without ReLU, are refused. The map is
    the channel-wise maximum of the magnitude.

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                           torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="guided_backprop").signed.shape
    torch.Size([1, 1, 3, 8, 8])
    """
    return evidence.input_gradient(target, guided=True)


@register_method(
    "guided_gradcam",
    paper="Selvaraju et al., ICCV 2017",
    needs=("activations", "gradient", "input_gradient", "guided"),
    signed=True,
)
def guided_gradcam(evidence: Evidence, target: Target) -> Tensor:
    """up(L_Grad-CAM) ⊙ guided backpropagation; signed (N, 3, H, W).

    The Grad-CAM factor uses the unmodified gradient; both come from one forward pass.

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                           torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="guided_gradcam", layer="1").maps.shape
    torch.Size([1, 1, 8, 8])
    """
    coarse = evidence.upsampled(gradcam(evidence, target))
    return coarse[:, None] * evidence.input_gradient(target, guided=True)
