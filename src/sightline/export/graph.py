"""The network and its post-processing as one module: from image to scores, class maps, heatmaps and boxes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sightline.boxes import make_masks
from sightline.engine import Evidence, observe
from sightline.errors import InputError, UnsupportedError, unknown
from sightline.export.region_boxes import largest_boxes
from sightline.heatmap import make_heatmaps
from sightline.inspection.structure import Structure
from sightline.methods.cam import cam, class_map
from sightline.methods.spec import parse_method
from sightline.scores import ScoreRule
from sightline.targets import ClassTarget, resolve_classes
from sightline.types import BoxRule

METHODS = ("cam", "gradcam")
INPUTS = ("rgb", "uint8", "normalised")
NORMALISATIONS = ("minmax", "max")  # the others need a quantile, for which ONNX has no operator


@dataclass(frozen=True)
class GraphOptions:
    """What the graph computes; kept in the file's metadata.

    ``method``  "cam", or "gradcam" in its closed form for the same heads.
    ``top``     at most this many classes per image, most probable first.
    ``input``   "rgb": float in [0, 1]; "uint8": 0 to 255; "normalised": as the network was trained.
    ``normalise``, ``threshold``  for the heatmaps ("minmax" or "max") and the boxes (a share of the maximum).
    ``boxes``   whether the graph outputs boxes.
    ``any_size``  whether height and width are free, or fixed to the model's input.
    """

    method: str = "cam"
    top: int = 5
    input: str = "rgb"
    normalise: str = "minmax"
    threshold: float = 0.2
    boxes: bool = True
    any_size: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            if parse_method(self.method).name in METHODS:  # raises for an unknown name
                raise UnsupportedError(
                    f"an ONNX graph draws 'cam' or 'gradcam' as they are, without options and combinators; got "
                    f"{self.method!r}: use one of them, or --format web, which takes nwc and affinity too"
                )
            raise UnsupportedError(
                f"method {self.method!r} needs gradients or many forward passes, which an ONNX graph cannot have; "
                "use 'cam', or 'gradcam', which has a closed form on the same networks"
            )
        if self.input not in INPUTS:
            raise unknown("input", self.input, INPUTS)
        if self.normalise not in NORMALISATIONS:
            raise unknown("normalisation in an ONNX graph", self.normalise, NORMALISATIONS)
        if not 0 <= self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold}; expected a share, 0 to 1")
        if self.top < 1:
            raise InputError(f"top is {self.top}; expected at least 1")

    @property
    def outputs(self) -> tuple[str, ...]:
        names = ("logits", "classes", "scores", "maps", "heatmaps")
        return (*names, "boxes") if self.boxes else names


class MapGraph(nn.Module):
    """image (N, 3, H, W) -> logits (N, C), classes (N, K), scores (N, K), maps (N, K, h, w), heatmaps
    (N, K, H, W) in [0, 1], boxes (N, K, 4) in input pixels, half-open; [0, 0, 0, 0] for an empty map.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> from sightline.inspection.structure import inspect_network
    >>> structure = inspect_network(net, torch.zeros(1, 3, 8, 8))
    >>> graph = MapGraph(net, structure, GraphOptions(top=2, input="normalised"))
    >>> [tuple(output.shape) for output in graph(torch.rand(1, 3, 8, 8))]
    [(1, 2), (1, 2), (1, 2), (1, 2, 6, 6), (1, 2, 8, 8), (1, 2, 4)]
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        structure: Structure,
        options: GraphOptions,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        score_rule: ScoreRule | None = None,
    ) -> None:
        super().__init__()
        if structure.head is None or structure.target is None:
            raise UnsupportedError(
                f"an ONNX graph has no gradients, so it needs a head of pooling and one linear layer (or a 1×1 "
                f"class convolution and pooling), whose class maps need none; of this network "
                f"{structure.why_no_head}. Export one with such a head (`sightline models '*-gap'`), "
                "or explain this one in Python"
            )
        if structure.target.unpadded:
            raise UnsupportedError(
                "this network's convolutions have no padding, so that its maps lie in the middle of the image, which "
                "the graph's heatmaps would not show; give them padding, or explain this network in Python"
            )
        if structure.target.covers is not None:
            raise UnsupportedError(
                "this network crops or pads the image inside, which the graph's heatmaps would not show; "
                "do that to the images before, and export the rest of the network"
            )
        self.network, self.layer, self.head = network, structure.target, structure.head
        weight = network.get_submodule(self.head.module).weight
        assert isinstance(weight, Tensor)
        self.options = replace(options, top=min(options.top, len(weight)))
        self.score_rule = score_rule or ScoreRule("softmax" if len(weight) > 1 else "sigmoid")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        options = self.options
        evidence = observe(self.network, self.normalised(image), [self.layer], gradient=False)
        evidence.head = self.head
        logits = evidence.logits
        assert logits is not None  # a head was recognised
        classes = resolve_classes(f"top{options.top}", logits)
        scores = self.score_rule.probabilities(logits).gather(1, classes)
        method = cam if options.method == "cam" else closed_gradcam
        maps = torch.stack([method(evidence, ClassTarget(classes[:, k])) for k in range(options.top)], 1)
        heatmaps = make_heatmaps(maps, (image.shape[2], image.shape[3]), options.normalise)
        if not options.boxes:
            return logits, classes, scores, maps, heatmaps
        masks = make_masks(heatmaps, BoxRule(options.threshold, select="all"))
        boxes = largest_boxes(masks.flatten(0, 1)).reshape(-1, options.top, 4)
        return logits, classes, scores, maps, heatmaps, boxes

    def normalised(self, image: Tensor) -> Tensor:
        if self.options.input == "normalised":
            return image
        values = image.float() / 255 if self.options.input == "uint8" else image
        return (values - self.mean) / self.std


def closed_gradcam(evidence: Evidence, target: ClassTarget) -> Tensor:
    """Grad-CAM in closed form for a head of pooling and one linear layer: L = ReLU(Σ_k w_k A^k) / Z.

    For GAP, GMP and TAP the mean gradient is α_k = w_k / Z. If the head is a class convolution followed by a ReLU,
    only positions with a positive score pass the gradient: α_k = w_k / Z · (their share).

    >>> import sightline
    >>> from sightline.inspection.structure import inspect_network
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> image, structure = torch.rand(1, 3, 8, 8), inspect_network(net, torch.zeros(1, 3, 8, 8))
    >>> graph = MapGraph(net, structure, GraphOptions("gradcam", top=2, input="normalised"))
    >>> bool(torch.allclose(graph(image)[3], sightline.explain(net, image, classes="top2").maps, atol=1e-6))
    True
    """
    assert evidence.head is not None
    weight, bias = evidence.classifier_weights()
    maps = class_map(weight[target.classes], evidence.activations)
    positions = maps.shape[1] * maps.shape[2]
    if not evidence.head.relu:
        return maps.relu() / positions
    passed = ((maps + bias[target.classes][:, None, None]) > 0).to(maps).mean((1, 2), keepdim=True)
    return maps.relu() * passed / positions
