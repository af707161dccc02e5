"""`explain`: photos in, one forward pass, a method's equation, an `Explanation` out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sightline.data.items import Item
from sightline.data.photos import VIEWS, PhotoBatch
from sightline.engine import Evidence
from sightline.errors import InputError, unknown
from sightline.explanation import Explanation
from sightline.methods import Method, get_method
from sightline.methods.observation import Layer, observe_for
from sightline.models.loading import LoadedModel
from sightline.targets import (
    CallableTarget,
    Classes,
    ClassScore,
    ClassTarget,
    OutputTarget,
    Setting,
    Target,
    bound,
    resolve_classes,
)


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

    ``model``: from `load_model`, or any nn.Module with a tensor batch. ``batch``: float tensor (N, 3, H, W); or a
    path, a PIL image, an array (H, W, 3) of uint8, or a list of these (the model's own transform is then used;
    ``view`` "whole" shows the network all of the photo, "crop" its own resize and centre crop); or a `PhotoBatch`.
    ``classes``: "top1", "topK", an index, a category name, a list of these, or LongTensor (N,) or (N, K).
    ``target``: instead of classes, one of `sightline.targets`, or any callable output -> (N,). ``layer``: a name, a
    module, or (methods that fuse) a list; found automatically if None. ``options``: those of the method. The network
    runs in eval mode and is afterwards as it was.
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
    photos = as_batch(model, batch, view)
    if target is not None:
        if not (isinstance(classes, str) and classes == "top1"):
            raise InputError("give either classes or target, not both")
        size_hw = (photos.images.shape[2], photos.images.shape[3])
        setting = Setting(
            network, size_hw, getattr(model, "categories", None), getattr(model, "scores", None)
        )
        network, target = bound(target, setting)
    evidence, sites = observe_for(chosen, network, photos.images, layer, resolved)
    evidence.scores = getattr(model, "scores", None)
    targets, indices = _targets(evidence, classes, target, getattr(model, "categories", None))
    maps, signed = _run(chosen, evidence, targets, resolved)
    return Explanation(
        maps=maps,
        classes=indices,
        logits=evidence.logits,
        signed=signed,
        geometries=photos.geometries,
        method=method,
        model_name=getattr(model, "name", type(model).__name__),
        view=photos.view,
        layers=[str(s) for s in sites],
        options=resolved,
        input_hw=(photos.images.shape[2], photos.images.shape[3]),
        categories=getattr(model, "categories", None),
        photos=photos.photos,
        images=photos.images if photos.photos is None else None,
        score_rule=evidence.score_rule,
        _model=model,
        _evidence=evidence if method == "cam" else None,
    )


def as_batch(model: nn.Module, batch: Any, view: str = "whole") -> PhotoBatch:
    """What a user gave as a `PhotoBatch` on the model's device and in its precision.

    A `PhotoBatch` stays as it is (``view`` is its own), a tensor is taken as prepared, and anything else is read
    with the model's own preprocessing.
    """
    if view not in VIEWS:
        raise unknown("view", view, VIEWS)
    if isinstance(batch, PhotoBatch):
        return batch.to(model)
    if isinstance(batch, Tensor):
        return PhotoBatch.of_tensor(batch).to(model)
    items = list(batch) if isinstance(batch, (list, tuple)) and not isinstance(batch, Item) else [batch]
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
    return PhotoBatch.load(items, preprocess, view).to(model)


def _targets(
    evidence: Evidence,
    classes: Classes,
    target: Callable[[Any], Tensor] | None,
    categories: tuple[str, ...] | None,
) -> tuple[list[Target], Tensor]:
    n, device = len(evidence.images), evidence.images.device
    if isinstance(target, ClassScore):
        classes, target = target.class_, None
    if target is not None:
        if isinstance(target, OutputTarget):
            target = target.settled(evidence.output)
        explained = CallableTarget(target)
        if (count := len(evidence.score(explained))) != n:
            raise InputError(f"target returned ({count},); expected a tensor of one score an image: ({n},)")
        return [explained], torch.full((n, 1), -1, device=device)
    logits = evidence.logits
    if logits is None:
        kind = type(evidence.output).__name__
        raise InputError(f"the network returns {kind}, not scores (N, C); give `target=`, a callable of it")
    if categories is not None and len(categories) != logits.shape[1]:
        raise InputError(f"the model has {len(categories)} category names and gives {logits.shape[1]} scores")
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
