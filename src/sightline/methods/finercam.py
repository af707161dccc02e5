"""Finer-CAM: why this class and not that one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sightline.engine import Evidence
from sightline.errors import UnsupportedError, unknown
from sightline.methods.gradcam import gradcam
from sightline.methods.layercam import layercam
from sightline.methods.registry import register_method
from sightline.options import Count
from sightline.targets import CallableTarget, ClassTarget, Target, logits_of

BASES = {"gradcam": gradcam, "layercam": layercam}


def most_similar(logits: Tensor, classes: Tensor, n: int) -> Tensor:
    """The n other classes with scores nearest to that of ``classes`` (N,): indices (N, n), nearest first.

    >>> import torch
    >>> most_similar(torch.tensor([[5.0, 4.0, 1.0, 7.0]]), torch.tensor([0]), 2)
    tensor([[1, 3]])
    """
    own = logits.gather(1, classes[:, None])
    distance = (logits - own).abs().scatter(1, classes[:, None], float("inf"))
    return distance.topk(n, dim=1, largest=False, sorted=True).indices


@register_method("finercam", paper="Zhang et al., CVPR 2025")
def finercam(
    evidence: Evidence, target: Target, *, gamma: float = 0.6, n: Count = 3, base: str = "gradcam"
) -> Tensor:
    """``base`` (Grad-CAM or LayerCAM) of y^c − γ · (1/n) Σ_d y^d over the n most similar other classes d.

    What class c shares with the others cancels; what distinguishes it remains. The most similar classes are those
    with scores y^d nearest to y^c in this image (as in the authors' code, which weights them by probability;
    here all weigh the same); if there are fewer than n, all of them. γ = 0 is ``base`` itself.
    Returns (N, h, w), ≥ 0. Raises `UnsupportedError` for a target that is not a class: give a `targets.Contrast`.

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="finercam", layer="0").maps.shape
    torch.Size([1, 1, 6, 6])
    """
    if base not in BASES:
        raise unknown("finercam base", base, BASES)
    logits = evidence.logits
    if not isinstance(target, ClassTarget) or logits is None:
        raise UnsupportedError("finercam compares classes, not a callable target; use 'gradcam'")
    if logits.shape[1] < 2:
        raise UnsupportedError("finercam compares classes and this network has one output; use 'gradcam'")
    others = most_similar(logits, target.classes, min(n, logits.shape[1] - 1))
    return BASES[base](evidence, CallableTarget(_Contrast(target, others, gamma)))


@dataclass(frozen=True, eq=False)
class _Contrast:
    """y^c − γ · mean_d y^d with the classes d of each image (N, n)."""

    target: ClassTarget
    others: Tensor
    gamma: float

    def __call__(self, output: Any) -> Tensor:
        logits = logits_of(output)
        assert logits is not None
        return self.target(output) - self.gamma * logits.gather(1, self.others).mean(1)
