"""Networks by name: torchvision's, timm's, and those cut by network surgery, each behind the same five doors."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import itertools
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from sightline.errors import InputError, UnsupportedError, unknown
from sightline.models import gapnet
from sightline.models.preprocess import Preprocess
from sightline.models.weights import State, hollow, matched

SURGERY = re.compile(r"nin|.+-(gap|gmp|tap)")


@dataclass(frozen=True)
class Family:
    """What one source of networks can do, each for a name.

    ``build(name, classes, options)``  the network with arbitrary weights.
    ``published(name, classes, version)``  the network with its published weights, and what these are called.
    ``head(name)``  the name of the layer that has one output for each class.
    ``preprocess(name)``  the preprocessing of the published weights.
    ``tidy(state)``  the tensors of a published file under the names that the network uses today.
    """

    build: Callable[[str, int, dict[str, Any]], nn.Module]
    published: Callable[[str, int, str], tuple[nn.Module, str]]
    head: Callable[[str], str]
    preprocess: Callable[[str], Preprocess]
    tidy: Callable[[State], State] = lambda state: state


def family_of(name: str) -> Family:
    """Whose network ``name`` is, or `InputError` with the nearest names."""
    if name == "refined":
        return Family(_build_refined, _published_refined, lambda _: "classifier.fc", lambda _: Preprocess())
    if SURGERY.fullmatch(name):
        if name not in _surgery_names() and not name.startswith("timm/"):
            raise unknown("model", name, _surgery_names())
        return Family(_build_surgery, _published_surgery, _head_surgery, _preprocess_surgery)
    if name.startswith("timm/"):
        if not _timm().is_model(_timm_name(name)):
            raise unknown("model", name, timm_names())
        return Family(_build_timm, _published_timm, _head_timm, _preprocess_timm)
    if name not in torchvision_names():
        raise unknown("model", name, network_names(), hint="(`timm/NAME` for timm's)")
    return Family(
        _build_torchvision,
        _published_torchvision,
        _head_torchvision,
        _preprocess_torchvision,
        _tidy_torchvision,
    )


def network_names() -> list[str]:
    """All names but timm's, sorted."""
    return sorted([*torchvision_names(), *_surgery_names()])


def class_count(family: Family, name: str, state: State) -> int | None:
    """For how many classes the weights are; None where they lack the class layer."""
    key = f"{family.head(name)}.weight"
    layer = matched(state, [key]).get(key)
    return None if layer is None else int(layer.shape[0])


@contextlib.contextmanager
def fetching(name: str) -> Iterator[None]:
    """Turn whatever a download raises into one line that names the way out; keep stdout clean."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # torch.hub says there that it begins
            yield
    except UnsupportedError:
        raise
    except Exception as error:  # urllib, httpx, ssl, the hub: each raises its own
        # Where a room below has already made a line of it, the cause says more.
        cause = error.__context__ if isinstance(error, InputError) and error.__context__ else error
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        raise InputError(
            f"the published weights of {name} cannot be had ({reason}); give a file: "
            f"weights='{name.split('/')[-1]}.safetensors' (or .pth), or weights='none' for random ones"
        ) from error


# --- torchvision --------------------------------------------------------------------------------


@functools.cache
def torchvision_names() -> tuple[str, ...]:
    """torchvision's image classifiers: those whose builders stand directly in torchvision.models.

    >>> {"resnet50", "vit_b_16", "squeezenet1_1"} <= set(torchvision_names())
    True
    """
    models = _torchvision()
    return tuple(models.list_models(module=models))


def _torchvision() -> Any:
    return importlib.import_module("torchvision.models")


def imagenet_categories() -> tuple[str, ...]:
    """The 1,000 class names of ImageNet in torchvision's order.

    >>> imagenet_categories()[207]
    'golden retriever'
    """
    return tuple(_torchvision().ResNet50_Weights.DEFAULT.meta["categories"])


# GoogLeNet's and Inception's heads that only training uses; as published, the first is without its own.
_AUX = ("aux1", "aux2", "AuxLogits")


def _build_torchvision(name: str, classes: int, options: dict[str, Any]) -> nn.Module:
    if name in ("googlenet", "inception_v3"):
        # Their published weights want the input of their first training, which no weights file says.
        options = {"aux_logits": False, "init_weights": False, "transform_input": True, **options}
    network: nn.Module = _torchvision().get_model(name, weights=None, num_classes=classes, **options)
    return network


def _published_torchvision(name: str, classes: int, version: str) -> tuple[nn.Module, str]:
    choices = _torchvision().get_model_weights(name)
    if version not in choices.__members__:
        raise unknown(f"weights of {name}", version, choices.__members__, hint="(or a file, or 'none')")
    with fetching(name):
        network: Any = _torchvision().get_model(name, weights=choices[version], progress=sys.stderr.isatty())
    if hasattr(network, "aux_logits"):
        network.aux_logits = False
        for head in _AUX:
            if hasattr(network, head):
                setattr(network, head, None)
    return network, f"torchvision {choices[version].name}"


def _head_torchvision(name: str) -> str:
    return _plan(name)[0]


@functools.cache
def _plan(name: str) -> tuple[str, dict[str, tuple[int, ...]]]:
    """The name of a torchvision network's class layer, and the shapes of all other tensors but counters."""
    network = hollow(lambda: _build_torchvision(name, 1000, {}))
    head = _last_with(network, 1000)
    return head, {
        key: tuple(tensor.shape)
        for key, tensor in network.state_dict().items()
        if not key.startswith(f"{head}.") and not key.endswith("num_batches_tracked")
    }


