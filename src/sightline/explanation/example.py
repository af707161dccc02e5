"""A tiny `Explanation`, made without `explain`, which lies below."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from sightline.methods import get_method
from sightline.methods.observation import observe_for
from sightline.targets import ClassTarget
from sightline.types import Geometry

if TYPE_CHECKING:
    from sightline.explanation import Explanation


def example(method: str = "gradcam") -> Explanation:
    """A tiny explanation for the doctests: 4 channels, 2 classes, 8×8 pixels."""
    from sightline.explanation import Explanation

    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    for parameter in net.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator)
    images, chosen = torch.rand(1, 3, 8, 8, generator=generator), get_method(method)
    evidence, layers = observe_for(chosen, net, images)
    classes = torch.ones(1, 1, dtype=torch.int64)
    return Explanation(
        maps=chosen.function(evidence, ClassTarget(classes[:, 0]))[:, None].detach(),
        classes=classes,
        logits=evidence.logits,
        signed=None,
        geometries=[Geometry.identity((8, 8))],
        method=method,
        model_name="Sequential",
        view="tensor",
        layers=[str(layer) for layer in layers],
        options=chosen.checked_options({}),
        input_hw=(8, 8),
        images=images,
        score_rule=evidence.score_rule,
        _evidence=evidence,
    )
