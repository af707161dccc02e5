"""The graph of the browser page: from a photo's pixels to scores and one heatmap per method and class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sightline.engine import Evidence, observe
from sightline.errors import UnsupportedError
from sightline.export.graph import GraphOptions, MapGraph
from sightline.heatmap import fuse, make_heatmaps, propagate
from sightline.inspection.naming import named_layer
from sightline.inspection.stages import covered, last_stages
from sightline.inspection.structure import Structure
from sightline.methods.cam import class_map
from sightline.methods.spec import MethodSpec
from sightline.scores import ScoreRule
from sightline.targets import ClassTarget, resolve_classes


class PageGraph(nn.Module):
    """image (1, 3, H, W) in [0, 1] -> classes (1, K), scores (1, K), then per method heatmaps (1, K, H, W) in [0, 1].

    ``specs``: `cam` or `gradcam`, with or without ``nwc`` and the affinity walk, which need no gradient on a head of
    pooling and one linear layer. Raises `UnsupportedError` for any other.
    """

    def __init__(
        self,
        network: nn.Module,
        structure: Structure,
        specs: list[MethodSpec],
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
        size_hw: tuple[int, int],
        top: int = 5,
        score_rule: ScoreRule | None = None,
    ) -> None:
        super().__init__()
        for spec in specs:
            check_spec(spec)
        self.inner = MapGraph(network, structure, GraphOptions(top=top), *statistics, score_rule)
        self.specs, self.size_hw = specs, size_hw
        names: list[str] = []
        blank = torch.zeros(1, 3, *size_hw)
        self.stages: list[tuple[int, ...]] = []  # of each method, which of the observed layers it walks on
        for spec in specs:
            wanted = () if spec.affinity is None else spec.affinity.stages
            found = last_stages(network, blank, wanted) if isinstance(wanted, int) else wanted
            if any(covers is not None for covers in covered(network, found, blank)):
                raise UnsupportedError(f"{spec.label!r} walks on layers that cover only part of the image")
            names += [name for name in found if name not in names]
            self.stages.append(tuple(1 + names.index(name) for name in found))
        self.sites = [self.inner.layer, *(named_layer(network, name, blank) for name in names)]

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs, in order."""
        return ["classes", "scores", *(f"heat{number}" for number in range(len(self.specs)))]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        inner = self.inner
        evidence = observe(inner.network, inner.normalised(image), self.sites, gradient=False)
        evidence.head = inner.head
        logits = evidence.logits
        assert logits is not None  # a head was recognised
        classes = resolve_classes(f"top{inner.options.top}", logits)
        scores = inner.score_rule.probabilities(logits).gather(1, classes)
        heatmaps = [
            self._heatmaps(evidence, classes, spec, stages)
            for spec, stages in zip(self.specs, self.stages, strict=True)
        ]
        return classes, scores, *heatmaps

    def _heatmaps(
        self, evidence: Evidence, classes: Tensor, spec: MethodSpec, stages: tuple[int, ...]
    ) -> Tensor:
        targets = [ClassTarget(classes[:, k]) for k in range(classes.shape[1])]
        maps = torch.stack([_map(evidence, target, spec) for target in targets], 1)
        if spec.affinity is not None:
            layers, affinity = evidence.layers, spec.affinity
            powers = zip(stages, affinity.powers(len(stages)), strict=True)
            walked = [
                propagate(maps, layers[stage], power, affinity.steps, grid=affinity.grid)
                for stage, power in powers
            ]
            fused = fuse([one.flatten(0, 1) for one in walked], self.size_hw) if len(walked) > 1 else None
            maps = walked[0] if fused is None else fused.view(*maps.shape[:2], *self.size_hw)
        return make_heatmaps(maps, self.size_hw)


def check_spec(spec: MethodSpec) -> None:
    """Raise `UnsupportedError` unless the method needs one forward pass and no gradient."""
    others = set(spec.options) - {"nwc"}
    if (
        spec.name not in ("cam", "gradcam")
        or spec.flip
        or spec.scales
        or spec.layers
        or spec.smooth
        or spec.tencrop
        or others
    ):
        raise UnsupportedError(
            f"{spec.label!r} needs gradients or several forward passes, which a page without a server cannot have; "
            "expected cam or gradcam, with or without nwc and affinity, such as localise-fast"
        )


def _map(evidence: Evidence, target: ClassTarget, spec: MethodSpec) -> Tensor:
    """The class map, or (`gradcam`) its positive part; on these heads the two differ by 1/Z, which cancels later."""
    weight, _ = evidence.classifier_weights()
    chosen = weight[target.classes]
    maps = class_map(chosen.clamp(min=0) if spec.options.get("nwc") else chosen, evidence.activations)
    return maps.relu() if spec.name == "gradcam" else maps
