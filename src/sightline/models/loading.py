"""Load any classifier: by name, from a weights file, from a sightline checkpoint, or wrap an nn.Module."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from sightline.errors import InputError, kind_of
from sightline.files import reading, reason
from sightline.inspection.inputs import holding, takes_by_name
from sightline.models.architecture_options import (
    checked_architecture,
    checked_architecture_options,
    checked_categories,
)
from sightline.models.device import named_device
from sightline.models.families import huggingface, lite, timm, torchvision
from sightline.models.families.base import Family, Published, imagenet_categories, outputs
from sightline.models.families.lookup import class_count, family_of, network_names
from sightline.models.preprocess import Preprocess
from sightline.models.weights import (
    WEIGHT_SUFFIXES,
    State,
    file_sha256,
    fill,
    hollow,
    read_weights,
    tensors_sha256,
)
from sightline.scores import checked_scores
from sightline.targets import logits_of

DEFAULT = "lite0"
TINY40_ABOUT = """\
bundled: a small residual network with thresholded average pooling, the default model until version 0.1
classes:  40, of Tiny ImageNet
input:    88 × 88
weights:  recipes/tiny-imagenet/tiny40/sightline-tiny40.safetensors of a source checkout
licence:  learned from ImageNet's photos: for non-commercial research and teaching"""
# The result of recipes/tiny-imagenet, which only a source checkout has.
TINY40 = Path(__file__).parents[3] / "recipes" / "tiny-imagenet" / "tiny40" / "sightline-tiny40.safetensors"

Transform = Preprocess | Callable[[Image.Image], Tensor]


class LoadedModel(nn.Module):
    """A classifier in eval mode, with its metadata; calling it calls its network.

    ``network``     the nn.Module, (N, 3, H, W) -> (N, C) logits.
    ``categories``  its C class names, or None.
    ``preprocess``  how a photo becomes its input (`Preprocess`), or None.
    ``weights``     where the weights came from, in words.
    ``scores``      how logits become probabilities: "softmax", "sigmoid", "none", or "auto" (`sightline.scores`).
    ``licence``, ``trained_on``  of the weights, if known.
    ``unsure_below``  if no class reaches this score, none fits well (`Explanation.sure`); 0: not known.
    ``trained_head``  False if the class layer has random weights: its classes and boxes mean nothing.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        categories: Sequence[str] | None = None,
        preprocess: Preprocess | None = None,
        weights: str = "in memory",
        weights_file: Path | None = None,
        scores: str = "auto",
        *,
        licence: str = "",
        trained_on: str = "",
        unsure_below: float = 0.0,
        trained_head: bool = True,
    ) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.categories = None if categories is None else tuple(categories)
        self.preprocess = preprocess
        self.weights = weights
        self.scores = checked_scores(scores)
        self.licence = licence
        self.trained_on = trained_on
        self.unsure_below = unsure_below
        self.trained_head = trained_head
        self._file = weights_file
        self._file_state = _file_state(weights_file)
        self._file_sha256: str | None = None
        self.eval()

    def describe(self) -> dict[str, Any]:
        """The model's entry in a manifest; None for what is not known.

        >>> LoadedModel(nn.Linear(2, 3), "mine", list("abc")).describe()["classes"]
        3
        """
        return {
            "name": self.name,
            "classes": None if self.categories is None else len(self.categories),
            "trained_on": self.trained_on or None,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "weights_licence": self.licence or None,
            "trained_head": self.trained_head,
        }

    def train(self, mode: bool = True) -> LoadedModel:
        try:
            return super().train(mode)
        except NotImplementedError:  # a network from torch.export, whose mode is fixed
            return self

    def forward(self, images: Tensor) -> Any:
        output = self.network(images)
        logits = logits_of(output)  # Hugging Face's networks return them in an object
        return output if logits is None else logits

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights file, or of the tensors if there is no file (or it has changed)."""
        if (
            self._file_sha256 is None
            and self._file is not None
            and _file_state(self._file) == self._file_state
        ):
            self._file_sha256 = file_sha256(self._file)
        return self._file_sha256 or tensors_sha256(self.network.state_dict())


