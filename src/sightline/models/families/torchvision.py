"""torchvision's classifiers by name."""

from __future__ import annotations

import functools
import itertools
import re
import sys
from typing import Any

from torch import nn

from sightline.errors import unknown
from sightline.models.families.base import Family, Published, fetching, last_with
from sightline.models.preprocess import Preprocess
from sightline.models.weights import State, hollow, matched
from sightline.runtime import import_light


@functools.cache
def torchvision_names() -> tuple[str, ...]:
    """torchvision's image classifiers: those with builders directly in torchvision.models.

    >>> {"resnet50", "vit_b_16", "squeezenet1_1"} <= set(torchvision_names())
    True
    """
    models = _torchvision()
    return tuple(models.list_models(module=models))


def _torchvision() -> Any:
    return import_light("torchvision.models")


# GoogLeNet's and Inception's heads that only training uses; published GoogLeNet weights lack them.
_AUX = ("aux1", "aux2", "AuxLogits")


def _build_torchvision(name: str, classes: int, options: dict[str, Any]) -> nn.Module:
    if name in ("googlenet", "inception_v3"):
        # Their published weights expect the input of their original training, which no weights file states.
        options = {"aux_logits": False, "init_weights": False, "transform_input": True, **options}
    network: nn.Module = _torchvision().get_model(name, weights=None, num_classes=classes, **options)
    return network


def _published_torchvision(name: str, classes: int, version: str) -> Published:
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
    return Published(network, f"torchvision {choices[version].name}")


def _head_torchvision(name: str) -> str:
    return _layout(name)[0]


@functools.cache
def _layout(name: str) -> tuple[str, dict[str, tuple[int, ...]]]:
    """The name of a torchvision network's class layer, and the shapes of all other tensors except counters."""
    network = hollow(lambda: _build_torchvision(name, 1000, {}))
    head = last_with(network, 1000)
    return head, {
        key: tuple(tensor.shape)
        for key, tensor in network.state_dict().items()
        if not key.startswith(f"{head}.") and not key.endswith("num_batches_tracked")
    }


def _preprocess_torchvision(name: str) -> Preprocess:
    return Preprocess.from_torchvision(_torchvision().get_model_weights(name).DEFAULT)


def _tidy_torchvision(state: State) -> State:
    kept = {k: v for k, v in state.items() if not any(f".{head}." in f".{k}" for head in _AUX)}
    # Published DenseNets use "norm.1" for the network's "norm1".
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", k): v for k, v in kept.items()}


def fitting_torchvision(state: State) -> str | None:
    """The torchvision network that these weights fit, ignoring the class layer, or None."""
    state = _tidy_torchvision(state)
    for _, family in itertools.groupby(torchvision_names(), lambda name: re.split(r"[\d_]", name)[0]):
        for name in family:
            shapes = _layout(name)[1]
            found = matched(state, shapes)
            if next(iter(shapes)) not in found:
                break  # the first layer has the same name throughout a family
            if shapes == {key: tuple(tensor.shape) for key, tensor in found.items() if key in shapes}:
                return name
    return None


FAMILY = Family(
    _build_torchvision,
    _published_torchvision,
    _head_torchvision,
    _preprocess_torchvision,
    _tidy_torchvision,
)
