"""`explain`: photos in; one forward pass and the method's equation; an `Explanation` out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sightline.data.images import PhotoSource, path_of
from sightline.data.items import Item
from sightline.data.photos import VIEWS, PhotoBatch
from sightline.engine import Evidence
from sightline.errors import InputError, kind_of, unknown
from sightline.explanation import Explanation
from sightline.inspection.guard import unwrapped
from sightline.inspection.inputs import arguments, holding, lying_on, takes_by_name
from sightline.inspection.layout import Layout
from sightline.methods import get_method
from sightline.methods.combinators import combined
from sightline.methods.observation import Layer, observe_for
from sightline.methods.results import maps_of
from sightline.methods.spec import MethodSpec, parse_method
from sightline.models.loading import LoadedModel
from sightline.targets import (
    CallableTarget,
    Classes,
    ClassScore,
    ClassTarget,
    OutputTarget,
    Setting,
    Target,
    Text,
    bound,
    resolve_classes,
)


def explain(
    model: nn.Module,
    batch: Any,
    method: str | MethodSpec = "gradcam",
    classes: Classes = "top1",
    target: Callable[[Any], Tensor] | None = None,
    layer: Layer = None,
    view: str = "whole",
    layout: Layout | str = "auto",
    inputs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Explanation:
    """Explain what ``model`` sees in ``batch``: one raw map per image and class.

    ``model``: from `load_model`, or any nn.Module if ``batch`` is a tensor. ``batch``: float tensor (N, 3, H, W), or
    what a Hugging Face processor returns; or a path, a PIL image, a uint8 array (H, W, 3), or a list of these (read
    with the model's own transform; ``view`` "whole" shows the network the entire photo, "crop" its usual resize and
    centre crop); or a `PhotoBatch`.
    ``method``: a method string, NAME:OPTION=VALUE:combinator, such as "layercam:flip". ``classes``: "top1", "topK",
    an index, a category name, a list of these, or LongTensor (N,) or (N, K). ``target``: instead of classes, one of
    `sightline.targets`, or any callable output -> (N,). ``layer``: a name, a module, or a list, whose maps are fused;
    found automatically if None. ``layout``: how a named layer's tensor is a map, a `Layout` or "nhwc",
    "ntc:1+14x14"; found automatically if "auto". ``inputs``: further arguments of the network's ``forward`` by name,
    held fixed; tensors have a row for each image, or one for all. ``options``: the method's options. The network runs
    in eval mode and is then restored to its previous state.
    Raises `InputError` for wrong input, `UnsupportedError` if the method does not work with the model.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> explain(net, torch.rand(1, 3, 8, 8), method="layercam:flip", classes="top2").maps.shape
    torch.Size([1, 2, 6, 6])
    """
    spec, layer = _with_layers(_spec_of(method, layer, options), layer, model)
    if not isinstance(model, nn.Module):
        hint = ": give program.module()" if type(model).__name__ == "ExportedProgram" else ""
        raise InputError(f"model is {kind_of(model)}; expected a torch.nn.Module or a loaded model{hint}")
    layout = spec.layout if layout == "auto" else layout
    photos = as_batch(model, batch, view)
    given, model = model, _with_inputs(model, batch, inputs, target, len(photos))
    if target is not None and not (isinstance(classes, str) and classes == "top1"):
        raise InputError("give either classes or target, not both")
    if spec.combines:
        if isinstance(layout, Layout) or (isinstance(layout, str) and layout != "auto"):
            spec.check_layout(layout)
        found = _explain_combined(model, photos, spec, classes, target, layer, layout)
    else:
        if spec.layers:
            layer = list(spec.layers) if len(spec.layers) > 1 else spec.layers[0]
        found = _explain_once(model, photos, spec, classes, target, layer, layout)
    names = [path_of(source) for source in photos.sources] or None
    return replace(found, names=names, _explain=partial(explain, given, target=target, inputs=inputs))


def _with_inputs(
    model: nn.Module, batch: Any, inputs: Mapping[str, Any] | None, target: Any, n: int
) -> nn.Module:
    """The model with further inputs held fixed: those that were given, and those beside the images in a batch."""
    inputs = {**_beside(model, batch, target, n), **(inputs or {})}
    if not inputs and not takes_by_name(model):
        return model
    if isinstance(target, Text):
        raise InputError(f"inputs={', '.join(inputs)} beside {target!r}, which runs the image encoder alone")
    if not isinstance(model, LoadedModel):
        return holding(model, inputs, n)
    twin = copy.copy(model)
    twin.__dict__["_modules"] = {**dict(model.named_children()), "network": holding(model.network, inputs, n)}
    return twin


def _spec_of(method: str | MethodSpec, layer: Layer, options: dict[str, Any]) -> MethodSpec:
    """What a user wrote for the method, its options and its layers; every option is checked."""
    if not isinstance(method, (str, MethodSpec)):
        raise InputError(
            f"method is {kind_of(method)}; expected one method, such as 'cam' "
            "(explain_files takes several: methods=['cam', 'gradcam'])"
        )
    spec = parse_method(method) if isinstance(method, str) else method
    if twice := [name for name in options if name in spec.options]:
        raise InputError(f"option {twice[0]} is given twice: in the method {spec.label!r} and as a keyword")
    if layer is not None and spec.layers:
        raise InputError(f"layer={layer!r}, but the method {spec.label!r} names layers too; give only one")
    checked = get_method(spec.name).checked_options({**spec.options, **options})
    return replace(spec, options={**spec.options, **{name: checked[name] for name in options}})


def _with_layers(spec: MethodSpec, layer: Layer, model: nn.Module) -> tuple[MethodSpec, Layer]:
    """Several layers for a method of one are its combinator: ``layer=["a", "b"]`` is "layercam:layer=a,b"."""
    method = get_method(spec.name)
    several = isinstance(layer, (list, tuple)) and len(layer) > 1
    if not several or method.layers is not None or "activations" not in method.needs:
        return spec, layer
    network = unwrapped(model.network if isinstance(model, LoadedModel) else model)
    names = {module: name for name, module in network.named_modules()}
    return replace(spec, layers=tuple(names.get(one, str(one)) for one in layer)), None


def _explain_once(
    model: nn.Module,
    photos: PhotoBatch,
    spec: MethodSpec,
    classes: Classes,
    target: Callable[[Any], Tensor] | None,
    layer: Layer,
    layout: Layout | str = "auto",
) -> Explanation:
    """One forward pass, one method."""
    method = get_method(spec.name)
    options = method.checked_options(dict(spec.options))
    network, asked = model.network if isinstance(model, LoadedModel) else model, target
    if target is not None:
        height, width = (1, *photos.images.shape[2:])[-2:]
        setting = Setting(
            network, (height, width), getattr(model, "categories", None), getattr(model, "scores", None)
        )
        network, target = bound(target, setting)
    evidence, sites = observe_for(
        method, network, photos.images, layer, options, layout=layout, target=target
    )
    evidence.scores = getattr(model, "scores", None)
    targets, indices = _targets(evidence, classes, target, getattr(model, "categories", None))
    maps, signed = maps_of(method, evidence, targets, options)
    return Explanation(
        maps=maps,
        classes=indices,
        logits=evidence.logits,
        signed=signed,
        geometries=photos.geometries,
        method=spec.name,
        model_name=getattr(model, "name", type(model).__name__),
        view=photos.view,
        layers=[str(s) for s in sites],
        options=options,
        input_hw=tuple(photos.images.shape[2:]),
        categories=getattr(model, "categories", None),
        photos=photos.photos,
        images=photos.images if photos.photos is None else None,
        score_rule=evidence.score_rule,
        rule=spec.rule,
        target=asked.title if isinstance(asked, OutputTarget) else "target",
        _model=model,
        _evidence=evidence if spec.name == "cam" else None,
    )


def _explain_combined(
    model: nn.Module,
    photos: PhotoBatch,
    spec: MethodSpec,
    classes: Classes,
    target: Callable[[Any], Tensor] | None,
    layer: Layer,
    layout: Layout | str = "auto",
) -> Explanation:
    """A method with its combinators; classes, scores and geometry are those of the unchanged photos."""
    if (
        isinstance(target, OutputTarget)
        and target.names_a_place
        and (spec.flip or spec.scales or spec.tencrop)
    ):
        moving = "tencrop moves it; leave it" if spec.tencrop else "flip and scales move it; leave them"
        raise InputError(f"{target!r} names a place in the image, and {moving} out of the method")
    size_hw = tuple(photos.images.shape[2:])
    around = ("flip", "scales", "tencrop", "affinity")
    moved = [name for name in around if getattr(spec, name)] + ["layers"] * (len(spec.layers) > 1)
    if len(size_hw) != 2 and moved:
        raise InputError(
            f"{moved[0]!r} of {spec.label!r} is for pictures; the input is {tuple(photos.images.shape)}"
        )
    fixed = lying_on(model.network if isinstance(model, LoadedModel) else model, size_hw)
    if fixed is not None and (spec.flip or spec.scales or spec.tencrop):
        raise InputError(
            f"inputs[{fixed!r}] lies on the image and is held fixed, and {spec.label!r} moves the image; leave flip, "
            "scales and tencrop out of the method"
        )
    asked, named = classes, layer
    kept: list[Explanation] = []  # of the unchanged photos: filled in the first pass
    signed: list[Tensor | None] = []

    def maps(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Layer = None) -> Tensor:
        own, at = images is photos.images, named if layer is None else layer
        if not own and not kept:
            kept.append(_explain_once(model, photos, spec, asked, target, at, layout))
        wanted = kept[0].classes if kept and target is None else asked
        shown = photos if own else PhotoBatch.of_tensor(images, images.ndim - 2)
        found = _explain_once(model, shown, spec, wanted, target, at, layout)
        if not kept:
            kept.append(found)
        signed.append(found.signed)
        return found.maps

    nothing = torch.zeros(len(photos), 0)  # the classes are chosen in the first pass
    found = combined(maps, spec, _larger(model, photos))(model, photos.images, nothing)
    fused = len(spec.layers) > 1 and get_method(spec.name).layers is None
    shown = list(spec.layers) if fused else kept[0].layers
    both = None
    plain = not spec.scales and spec.smooth is None and spec.affinity is None
    mirrored = spec.flip and plain and len(signed) == 2
    if mirrored and signed[0] is not None and signed[1] is not None:
        both = (signed[0] + signed[1].flip(-1)) / 2
    return replace(
        kept[0], maps=found, signed=both, method=spec.label, layers=shown, rule=spec.rule, _evidence=None
    )


def _larger(model: nn.Module, photos: PhotoBatch) -> Callable[[tuple[int, int]], Tensor] | None:
    """A function that reads the photos again at another input size; None if only their tensors are at hand."""
    preprocess = getattr(model, "preprocess", None)
    sources = photos.photos or photos.sources
    if preprocess is None or not sources or not preprocess.resizes:
        return None

    def resized(size_hw: tuple[int, int]) -> Tensor:
        again = PhotoBatch.load(sources, preprocess.at_size(size_hw), photos.view, keep_photos=False)
        return again.images.to(photos.images)

    return resized


def as_batch(model: nn.Module, batch: Any, view: str = "whole") -> PhotoBatch:
    """The user's input as a `PhotoBatch`, on the model's device and in its precision.

    A `PhotoBatch` is used unchanged (with its own ``view``), a tensor is taken as already preprocessed, and anything
    else is read with the model's own preprocessing.
    """
    if view not in VIEWS:
        raise unknown("view", view, VIEWS)
    if isinstance(batch, PhotoBatch):
        return batch.to(model)
    if isinstance(batch, Mapping):
        batch = _pixels(batch)
    if isinstance(batch, Tensor):
        return PhotoBatch.of_tensor(batch, _axes_of(model, batch)).to(model)
    items = list(batch) if isinstance(batch, (list, tuple)) and not isinstance(batch, Item) else [batch]
    if not items:
        raise InputError("batch is empty; expected at least one image")
    if isinstance(items[0], Tensor):
        shapes = [tuple(item.shape) for item in items if isinstance(item, Tensor)]
        if len(shapes) == len(items) and set(map(len, shapes)) == {3} and len(set(shapes)) == 1:
            raise InputError("batch is a list of tensors; expected one tensor (N, 3, H, W): use torch.stack")
        raise InputError(
            f"batch is a {type(batch).__name__} of tensors of shapes {', '.join(map(str, shapes))}; expected one "
            "tensor (N, 3, H, W); where the network takes several inputs, hold the others fixed: inputs={name: value}"
        )
    return load_photos(model, items, view).to(model)


def _axes_of(model: nn.Module, batch: Tensor) -> int:
    """How many spatial axes a batch has: a network of 1-D convolutions takes signals, any five axes are a volume."""
    if batch.ndim == 5:
        return 3
    kinds = {type(module) for module in model.modules()}
    return 1 if batch.ndim == 3 and nn.Conv1d in kinds and nn.Conv2d not in kinds else 2


def _beside(model: nn.Module, batch: Any, target: Any, n: int) -> dict[str, Tensor]:
    """What a Hugging Face processor returns beside the images that the network takes, a row for each image."""
    if not isinstance(batch, Mapping) or isinstance(target, Text):
        return {}
    names = arguments(model.network if isinstance(model, LoadedModel) else model)
    return {
        name: value
        for name, value in batch.items()
        if name in names
        and name not in ("pixel_values", "labels")
        and isinstance(value, Tensor)
        and len(value) == n
    }


def _pixels(batch: Mapping[str, Any]) -> Tensor:
    """The images in what a Hugging Face processor returns."""
    pixels = batch.get("pixel_values")
    if not isinstance(pixels, Tensor):
        kind = "a list: ask the processor for return_tensors='pt'" if pixels is not None else "missing"
        raise InputError(
            f"batch is a {type(batch).__name__} of {', '.join(batch)}; its pixel_values are {kind}"
        )
    return pixels


def load_photos(
    model: nn.Module, sources: Sequence[PhotoSource], view: str = "whole", **options: Any
) -> PhotoBatch:
    """`PhotoBatch.load` with the model's own preprocessing; raises `InputError` if it has none."""
    preprocess = getattr(model, "preprocess", None)
    if preprocess is None:
        raise InputError(
            f"batch is a {type(sources[0]).__name__}, and this model has no transform; give a float tensor "
            "(N, 3, H, W), or wrap it: sightline.load_model(model, transform=...)"
        )
    return PhotoBatch.load(sources, preprocess, view, **options)


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
            raise InputError(
                f"target returned ({count},); expected a tensor with one score per image: ({n},)"
            )
        return [explained], torch.full((n, 1), -1, device=device)
    logits = evidence.logits
    if logits is None:
        kind = f"a {type(evidence.output).__name__}"
        if isinstance(evidence.output, Tensor):
            kind = f"a tensor of shape {tuple(evidence.output.shape)}"
        raise InputError(f"the network returns {kind}, not scores (N, C); give `target=`, a callable on it")
    if categories is not None and len(categories) != logits.shape[1]:
        raise InputError(
            f"the model has {len(categories)} category names but returns {logits.shape[1]} scores"
        )
    indices = resolve_classes(classes, logits, categories)
    return [ClassTarget(indices[:, k]) for k in range(indices.shape[1])], indices