def _file_state(path: Path | None) -> tuple[int, int] | None:
    """Enough to detect that a file was replaced after it was read."""
    stat = path.stat() if path is not None and path.exists() else None
    return None if stat is None else (stat.st_size, stat.st_mtime_ns)


def load_model(
    model: str | Path | nn.Module | None = None,
    weights: str | Path | bool | None = None,
    categories: Sequence[str] | None = None,
    transform: Transform | None = None,
    device: str | torch.device | None = None,
    scores: str | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Load a classifier, ready to be explained: in eval mode, with class names and preprocessing if known.

    ``model``   a torchvision name ("resnet50"), "timm/NAME", "hf/NAME", a network cut for class maps ("vgg16-gap"),
                the path of a sightline checkpoint or of a folder that `save_pretrained` wrote, any nn.Module, or
                None: "lite0" (`default_model`).
    ``weights`` None: the published ones. A file (.safetensors, or .pth read without running code): the number
                of classes is read from it. False or "none": random ones. The name of a published set.
    ``categories``  the class names; default: a Hugging Face network's own, or ImageNet's for 1,000 classes (none
                if the class layer has random weights).
    ``transform``   a `Preprocess`, a torchvision Compose, a Hugging Face image processor, or any callable
                PIL image -> (3, H, W) tensor; by default that of the published weights.
    ``scores``  how logits become probabilities: "softmax", "sigmoid" (independent labels), "none" (outputs are
                probabilities already, or used unchanged), "auto" (see `sightline.scores`); None: the checkpoint's
                own, or else "auto".
    ``device``  "auto" is the first accelerator available; None leaves the network where it is (the CPU).
    ``inputs``  further arguments of the network's ``forward`` by name, the same for every image (tensors of one row):
                the model then takes images only, as `evaluate`, `explain_batch` and all others expect.

    GoogLeNet and Inception v3 are assumed to expect the same input as their published weights
    (torchvision's ``transform_input=True``), since a weights file does not say.

    Raises `InputError` for an unknown name, weights that belong to another network or cannot be fetched, and the
    wrong number of ``categories``.

    >>> model = load_model("resnet18", weights="none")
    >>> model(torch.zeros(1, 3, 64, 64)).shape, model.categories, model.preprocess.input_hw
    (torch.Size([1, 1000]), None, (224, 224))
    """
    if isinstance(categories, str):
        raise InputError(f"categories={categories!r} is one string; expected a list of class names")
    where = named_device(device)
    if isinstance(model, nn.Module):
        loaded = _wrapped(model, weights, categories, transform)
    elif model is None:
        if not (weights is None and categories is None and transform is None):
            raise InputError("weights, categories and transform need a model; name one")
        loaded = default_model()
    elif model == "bundled":
        loaded = _from_file(None, tiny40_file(), categories, transform)
    elif _is_file(model) and not _is_folder(model):
        if weights is not None:
            raise InputError(f"{model} holds its own weights; got weights={str(weights)!r} as well")
        loaded = _from_file(None, Path(model), categories, transform)
    else:
        loaded = _named(str(model), weights, categories, transform)
    if scores is not None and scores != loaded.scores:
        loaded = _changed(loaded, None, None, None) if loaded is model else loaded
        loaded.scores = checked_scores(scores)
    if inputs or takes_by_name(loaded.network):
        loaded = _changed(loaded, None, None, None) if loaded is model else loaded
        loaded.network = holding(loaded.network, inputs or {})
    return loaded if where is None else loaded.to(where)


def list_models(pattern: str = "*") -> list[str]:
    """The names that `load_model` accepts and that match ``pattern`` (``*`` and ``?``), sorted.

    timm's names, more than a thousand, are listed if the pattern begins with ``timm/``.

    >>> list_models("squeezenet1_?")
    ['squeezenet1_0', 'squeezenet1_1']
    """
    names = timm.timm_names() if pattern.startswith("timm/") else network_names()
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def default_model() -> LoadedModel:
    """The model used if none is named: EfficientNet-Lite0 on ImageNet's 1,000 classes, offline.

    >>> model = default_model()
    >>> model.name, model.categories[281], model.trained_on, model.licence
    ('lite0', 'tabby', 'ImageNet', 'Apache-2.0')
    """
    return _named(DEFAULT, None, None, None)


def tiny40_file() -> Path:
    """The weights of the 40-class network, which is no longer installed with the package; its recipe builds it."""
    if not TINY40.is_file():
        raise InputError(
            "the 40-class network 'bundled' is not installed: it is recipes/tiny-imagenet/tiny40/"
            f"{TINY40.name} of a source checkout; the default model is now {DEFAULT!r}"
        )
    return TINY40


def about_model(name: str) -> str | None:
    """A description of ``name``, for the few models that are not another library's; None for all others.

    >>> print(about_model("lite0").splitlines()[0])
    lite0: EfficientNet-Lite0, the default model
    """
    if name in lite.LITES:
        first = ", the default model" if name == DEFAULT else ""
        return lite.about_lite(name).replace("\n", f"{first}\n", 1)
    return TINY40_ABOUT if name == "bundled" else None


def _is_file(model: str | Path) -> bool:
    """A bare name means the network, even if a file of that name exists here."""
    text = str(model)
    is_path = os.path.basename(text) != text and os.path.isfile(text)
    return isinstance(model, Path) or text.endswith(WEIGHT_SUFFIXES) or is_path


def _is_folder(model: str | Path) -> bool:
    text = str(model)
    return (isinstance(model, Path) or os.path.basename(text) != text) and huggingface.is_folder(text)


def _named(
    name: str,
    weights: str | Path | bool | None,
    categories: Sequence[str] | None,
    transform: Transform | None,
) -> LoadedModel:
    family = family_of(name)
    version = _published_version(weights)
    if version is None and not _is_random(weights):
        return _from_file(name, Path(str(weights)), categories, transform)
    wanted = 1000 if categories is None else len(categories)
    if version is None:
        made = Published(family.build(name, wanted, {}), "random", trained_head=False)
    else:
        made = family.published(name, wanted, version)
    classes = outputs(dict(made.network.named_modules()).get(family.head(name)))
    # The outputs of a class layer with random weights stand for no class until someone names them.
    given = categories if categories is not None or not made.trained_head else made.categories
    names = _categories(given, classes, name) if given is not None or made.trained_head else None
    loaded = LoadedModel(
        made.network,
        name,
        names,
        _preprocess(transform, family, name),
        made.label,
        made.file,
        licence=made.licence,
        trained_on=made.trained_on,
        unsure_below=made.unsure_below,
        trained_head=made.trained_head,
    )
    loaded._file_sha256 = made.file_sha256
    return loaded


def _is_random(weights: str | Path | bool | None) -> bool:
    return weights is False or (isinstance(weights, str) and weights.lower() in ("none", "random"))


def _published_version(weights: str | Path | bool | None) -> str | None:
    """The name of a published set, or None if ``weights`` is a file or random."""
    if weights is None or weights is True or (isinstance(weights, str) and weights.lower() == "default"):
        return "DEFAULT"
    if _is_random(weights) or isinstance(weights, Path):
        return None
    text = str(weights)
    is_path = text.endswith(WEIGHT_SUFFIXES) or os.path.basename(text) != text or os.path.exists(text)
    return None if is_path else text


def _from_file(
    name: str | None, path: Path, categories: Sequence[str] | None, transform: Transform | None
) -> LoadedModel:
    """The network ``name`` (None: the one named in the file) with the file's weights."""
    state, description = read_weights(path)
    made_of = description.get("architecture")
    if name is None:
        if made_of is None:
            raise InputError(_without_architecture(path, state))
        name = checked_architecture(made_of, str(path))
    elif name != made_of:
        description = {}
    family = family_of(name)
    state = family.tidy(state)
    classes = class_count(family, name, state)
    options = checked_architecture_options(description.get("architecture_options", {}), str(path), name)
    try:
        network = hollow(partial(family.build, name, 1000 if classes is None else classes, options))
    except InputError:
        raise
    except Exception as error:  # builders check their options in many ways, or not at all
        raise InputError(f"{path}: {name} cannot be built with {options}: {reason(error)}") from error
    fill(network, state, path, name, advice=lambda: _advice(name, made_of, state))
    if categories is None:
        categories = checked_categories(description.get("categories"), str(path))
    if categories is None and len(published := family.categories(name) or ()) == classes:
        categories = published
    if transform is None and "preprocess" in description:
        with reading(f"{path}: its preprocessing"):
            transform = Preprocess.from_dict(description["preprocess"])
    names = _categories(categories, classes, str(path))
    scores = description.get("scores", "auto")
    return LoadedModel(network, name, names, _preprocess(transform, family, name), path.name, path, scores)


def _advice(name: str, made_of: object, state: State) -> str:
    if made_of is not None and made_of != name:
        return f"; it is a checkpoint of {made_of}"
    fitting = torchvision.fitting_torchvision(state)
    return "" if fitting in (None, name) else f"; it fits {fitting}"


def _without_architecture(path: Path, state: State) -> str:
    guess = torchvision.fitting_torchvision(state)
    example = f"load_model({guess or 'NAME'!r}, weights={str(path)!r})"
    return f"{path} does not say which network its weights belong to; name it: {example}, or -m NAME --weights FILE"


def _wrapped(
    module: nn.Module,
    weights: str | Path | bool | None,
    categories: Sequence[str] | None,
    transform: Transform | None,
) -> LoadedModel:
    if isinstance(module, LoadedModel):
        same = weights is None and categories is None and transform is None
        return module.eval() if same else _changed(module, weights, categories, transform)
    name = type(module).__name__
    preprocess = _preprocess(transform, None, name)
    if categories is None and huggingface.is_network(module):
        categories = huggingface.categories_of(module.config)
    if weights is None:
        return LoadedModel(module, name, categories, preprocess)
    if isinstance(weights, bool):
        raise InputError(
            f"weights={weights} with your own module; expected a file, or None to keep its weights"
        )
    state, _ = read_weights(weights)
    fill(module, state, weights, name)
    return LoadedModel(module, name, categories, preprocess, Path(weights).name, Path(weights))


def _changed(
    model: LoadedModel,
    weights: str | Path | bool | None,
    categories: Sequence[str] | None,
    transform: Transform | None,
) -> LoadedModel:
    """The same network with other weights, categories or transform."""
    changed = _wrapped(
        model.network,
        weights,
        model.categories if categories is None else categories,
        model.preprocess if transform is None else transform,
    )
    changed.scores = model.scores
    if weights is None:
        changed.name, changed.weights, changed._file = model.name, model.weights, model._file
        changed.licence, changed.trained_on = model.licence, model.trained_on
        changed.unsure_below, changed.trained_head = model.unsure_below, model.trained_head
    return changed


def _preprocess(transform: Transform | None, family: Family | None, name: str) -> Preprocess | None:
    if transform is None:
        return None if family is None else family.preprocess(name)
    if isinstance(transform, Preprocess):
        return transform
    if not callable(transform):
        raise InputError(f"transform is {kind_of(transform)}; expected a callable or a Preprocess")
    return Preprocess.from_transform(transform)


def _categories(given: Sequence[str] | None, classes: int | None, source: str) -> tuple[str, ...] | None:
    if given is None:
        return imagenet_categories() if classes == 1000 else None
    if classes is not None and len(given) != classes:
        raise InputError(f"{len(given)} categories were given, but {source} has {classes} classes")
    return tuple(str(name) for name in given)
