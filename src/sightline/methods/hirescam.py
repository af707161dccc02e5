"""HiResCAM and elementwise Grad-CAM."""

from __future__ import annotations

from torch import Tensor

from sightline.engine import Evidence
from sightline.methods.registry import register_method
from sightline.targets import Target


@register_method("hirescam", paper="Draelos & Carin, 2020 (arXiv:2011.08891)")
def hirescam(evidence: Evidence, target: Target) -> Tensor:
    """L = ReLU(Σ_k g^k ⊙ A^k): Grad-CAM without averaging the gradient. Returns (N, h, w), ≥ 0.

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="hirescam", layer="0").maps.shape
    torch.Size([1, 1, 6, 6])
    """
    return (evidence.gradient(target) * evidence.activations).sum(1).relu()


@register_method("gradcam_elementwise", paper="the elementwise variant of Grad-CAM, in pytorch-grad-cam")
def gradcam_elementwise(evidence: Evidence, target: Target) -> Tensor:
    """L = Σ_k ReLU(g^k ⊙ A^k): only the evidence for the class, unit by unit. Returns (N, h, w), ≥ 0.

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="gradcam_elementwise", layer="0").maps.shape
    torch.Size([1, 1, 6, 6])
    """
    return (evidence.gradient(target) * evidence.activations).relu().sum(1)
