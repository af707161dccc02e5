"""What every source of networks offers, and what their downloads share."""

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

from sightline.errors import InputError, UnsupportedError
from sightline.models.preprocess import Preprocess
from sightline.models.weights import State

_CATEGORIES = Path(__file__).parent.parent / "imagenet-classes.txt"


@dataclass(frozen=True)
class Published:
    """A network with its published weights, and what is known of them.

    ``label``         what the weights are called.
    ``file``, ``file_sha256``  the file that they were read from and its checksum, where there is one.
    ``licence``, ``trained_on``  of the weights; "" where nobody here knows.
    ``unsure_below``  a best score under this means that no class fits well; 0: not known.
    ``trained_head``  False where surgery put a new class layer on a published trunk.
    """

    network: nn.Module
    label: str
    file: Path | None = None
    file_sha256: str | None = None
    licence: str = ""
    trained_on: str = ""
    unsure_below: float = 0.0
    trained_head: bool = True


@dataclass(frozen=True)
class Family:
    """What one source of networks can do, each for a name.

    ``build(name, classes, options)``  the network with arbitrary weights.
    ``published(name, classes, version)``  the network with its published weights.
    ``head(name)``  the name of the layer that has one output for each class.
    ``preprocess(name)``  the preprocessing of the published weights.
    ``tidy(state)``  the tensors of a published file under the names that the network uses today.
    """

    build: Callable[[str, int, dict[str, Any]], nn.Module]
    published: Callable[[str, int, str], Published]
    head: Callable[[str], str]
    preprocess: Callable[[str], Preprocess]
    tidy: Callable[[State], State] = lambda state: state


@functools.cache
def imagenet_categories() -> tuple[str, ...]:
    """The 1,000 class names of ImageNet in torchvision's order, from a file of ours: importing theirs takes a second.

    >>> imagenet_categories()[207]
    'golden retriever'
    """
    return tuple(_CATEGORIES.read_text(encoding="utf-8").splitlines())


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


@contextlib.contextmanager
def offline_at_once() -> Iterator[None]:
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


def last_with(network: nn.Module, classes: int) -> str:
    """The name of the last layer with so many outputs."""
    names: list[str] = [name for name, layer in network.named_modules() if outputs(layer) == classes]
    return names[-1]


def outputs(layer: object) -> int | None:
    """How many outputs a linear layer or a convolution has; None for anything else."""
    count = getattr(layer, "out_features", None) or getattr(layer, "out_channels", None)
    return count if isinstance(count, int) else None