def _last_with(network: nn.Module, classes: int) -> str:
    """The name of the last layer with so many outputs."""
    names: list[str] = [name for name, layer in network.named_modules() if outputs(layer) == classes]
    return names[-1]


def outputs(layer: object) -> int | None:
    """How many outputs a linear layer or a convolution has; None for anything else."""
    count = getattr(layer, "out_features", None) or getattr(layer, "out_channels", None)
    return count if isinstance(count, int) else None


def _preprocess_torchvision(name: str) -> Preprocess:
    return Preprocess.from_torchvision(_torchvision().get_model_weights(name).DEFAULT)


def _tidy_torchvision(state: State) -> State:
    kept = {k: v for k, v in state.items() if not any(f".{head}." in f".{k}" for head in _AUX)}
    # The published DenseNets say "norm.1" where the network says "norm1".
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", k): v for k, v in kept.items()}


def fitting_torchvision(state: State) -> str | None:
    """The torchvision network whose weights these are, but for the class layer, or None."""
    state = _tidy_torchvision(state)
    for _, family in itertools.groupby(torchvision_names(), lambda name: re.split(r"[\d_]", name)[0]):
        for name in family:
            shapes = _plan(name)[1]
            found = matched(state, shapes)
            if next(iter(shapes)) not in found:
                break  # the first layer has one name throughout a family
            if shapes == {key: tuple(tensor.shape) for key, tensor in found.items() if key in shapes}:
                return name
    return None


# --- timm ---------------------------------------------------------------------------------------


def _timm() -> Any:
    return importlib.import_module("timm")


def _timm_name(name: str) -> str:
    return name.removeprefix("timm/")


def timm_names() -> list[str]:
    """timm's networks and its sets of published weights, each with "timm/" before it."""
    return [f"timm/{name}" for name in sorted({*_timm().list_models(), *_timm().list_pretrained()})]


def _build_timm(name: str, classes: int, options: dict[str, Any]) -> nn.Module:
    network: nn.Module = _timm().create_model(_timm_name(name), num_classes=classes, **options)
    return network


def _published_timm(name: str, classes: int, version: str) -> tuple[nn.Module, str]:
    if version != "DEFAULT":
        tags = _timm().list_pretrained(f"{_timm_name(name).split('.')[0]}.*")
        raise unknown(
            f"weights of {name}", version, [f"timm/{tag}" for tag in tags], hint="(as the model's name)"
        )
    with fetching(name), _offline_at_once():
        network: Any = _timm().create_model(_timm_name(name), pretrained=True)
    return network, f"timm {network.pretrained_cfg.get('tag') or 'published'}"


@contextlib.contextmanager
def _offline_at_once() -> Iterator[None]:
    """Without a way to the hub, use what is cached or fail now, not after a minute of trying again."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            constants.HF_HUB_OFFLINE = not _answers(constants.ENDPOINT)
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10):
            return True
    except urllib.error.HTTPError:  # it answers, if only to say no
        return True
    except OSError:
        return False


def _head_timm(name: str) -> str:
    classifier = _timm().get_pretrained_cfg(_timm_name(name)).classifier
    return str(classifier if isinstance(classifier, str) else classifier[0])


def _preprocess_timm(name: str) -> Preprocess:
    return Preprocess.from_timm(_timm_name(name))


# --- network surgery ----------------------------------------------------------------------------


@functools.cache
def _surgery_names() -> tuple[str, ...]:
    return (*gapnet.list_gapnets(), "nin")


def _build_surgery(name: str, classes: int, options: dict[str, Any]) -> nn.Module:
    return gapnet.build_classifier(name, classes, **options)


def _published_surgery(name: str, classes: int, version: str) -> tuple[nn.Module, str]:
    if name == "nin" or name.rpartition("-")[0] in gapnet.SMALL:
        raise InputError(f"{name} has no published weights; give a file (weights='….safetensors'), or 'none'")
    pretrained: bool | str = True if version == "DEFAULT" else version
    with fetching(name), _offline_at_once() if name.startswith("timm/") else contextlib.nullcontext():
        network = gapnet.build_gapnet(name, classes, pretrained=pretrained)
    return network, "published trunk, untrained head"


def _head_surgery(name: str) -> str:
    return _last_with(hollow(lambda: _build_surgery(name, 1000, {})), 1000) if name == "nin" else "fc"


def _preprocess_surgery(name: str) -> Preprocess:
    trunk = name.rpartition("-")[0] or name
    if trunk in gapnet.SMALL:
        return Preprocess((64, 64), 64)
    if trunk.startswith("timm/"):
        return _preprocess_timm(trunk)
    original = gapnet.PAPER[trunk][0] if trunk in gapnet.PAPER else gapnet.ALIASES.get(trunk, trunk)
    return Preprocess() if original == "nin" else _preprocess_torchvision(original)


# --- a classifier with a box regressor, made by `sightline refine`, known by its checkpoint only -----


def _build_refined(name: str, classes: int, options: dict[str, Any]) -> nn.Module:
    from sightline.models.refined import build_refined

    return build_refined(classes, **options)


def _published_refined(name: str, classes: int, version: str) -> tuple[nn.Module, str]:
    raise InputError("a refined network has no published weights; give the checkpoint that `refine` wrote")
