"""`Explanation`: the maps that `explain` returns, and what you can do with them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from sightline.boxes import make_boxes, make_masks
from sightline.engine import Evidence
from sightline.errors import InputError, UnsupportedError, unknown
from sightline.heatmap import make_heatmaps
from sightline.methods import get_method
from sightline.methods.observation import observe_for
from sightline.scores import ScoreRule, rule_for
from sightline.targets import ClassTarget
from sightline.types import BoxRule, Geometry, Prediction

if TYPE_CHECKING:
    import PIL.Image

KIND = "explanation"  # the manifest's `kind` in a folder that `save` writes
MASK_SIZES = ("input", "photo")
Layer = Any  # a name, a module, or a list of either


class Contributions(NamedTuple):
    """The channel maps that sum to a class map, largest first.

    ``maps`` (N, K, top, h, w) = w_k^c A^k; ``channels`` (N, K, top) int64; ``weights`` (N, K, top).
    """

    maps: Tensor
    channels: Tensor
    weights: Tensor


@dataclass
class Explanation:
    """Where the network looks: ``maps`` (N, K, h, w), raw, for ``classes`` (N, K), on the model's device.

    ``logits`` (N, C); ``signed`` (N, K, 3, H, W) for pixel-level methods, else None; ``geometries``: for each
    image, which part of the photo the network saw. K = 1 and ``classes`` = −1 for a callable
    target. ``score_rule``: how logits become probabilities (`sightline.scores`); None without logits. ``rule``: a
    named method's own rule; its threshold is the default. ``target``: what is explained if it is not a class.
    """

    maps: Tensor
    classes: Tensor
    logits: Tensor | None
    signed: Tensor | None
    geometries: list[Geometry]
    method: str
    model_name: str
    view: str
    layers: list[str]
    options: dict[str, Any]
    input_hw: tuple[int, int]
    categories: tuple[str, ...] | None = None
    photos: list[PIL.Image.Image] | None = None
    images: Tensor | None = None
    score_rule: ScoreRule | None = None
    rule: BoxRule | None = None
    target: str = "target"
    _model: nn.Module | None = field(default=None, repr=False)
    _evidence: Evidence | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.maps)

    def heatmaps(
        self, size_hw: tuple[int, int] | None = None, normalise: str = "minmax", percentile: float = 90
    ) -> Tensor:
        """Heatmaps (N, K, H, W) in [0, 1]: upsampled bilinearly (by default to the input size), then normalised.

        ``normalise``: "minmax" | "max" | "percentile" (of rank ``percentile``) | "ivr". A map without a
        positive value gives zeros.

        >>> example().heatmaps().shape
        torch.Size([1, 1, 8, 8])
        """
        return make_heatmaps(self.maps, size_hw or self.input_hw, normalise, percentile)

    @overload
    def masks(
        self, rule: BoxRule | float | None = None, *, size: Literal["input"] = "input", **shorthand: Any
    ) -> Tensor: ...

    @overload
    def masks(
        self, rule: BoxRule | float | None = None, *, size: Literal["photo"], **shorthand: Any
    ) -> list[Tensor]: ...

    def masks(
        self, rule: BoxRule | float | None = None, *, size: str = "input", **shorthand: Any
    ) -> Tensor | list[Tensor]:
        """The regions that the `boxes` enclose: (N, K, H, W) bool at the network's input size.

        With ``size="photo"``: a list (N) of (K, H, W) at each photo's size, False where the network did not look.

        >>> example().masks().dtype
        torch.bool
        """
        if size not in MASK_SIZES:
            raise unknown("mask size", size, MASK_SIZES)
        rule = self.box_rule(rule, **shorthand)
        masks = make_masks(self._heatmaps_for(rule), rule)
        if size == "input":
            return masks
        return [g.masks_to_photo(row) for g, row in zip(self.geometries, masks, strict=True)]

    def box_rule(self, rule: BoxRule | float | None = None, **shorthand: Any) -> BoxRule:
        """The rule that boxes are made by; a named method supplies the threshold if none is given.

        >>> example().box_rule(select="all").threshold
        0.2
        """
        return BoxRule.of(rule, **shorthand).or_threshold_of(self.rule)

    def boxes(self, rule: BoxRule | float | None = None, **shorthand: Any) -> list[list[Tensor]]:
        """The boxes by ``rule``; by default the paper's: the box of the largest region ≥ 20 % of the maximum.

        A list (N) of lists (K) of float (B, 4) xyxy, half-open edges, in pixels of the original photo (or
        of the input tensor); B = 0 for a map without a positive value. ``shorthand``: the fields of
        `BoxRule` as keywords.

        >>> example().boxes(threshold=0.5)[0][0].shape
        torch.Size([1, 4])
        """
        rule = self.box_rule(rule, **shorthand)
        found = make_boxes(self._heatmaps_for(rule), rule)
        return [[g.to_photo(b) for b in row] for g, row in zip(self.geometries, found, strict=True)]

    def _heatmaps_for(self, rule: BoxRule) -> Tensor:
        return self.heatmaps(normalise=rule.normalise, percentile=rule.percentile)

    def contributions(self, top: int = 8) -> Contributions:
        """The channel maps w_k^c A^k whose sum over all k is the class map (Zhou et al. 2016, Figure 2); `cam` only.

        With ``bias=True`` the sum lacks the bias and is taken before the ReLU. ``top`` = C returns all of them.

        >>> example("cam").contributions(top=2).maps.shape
        torch.Size([1, 1, 2, 6, 6])
        """
        if self.method != "cam" or self._evidence is None:
            raise UnsupportedError(
                f"contributions() splits a class map by channel; the method is {self.method!r}, not 'cam'"
            )
        weight, _ = self._evidence.classifier_weights()
        activations = self._evidence.activations
        chosen = weight[self.classes]
        if self.options.get("nwc"):
            chosen = chosen.clamp(min=0)
        if not 1 <= top <= chosen.shape[2]:
            raise InputError(f"top={top}; expected 1 to {chosen.shape[2]} channels")
        share = chosen * activations.mean((2, 3))[:, None]
        channels = share.topk(top, dim=2).indices
        weights = chosen.gather(2, channels)
        n = torch.arange(len(activations), device=activations.device)[:, None, None]
        return Contributions(weights[..., None, None] * activations[n, channels], channels, weights)

    @property
    def scores(self) -> Tensor | None:
        """The probabilities (N, K) of the explained classes, by ``score_rule``; None for a callable target.

        >>> example().scores.shape, example().score_rule.name
        (torch.Size([1, 1]), 'softmax')
        """
        if self.logits is None or bool((self.classes < 0).any()):
            return None
        rule = self.score_rule or rule_for(self.logits)
        return rule.probabilities(self.logits).gather(1, self.classes)

    @property
    def sure(self) -> list[bool] | None:
        """For each image, whether its best class score is at least the model's `unsure_below`.

        None if the model has no such value; most have none.

        >>> example().sure is None
        True
        """
        least = getattr(self._model, "unsure_below", 0.0)
        if self.logits is None or not least:
            return None
        rule = self.score_rule or rule_for(self.logits)
        return [bool(best >= least) for best in rule.probabilities(self.logits).amax(1)]

    @property
    def weights_sha256(self) -> str | None:
        """The checksum of a loaded model's weights, computed on demand; None for a plain module."""
        return getattr(self._model, "weights_sha256", None)

    def category(self, i: int, k: int) -> str:
        """The name of class k of image i; 'class 7' without category names, 'target' for a callable."""
        index = int(self.classes[i, k])
        if index < 0:
            return self.target
        return self.categories[index] if self.categories else f"class {index}"

    def predictions(self, rule: BoxRule | float | None = None, **shorthand: Any) -> list[list[Prediction]]:
        """One `Prediction` (index, name, probability, boxes) per image and class.

        >>> example().predictions()[0][0].category
        'class 1'
        """
        boxes, scores = self.boxes(rule, **shorthand), self.scores
        return [
            [
                Prediction(
                    int(self.classes[i, k]),
                    self.category(i, k),
                    float(scores[i, k]) if scores is not None else float("nan"),
                    boxes[i][k].cpu(),
                )
                for k in range(self.classes.shape[1])
            ]
            for i in range(len(self))
        ]

    def photo(self, i: int) -> PIL.Image.Image:
        """The original photo; for a tensor, the tensor itself stretched to 8 bits."""
        import PIL.Image

        if self.photos is not None:
            return self.photos[i]
        if self.images is None:
            raise InputError("this explanation holds no photo to draw on")
        image = self.images[i].float().cpu()
        low, high = image.amin(), image.amax()
        image = ((image - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
        array = image.permute(1, 2, 0).numpy()
        return PIL.Image.fromarray(array[..., 0] if array.shape[2] == 1 else array[..., :3]).convert("RGB")

    def overlay(
        self,
        i: int = 0,
        k: int = 0,
        colormap: str = "turbo",
        *,
        rule: BoxRule | None = None,
        **shorthand: Any,
    ) -> PIL.Image.Image:
        """The photo of image i with the heatmap of class k on top, and its box; a tiny photo is enlarged.

        >>> example().overlay(0, 0).mode
        'RGB'
        """
        from sightline.pictures.overlay import overlay

        rule = self.box_rule(rule, **shorthand)
        heatmap = self._heatmaps_for(rule)[i, k]
        return overlay(
            self.photo(i),
            heatmap.float().cpu(),
            colormap=colormap,
            boxes_xyxy=self.boxes(rule)[i][k].cpu(),
            shown_xyxy=self.geometries[i].shown_xyxy,
        )

    def save(
        self,
        folder: str | os.PathLike[str],
        rule: BoxRule | None = None,
        *,
        colormap: str = "turbo",
        **shorthand: Any,
    ) -> Path:
        """Write one overlay PNG per image and class, and manifest.json, into ``folder``.

        Each file is written under a temporary name, then renamed; the manifest comes last. Returns the folder.

        >>> import tempfile
        >>> sorted(p.name for p in example().save(tempfile.mkdtemp()).iterdir())
        ['000000_1.png', 'manifest.json']
        """
        from sightline.reports.manifest import describe_run
        from sightline.reports.output_folder import OutputFolder

        rule, rows = self.box_rule(rule, **shorthand), []
        with OutputFolder(folder, KIND) as out:
            for i, row in enumerate(self.predictions(rule)):
                for k, p in enumerate(row):
                    name = f"{i:06d}_{p.class_index if p.class_index >= 0 else 'target'}.png"
                    out.write_picture(name, self.overlay(i, k, colormap, rule=rule))
                    rows.append(
                        {
                            "image": i,
                            "class": p.class_index,
                            "category": p.category,
                            "score": None if p.score != p.score else p.score,
                            "boxes_xyxy": p.boxes_xyxy.tolist(),
                            "file": name,
                        }
                    )
            manifest = describe_run(
                method=self.method,
                options={**self.options, **rule.as_dict(), "colormap": colormap},
                model=self.model_name,
                weights_sha256=self.weights_sha256,
                view=self.view,
                layers=self.layers,
                scores=None if self.score_rule is None else self.score_rule.name,
                results=rows,
            )
            out.finish(manifest)
        return out.path


def example(method: str = "gradcam") -> Explanation:
    """A tiny explanation for the doctests: 4 channels, 2 classes, 8×8 pixels."""
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
