"""A classifier with a box regressor: class and box from one forward pass."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sightline.errors import InputError, UnsupportedError, unknown
from sightline.models.families.gapnet import GapNet, build_gapnet


class BoxHead(nn.Module):
    """Features (N, C, h, w) -> raw boxes (N, 4): 1×1 convolution, pooling to a grid, one linear layer.

    The maps are averaged into ``grid`` × ``grid`` cells, so that any input size works.

    >>> BoxHead(16, hidden=8, grid=4)(torch.zeros(2, 16, 6, 5)).shape
    torch.Size([2, 4])
    """

    def __init__(self, channels: int, hidden: int = 64, grid: int = 8) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()
        )
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.fc = nn.Linear(hidden * grid * grid, 4)
        # The initial prediction is the centre box of half the height and width, for any photo.
        nn.init.normal_(self.fc.weight, std=1e-3)
        nn.init.zeros_(self.fc.bias)

    def forward(self, features: Tensor) -> Tensor:
        raw: Tensor = self.fc(self.pool(self.reduce(features)).flatten(1))
        return raw


class EdgeHead(nn.Module):
    """Features (N, C, h, w) -> edges (N, 4), relative: each edge is located along rows or columns.

    After a 1×1 convolution the maps are pooled (mean and maximum) over the rows; a convolution along the
    columns scores 2w + 1 positions for the left and the right edge, and the edge is the mean position under the
    softmax of the scores (soft-argmax); the same for top and bottom. The appearance of an edge is learned once
    for all positions, so it takes fewer epochs than `BoxHead`.

    >>> EdgeHead(16, hidden=8)(torch.zeros(2, 16, 6, 5)).shape
    torch.Size([2, 4])
    """

    def __init__(self, channels: int, hidden: int = 64) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()
        )
        self.across = nn.Conv1d(2 * hidden, 2, 3, padding=1)
        self.down = nn.Conv1d(2 * hidden, 2, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        reduced = self.reduce(features)
        x, y = (
            _soft_argmax(scorer(torch.cat([reduced.mean(dim), reduced.amax(dim)], 1)))
            for dim, scorer in ((2, self.across), (3, self.down))
        )
        return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)


def _soft_argmax(scores: Tensor) -> Tensor:
    """(N, 2, n) scores -> (N, 2) mean positions in [0, 1]; the n positions are the cells' borders and centres."""
    places = 2 * scores.shape[-1] + 1
    fine = nn.functional.interpolate(scores.float(), size=places, mode="linear", align_corners=True)
    return fine.softmax(-1) @ torch.linspace(0, 1, places, device=scores.device)


HEADS = ("grid", "edges")


