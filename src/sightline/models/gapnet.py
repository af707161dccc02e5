"""Network surgery (Zhou et al. 2016, sections 3 and 4.1): trunk → pooling → linear."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sightline.errors import unknown
from sightline.models.pooling import POOLINGS, make_pooling
from sightline.models.small import SmallTrunk, SmallVGG


class GapNet(nn.Module):
    """A classifier whose class maps are one matrix product: fc(pool(features(x)))."""

    def __init__(self, features: nn.Module, pool: nn.Module, channels: int, num_classes: int) -> None:
        super().__init__()
        self.features, self.pool = features, pool
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pool(self.features(images)))
        return logits


def build_gapnet(name: str, num_classes: int = 1000, theta: float = 0.1, **options: Any) -> GapNet:
    trunk_name, _, pooling = name.rpartition("-")
    trunks = {"small": SmallTrunk, "smallvgg": SmallVGG}
    if trunk_name not in trunks:
        raise unknown("network", name, [f"{t}-{p}" for t in trunks for p in POOLINGS])
    trunk = trunks[trunk_name](**options)
    return GapNet(trunk, make_pooling(pooling, theta), trunk.out_channels, num_classes)
