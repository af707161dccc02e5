"""RefineCAM: the product of the maps of several layers."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from sightline.engine import Evidence
from sightline.heatmap import normalise
from sightline.methods.cam import class_map
from sightline.methods.gradcam_pp import plus_plus
from sightline.methods.registry import register_method
from sightline.targets import Target

Base = Literal["gradcam_pp", "gradcam", "layercam"]


@register_method("refinecam", paper="Domeniconi et al., 2026 (arXiv:2605.14641)", layers="stages")
def refinecam(
    evidence: Evidence, target: Target, *, layers: str | list[str] = "stages", base: Base = "gradcam_pp"
) -> Tensor:
    """R = Π_l minmax(up(M^l)), min-maxed once more: as fine as the earliest layer, as focused as the last.

    M^l ≥ 0 is the map of ``base`` at layer l; a constant one counts as 0. ``layers``: "stages" (the last convolution of
    each resolution), "convs" or names; the authors take the four stages of a ResNet, without its stem: as names,
    ``layers=layer1,layer2,layer3,layer4``. With one layer it is ``base``, min-maxed. As in the authors' code.
    Returns (N, H, W) at the image's size, in [0, 1].

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                           torch.nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="refinecam").maps.shape
    torch.Size([1, 1, 8, 8])
    """
    gradients, product = evidence.gradients(target), None
    for number, (g, activations) in enumerate(zip(gradients, evidence.layers, strict=True)):
        full = evidence.upsampled(_map(base, g, activations), number)
        share = normalise(full, "minmax")
        product = share if product is None else product * share
    assert product is not None  # at least one layer
    return normalise(product, "minmax")


def _map(base: Base, g: Tensor, activations: Tensor) -> Tensor:
    if base == "gradcam_pp":
        return plus_plus(g, activations)
    if base == "gradcam":
        return class_map(g.mean((2, 3)), activations).relu()
    return (g.relu() * activations).sum(1).relu()