def decode(raw: Tensor) -> Tensor:
    """Raw (N, 4) -> edges (N, 4) x0, y0, x1, y1 relative to width and height, not yet clipped.

    Centre and size are the sigmoids of the raw numbers: (cx, cy, w, h) = σ(raw), edges = c ∓ size / 2.

    >>> decode(torch.zeros(1, 4))
    tensor([[0.2500, 0.2500, 0.7500, 0.7500]])
    """
    shares = raw.sigmoid()
    centre, half = shares[..., :2], shares[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


class RefinedNet(nn.Module):
    """A `GapNet` with a box regressor in parallel to its last layers (PSOL: Zhang et al., CVPR 2020).

    ``shared``: how many of the first parts of the classifier's trunk both use, frozen; the
    rest are copied for the regressor, and the logits stay bit-identical to the classifier's. ``depth``: how many parts
    the regressor has in all (None: as many as the classifier). Calling it runs the classifier, so every method explains
    it as before; `localise` returns class and box.

    >>> net = RefinedNet(build_gapnet("small-gap", 5), shared=4, hidden=8, grid=2).eval()
    >>> logits, boxes = net.localise(torch.zeros(2, 3, 64, 64))
    >>> logits.shape, boxes.shape
    (torch.Size([2, 5]), torch.Size([2, 4]))
    """

    def __init__(
        self,
        classifier: nn.Module,
        shared: int = 0,
        hidden: int = 64,
        grid: int = 8,
        head: str = "grid",
        depth: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(classifier, GapNet):
            raise UnsupportedError(
                f"a box regressor needs a trunk with pooling and one linear layer (a GapNet, such as "
                f"resnet50-gap); got {type(classifier).__name__}"
            )
        self.classifier = classifier.requires_grad_(False)
        self.shared = shared
        self.trunk = copy.deepcopy(_after(classifier.features, shared, depth)).requires_grad_(True)
        if head not in HEADS:
            raise unknown("head", head, HEADS)
        channels = classifier.fc.in_features if depth is None else _channels(classifier.features, depth)
        self.box_head = BoxHead(channels, hidden, grid) if head == "grid" else EdgeHead(channels, hidden)
        self.classifier.eval()

    def train(self, mode: bool = True) -> RefinedNet:
        """Set the regressor's mode; the classifier stays in eval mode, with its statistics unchanged."""
        super().train(mode)
        self.classifier.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(images)
        return logits

    def regress(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> edges (N, 4) relative to width and height, not clipped; used in training."""
        return self.regress_behind(self.shared_maps(images))

    @torch.no_grad()
    def shared_maps(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> the output of the shared parts, or the images if nothing is shared."""
        return self._begin(images)

    def regress_behind(self, maps: Tensor) -> Tensor:
        """The edges (N, 4) from `shared_maps`."""
        return self._edges(maps)

    def localise(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, C) and boxes (N, 4) in input pixels, half-open, from one pass through the shared part."""
        begun = self._begin(images)
        features = _after(self.classifier.features, self.shared)(begun)
        logits = self.classifier.fc(self.classifier.pool(features))
        return logits, to_pixels(self._edges(begun), images)

    def predict_boxes(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> one box per image, (N, 4) xyxy in input pixels, half-open, inside the image."""
        return to_pixels(self.regress(images), images)

    def _edges(self, begun: Tensor) -> Tensor:
        found: Tensor = self.box_head(self.trunk(begun))
        return found if isinstance(self.box_head, EdgeHead) else decode(found)

    def _begin(self, images: Tensor) -> Tensor:
        if not self.shared:
            return images
        for part in list(_sequence(self.classifier.features))[: self.shared]:
            images = part(images)
        return images


def to_pixels(edges: Tensor, images: Tensor) -> Tensor:
    """Relative edges (N, 4) -> pixels of ``images`` (N, 3, H, W), clipped.

    >>> to_pixels(torch.tensor([[-0.1, 0.5, 0.5, 1.0]]), torch.zeros(1, 3, 8, 4))
    tensor([[0., 4., 2., 8.]])
    """
    height, width = images.shape[-2:]
    return edges.clamp(0, 1) * edges.new_tensor([width, height, width, height])


def _sequence(features: nn.Module) -> nn.Sequential:
    if not isinstance(features, nn.Sequential):
        raise UnsupportedError(
            f"the trunk is a {type(features).__name__}, whose parts cannot be shared; use shared=0"
        )
    return features


def _after(features: nn.Module, shared: int, depth: int | None = None) -> nn.Module:
    """The parts after the first ``shared`` ones of a trunk, up to ``depth``: the trunk's own modules, not copies."""
    if shared == 0 and depth is None:
        return features
    parts = len(_sequence(features))
    if not 0 <= shared <= parts:
        raise InputError(f"shared={shared}; the trunk has {parts} parts, expected 0 to {parts}")
    if depth is not None and not max(1, shared) <= depth <= parts:
        raise InputError(f"depth={depth}; expected {max(1, shared)} (shared) to {parts}, the trunk's parts")
    return nn.Sequential(*list(_sequence(features))[shared:depth])


@torch.no_grad()
def _channels(features: nn.Module, depth: int) -> int:
    """How many channels the output of the first ``depth`` parts has."""
    begin = next(features.parameters())
    mode = features.training
    channels: int = _sequence(features).eval()[:depth](begin.new_zeros(1, 3, 64, 64)).shape[1]
    features.train(mode)
    return channels


def build_refined(
    num_classes: int,
    *,
    base: str = "small-gap",
    base_options: dict[str, Any] | None = None,
    shared: int = 0,
    hidden: int = 64,
    grid: int = 8,
    head: str = "grid",
    depth: int | None = None,
) -> RefinedNet:
    """A `RefinedNet` on the classifier `build_gapnet` ``base``, with random weights.

    >>> build_refined(5, base="small-gap", shared=5).trunk
    Sequential()
    """
    classifier = build_gapnet(base, num_classes, **(base_options or {}))
    return RefinedNet(classifier, shared, hidden, grid, head, depth)
