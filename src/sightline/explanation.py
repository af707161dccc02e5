"""`explain`, and the `Explanation` that it returns: maps, and what one does with them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from sightline.boxes import make_boxes, make_masks
from sightline.engine import Evidence, observe
from sightline.errors import InputError, UnsupportedError, unknown
from sightline.heatmap import make_heatmaps
from sightline.methods import Method, get_method
from sightline.models.loading import LoadedModel
from sightline.models.trace import Site, Structure, named_site, study
from sightline.targets import CallableTarget, Classes, ClassTarget, Target, resolve_classes
from sightline.types import Geometry, Prediction

if TYPE_CHECKING:
    import PIL.Image

VIEWS = ("whole", "crop")
Layer = Any  # a name, a module, or a list of either


class Contributions(NamedTuple):
    """The channel maps that sum to a class map, the largest first.

    ``maps`` (N, K, top, h, w) = w_k^c A^k; ``channels`` (N, K, top) int64; ``weights`` (N, K, top).
    """

    maps: Tensor
    channels: Tensor
    weights: Tensor


@dataclass
class Explanation:
    """Where the network looks: ``maps`` (N, K, h, w), raw, for ``classes`` (N, K), on the model's device.

    ``logits`` (N, C); ``signed`` (N, K, 3, H, W) for methods at the image's pixels, else None; ``geometries``
    says for each image which part of the photo the network saw. K = 1 and ``classes`` = −1 for a callable
    target.
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
    weights_sha256: str | None = None
    _evidence: Evidence | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.maps)

    def heatmaps(
        self, size_hw: tuple[int, int] | None = None, normalise: str = "minmax", percentile: float = 90
    ) -> Tensor:
        """Heatmaps (N, K, H, W) in [0, 1]: upsampled bilinearly (to the network's input size), then normalised.

        ``normalise``: "minmax" | "max" | "percentile" (of rank ``percentile``) | "ivr". A map without a
        positive value is all zero.

        >>> example().heatmaps().shape
        torch.Size([1, 1, 8, 8])
        """
        return make_heatmaps(self.maps, size_hw or self.input_hw, normalise, percentile)

    def masks(
        self,
        threshold: float = 0.2,
        standard: str = "max",
        select: str = "largest",
        normalise: str = "minmax",
        percentile: float = 90,
    ) -> Tensor:
        """The region that `boxes` bounds, as (N, K, H, W) bool at the network's input size.

        >>> example().masks().dtype
        torch.bool
        """
        heatmaps = self.heatmaps(normalise=normalise, percentile=percentile)
        return make_masks(heatmaps, threshold, standard, percentile, select)

    def boxes(
        self,
        threshold: float = 0.2,
        standard: str = "max",
        select: str = "largest",
        normalise: str = "minmax",
        percentile: float = 90,
    ) -> list[list[Tensor]]:
        """The paper's boxes: values ≥ 20 % of the maximum, the largest component, its bounding box.

        A list (N) of lists (K) of float (B, 4) xyxy, half-open edges, in the pixels of the original photo (of
        the tensor, where one was given); B = 0 for a map without positive value. ``standard="percentile"``
        (PaS): t = threshold · percentile_i of the map. ``select``: "largest" | "all".

        >>> example().boxes()[0][0].shape
        torch.Size([1, 4])
        """
        heatmaps = self.heatmaps(normalise=normalise, percentile=percentile)
        found = make_boxes(heatmaps, threshold, standard, percentile, select)
        return [[g.to_photo(b) for b in row] for g, row in zip(self.geometries, found, strict=True)]

    def contributions(self, top: int = 8) -> Contributions:
        """The channel maps w_k^c A^k whose sum over all k is the class map (Zhou et al. 2016, Figure 2); `cam` only.

        For a class convolution's head that sum lacks the bias and comes before the ReLU. With ``top`` = C all.

        >>> example("cam").contributions(top=2).maps.shape
        torch.Size([1, 1, 2, 6, 6])
        """
        if self.method != "cam" or self._evidence is None:
            raise UnsupportedError(
                f"contributions() takes a class map apart; the method is {self.method!r}, not 'cam'"
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
        """Softmax probabilities (N, K) of the explained classes; None for a callable target."""
        if self.logits is None or bool((self.classes < 0).any()):
            return None
        return self.logits.float().softmax(1).gather(1, self.classes)

    def category(self, i: int, k: int) -> str:
        """The name of class k of image i; 'class 7' without category names, 'target' for a callable."""
        index = int(self.classes[i, k])
        if index < 0:
            return "target"
        return self.categories[index] if self.categories else f"class {index}"

    def predictions(self, **box_options: Any) -> list[list[Prediction]]:
        """One `Prediction` (index, name, probability, boxes) per image and class.

        >>> example().predictions()[0][0].category
        'class 1'
        """
        boxes, scores = self.boxes(**box_options), self.scores
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
            raise InputError("this explanation kept no image to draw on")
        image = self.images[i].float().cpu()
        low, high = image.amin(), image.amax()
        image = ((image - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
        array = image.permute(1, 2, 0).numpy()
        return PIL.Image.fromarray(array[..., 0] if array.shape[2] == 1 else array[..., :3]).convert("RGB")

    def overlay(self, i: int = 0, k: int = 0, colormap: str = "turbo", **box_options: Any) -> PIL.Image.Image:
        """The photo of image i under the heatmap of its class k, with its box and its name.

        >>> example().overlay(0, 0).size
        (8, 8)
        """
        from sightline.render import overlay

        normalising = {n: box_options[n] for n in ("normalise", "percentile") if n in box_options}
        heatmap = self.heatmaps(**normalising)[i, k]
        return overlay(
            self.photo(i),
            heatmap.float().cpu(),
            colormap=colormap,
            boxes_xyxy=self.boxes(**box_options)[i][k].cpu(),
            shown_xyxy=self.geometries[i].shown_xyxy,
        )

    def save(self, folder: str | os.PathLike[str], **box_options: Any) -> Path:
        """Write one overlay PNG an image and class, and manifest.json, into ``folder``; nothing half-written.

        Each file is written under another name and then renamed; the manifest comes last. Returns the folder.

        >>> import tempfile
        >>> sorted(p.name for p in example().save(tempfile.mkdtemp()).iterdir())
        ['000000_1.png', 'manifest.json']
        """
        from sightline.manifest import describe_run, write_atomically

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for i, row in enumerate(self.predictions(**box_options)):
            for k, p in enumerate(row):
                name = f"{i:06d}_{p.class_index if p.class_index >= 0 else 'target'}.png"
                picture = self.overlay(i, k, **box_options)
                write_atomically(folder / name, partial(picture.save, format="PNG"))
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
            options={**self.options, **box_options},
            model=self.model_name,
            weights_sha256=self.weights_sha256,
            view=self.view,
            layers=self.layers,
            results=rows,
        )
        text = json.dumps(manifest, indent=1)
        write_atomically(folder / "manifest.json", lambda f: f.write(text.encode()))
        return folder


def explain(
    model: nn.Module,
    batch: Any,
    method: str = "gradcam",
    classes: Classes = "top1",
    target: Callable[[Any], Tensor] | None = None,
    layer: Layer = None,
    view: str = "whole",
    **options: Any,
) -> Explanation:
    """Explain what ``model`` sees in ``batch``: one raw map for each image and class.

    ``model``: from `load_model`, or any nn.Module with a tensor batch. ``batch``: float tensor (N, 3, H, W), or
    a PIL image, a path, or a list of these (the model's own transform is then used; ``view`` "whole" shows the
    network all of the photo, "crop" its own resize and centre crop). ``classes``: "top1", "topK", an index, a
    category name, a list of these, or LongTensor (N,) or (N, K). ``target``: instead of classes, a callable
    output -> (N,). ``layer``: a name, a module, or (methods that fuse) a list; found by itself if None.
    ``options``: those of the method. The network runs in eval mode and is afterwards as it was.
    Raises `InputError` for what was given wrongly, `UnsupportedError` where the method cannot serve the model.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> explain(net, torch.rand(1, 3, 8, 8), method="layercam", classes="top2").maps.shape
    torch.Size([1, 2, 6, 6])
    """
    chosen = get_method(method)
    resolved = chosen.checked_options(options)
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}; expected a torch.nn.Module or a loaded model")
    network = model.network if isinstance(model, LoadedModel) else model
    images, geometries, photos = prepare(model, batch, view)
    evidence, sites = _observe(network, images, chosen, layer, resolved)
    targets, indices = _targets(evidence, classes, target, getattr(model, "categories", None))
    maps, signed = _run(chosen, evidence, targets, resolved)
    return Explanation(
        maps=maps,
        classes=indices,
        logits=evidence.logits,
        signed=signed,
        geometries=geometries,
        method=method,
        model_name=getattr(model, "name", type(model).__name__),
        view=view if photos is not None else "tensor",
        layers=[str(s) for s in sites],
        options=resolved,
        input_hw=(images.shape[2], images.shape[3]),
        categories=getattr(model, "categories", None),
        photos=photos,
        images=images if photos is None else None,
        weights_sha256=getattr(model, "weights_sha256", None),
        _evidence=evidence if method == "cam" else None,
    )


def prepare(
    model: nn.Module, batch: Any, view: str = "whole"
) -> tuple[Tensor, list[Geometry], list[PIL.Image.Image] | None]:
    """What a user gave -> (N, 3, H, W) on the model's device, geometries, and the photos (None for a tensor)."""
    if view not in VIEWS:
        raise unknown("view", view, VIEWS)
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
    if isinstance(batch, Tensor):
        return _checked_tensor(batch, like), [Geometry.identity(_hw(batch))] * len(batch), None
    items = list(batch) if isinstance(batch, (list, tuple)) else [batch]
    if not items:
        raise InputError("batch is empty; expected at least one image")
    if isinstance(items[0], Tensor):
        raise InputError("batch is a list of tensors; expected one tensor (N, 3, H, W): use torch.stack")
    preprocess = getattr(model, "preprocess", None)
    if preprocess is None:
        raise InputError(
            f"batch is a {type(items[0]).__name__}, and this model has no transform; give a float tensor "
            "(N, 3, H, W), or wrap it: sightline.load_model(model, transform=...)"
        )
    from sightline.data.images import read_image

    photos = [read_image(item) for item in items]
    prepared = [preprocess.prepare(photo, view) for photo in photos]
    images = torch.stack([tensor for tensor, _ in prepared]).to(like.device, like.dtype)
    return images, [geometry for _, geometry in prepared], photos


def _hw(batch: Tensor) -> tuple[int, int]:
    return (batch.shape[-2], batch.shape[-1])


def _checked_tensor(batch: Tensor, like: Tensor) -> Tensor:
    if batch.ndim != 4 or 0 in batch.shape:
        hint = "; add the batch dimension: x[None]" if batch.ndim == 3 else ""
        raise InputError(f"batch has shape {tuple(batch.shape)}; expected (N, 3, H, W){hint}")
    if not batch.is_floating_point():
        raise InputError(
            f"batch is {batch.dtype}; expected a float tensor, normalised as the model was trained"
        )
    return batch.to(like.device)


def _observe(
    network: nn.Module, images: Tensor, method: Method, layer: Layer, options: dict[str, Any]
) -> tuple[Evidence, list[Site]]:
    """The forward pass that this method needs, at the layers that were named or found."""
    needs = method.needs
    if method.layers is None and isinstance(layer, (list, tuple)):
        if len(layer) != 1:
            raise InputError(
                f"method {method.name!r} explains one layer; got {len(layer)}; 'fullycam' fuses several"
            )
        layer = layer[0]
    if layer is not None and "activations" not in needs:
        raise InputError(
            f"method {method.name!r} explains the image's pixels and takes no layer; got {layer!r}"
        )
    structure: Structure | None = None
    sites: list[Site] = []
    if "activations" in needs:
        if torch.is_inference_mode_enabled():
            raise InputError(
                "called inside torch.inference_mode(), where no gradient exists; use torch.no_grad()"
            )
        structure = study(network, images) if layer is None or "classifier" in needs else None
        sites = _sites(network, images, method, layer, options, structure)
    checked = [*sites]
    if "classifier" in needs and structure is not None:
        if structure.head is None or structure.target is None:
            raise UnsupportedError(
                f"{method.name} needs a head of pooling and one linear layer (or a 1×1 class convolution and "
                f"pooling); of this network {structure.why_no_head}; use 'gradcam'"
            )
        if sites[0] != structure.target:
            checked.append(structure.target)
    evidence = observe(
        network,
        images,
        checked,
        gradient="gradient" in needs,
        input_gradient="input_gradient" in needs,
        guided="guided" in needs,
    )
    if len(checked) > len(sites) and not _same(evidence.layers):
        raise UnsupportedError(
            f"{method.name} reads the layer before the pooling, '{checked[-1]}', not '{sites[0]}'; use 'gradcam'"
        )
    evidence.head = structure.head if structure else None
    return evidence, sites


def _same(layers: list[Tensor]) -> bool:
    return layers[0].shape == layers[-1].shape and torch.equal(layers[0], layers[-1])


def _sites(
    network: nn.Module,
    images: Tensor,
    method: Method,
    layer: Layer,
    options: dict[str, Any],
    structure: Structure | None,
) -> list[Site]:
    if layer is None and method.layers is not None:
        layer = options.get("layers", method.layers)
        if layer in ("convs", "stages"):
            found = structure.convs if layer == "convs" else structure.stages  # type: ignore[union-attr]
            if not found:
                raise UnsupportedError(f"{method.name} fuses convolutions and this network has none")
            return list(found)
        if not layer:
            raise InputError(f"layers={layer!r}; expected 'convs', 'stages' or names")
    if layer is None:
        assert structure is not None
        if structure.target is None:
            raise InputError(
                f"no target layer was found: {structure.why_no_target}; give `layer=` "
                "(`sightline layers MODEL` lists what may be named)"
            )
        return [structure.target]
    named: Sequence[Any] = layer if isinstance(layer, (list, tuple)) else [layer]
    return [named_site(network, one, images) for one in named]


def _targets(
    evidence: Evidence,
    classes: Classes,
    target: Callable[[Any], Tensor] | None,
    categories: tuple[str, ...] | None,
) -> tuple[list[Target], Tensor]:
    n, device = len(evidence.images), evidence.images.device
    if target is not None:
        if not callable(target):
            raise InputError(
                f"target is a {type(target).__name__}; expected a callable output -> (N,) scores"
            )
        if not (isinstance(classes, str) and classes == "top1"):
            raise InputError("give either classes or target, not both")
        return [CallableTarget(target)], torch.full((n, 1), -1, device=device)
    logits = evidence.logits
    if logits is None:
        kind = type(evidence.output).__name__
        raise InputError(f"the network returns {kind}, not scores (N, C); give `target=`, a callable of it")
    indices = resolve_classes(classes, logits, categories)
    return [ClassTarget(indices[:, k]) for k in range(indices.shape[1])], indices


def _run(
    method: Method, evidence: Evidence, targets: list[Target], options: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """The method for every target: maps (N, K, h, w) and, at the image's pixels, signed (N, K, 3, H, W)."""
    if method.joint:
        maps = method.function(evidence, targets, **options)
    elif not method.class_specific:
        maps = method.function(evidence, targets[0], **options)[:, None].repeat(1, len(targets), 1, 1)
    else:
        maps = torch.stack([method.function(evidence, t, **options) for t in targets], 1)
    maps = maps.detach().to(torch.promote_types(maps.dtype, torch.float32))
    return (maps.abs().amax(2), maps) if method.signed else (maps, None)


def example(method: str = "gradcam") -> Explanation:
    """A tiny explanation for the doctests: 4 channels, 2 classes, 8×8 pixels."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    for parameter in net.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator)
    return explain(net, torch.rand(1, 3, 8, 8, generator=generator), method=method, classes=1)
