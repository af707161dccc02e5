"""The interface of every source of networks, and what their downloads share."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sightline.errors import InputError, UnsupportedError, first_words
from sightline.models.preprocess import Preprocess
from sightline.models.weights import State

_CATEGORIES = Path(__file__).parent.parent / "imagenet-classes.txt"


@dataclass(frozen=True)
class Published:
    """A network with its published weights, and their metadata.

    ``label``         the name of the weights.
    ``file``, ``file_sha256``  the file that they were read from and its checksum, if there is one.
    ``licence``, ``trained_on``  of the weights; "" if not known.
    ``unsure_below``  a best score below this means that no class fits well; 0: not known.
    ``trained_head``  False if a published trunk was given a new class layer.
    ``categories``  its class names, where the weights come with them.
    """

    network: nn.Module
    label: str
    file: Path | None = None
    file_sha256: str | None = None
    licence: str = ""
    trained_on: str = ""
    unsure_below: float = 0.0
    trained_head: bool = True
    categories: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Family:
    """The functions of one source of networks, each for a name.

    ``build(name, classes, options)``  the network with uninitialised weights.
    ``published(name, classes, version)``  the network with its published weights.
    ``head(name)``  the name of the layer with one output per class.
    ``preprocess(name)``  the preprocessing of the published weights, or None.
    ``tidy(state)``  the tensors of a published file under the network's current names.
    ``categories(name)``  the class names that the network was published with, or None.
    """

    build: Callable[[str, int, dict[str, Any]], nn.Module]
    published: Callable[[str, int, str], Published]
    head: Callable[[str], str]
    preprocess: Callable[[str], Preprocess | None]
    tidy: Callable[[State], State] = lambda state: state
    categories: Callable[[str], tuple[str, ...] | None] = lambda name: None


@functools.cache
def imagenet_categories() -> tuple[str, ...]:
    """The 1,000 class names of ImageNet in torchvision's order, from our own file: importing theirs takes a second.

    >>> imagenet_categories()[207]
    'golden retriever'
    """
    return tuple(_CATEGORIES.read_text(encoding="utf-8").splitlines())


@contextlib.contextmanager
def fetching(name: str) -> Iterator[None]:
    """Turn any error of a download into one line that offers a solution; keep stdout clean."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # torch.hub announces downloads there
            yield
    except UnsupportedError:
        raise
    except Exception as error:  # urllib, httpx, ssl and the hub each raise their own
        # If another module has already turned it into one line, the cause says more.
        cause = error.__context__ if isinstance(error, InputError) and error.__context__ else error
        reason = first_words(cause)
        raise InputError(
            f"the published weights of {name} cannot be fetched ({reason}); give a file: "
            f"weights='{name.split('/')[-1]}.safetensors' (or .pth), or weights='none' for random ones (--weights)"
        ) from error


@contextlib.contextmanager
def offline_at_once() -> Iterator[None]:
    """If the hub is unreachable, use the cache or fail at once, not after a minute of retries."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    try:
        constants.HF_HUB_OFFLINE = not hub_answers()
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def hub_answers() -> bool:
    """Whether the hub can be reached; False as well where its offline mode is on."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    return not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10):
            return True
    except urllib.error.HTTPError:  # an answer, even if it is an error
        return True
    except OSError:
        return False


def last_with(network: nn.Module, classes: int) -> str:
    """The name of the last layer with ``classes`` outputs."""
    names: list[str] = [name for name, layer in network.named_modules() if outputs(layer) == classes]
    return names[-1]


def outputs(layer: object) -> int | None:
    """How many outputs a linear layer or a convolution has; None for anything else."""
    count = getattr(layer, "out_features", None) or getattr(layer, "out_channels", None)
    return count if isinstance(count, int) else None
