"""Hugging Face's image classifiers: by name with the prefix "hf/", from a local folder, or as objects.

Only configurations and weights are read: code that a repository brings along is never run.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from sightline.errors import InputError, first_words, need
from sightline.models.families.base import Family, Published, hub_answers, outputs
from sightline.models.preprocess import Preprocess
from sightline.models.weights import hollow

PREFIX = "hf/"
_TWO_TOWERS = (
    "CLIPModel",
    "SiglipModel",
    "Siglip2Model",
)  # image and text in one space: for the target `Text`
_PLACEHOLDER = re.compile(r"LABEL_\d+")  # the name of a class that nobody named


def is_folder(path: str | Path) -> bool:
    """Whether a path is a folder as `save_pretrained` writes it."""
    return (Path(path) / "config.json").is_file()


def is_network(module: object) -> bool:
    """Whether a module is one of the library's own, with its configuration."""
    return hasattr(getattr(module, "config", None), "id2label") and hasattr(module, "save_pretrained")


def categories_of(config: Any) -> tuple[str, ...] | None:
    """The class names in a configuration, in the order of the outputs; None where they are placeholders.

    >>> from types import SimpleNamespace
    >>> categories_of(SimpleNamespace(id2label={1: "dog", 0: "cat"}))
    ('cat', 'dog')
    >>> categories_of(SimpleNamespace(id2label={0: "LABEL_0", 1: "LABEL_1"}))
    """
    labels = {int(index): str(name) for index, name in (getattr(config, "id2label", None) or {}).items()}
    if not labels or sorted(labels) != list(range(len(labels))):
        return None
    names = tuple(labels[index] for index in range(len(labels)))
    return None if all(_PLACEHOLDER.fullmatch(name) for name in names) else names


@contextlib.contextmanager
def _reading(name: str) -> Iterator[dict[str, Any]]:
    """Arguments for every ``from_pretrained``: no code is run; the library is quiet, and its errors are one line."""
    logging = need("transformers", "hf").utils.logging
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    local = is_folder(_source(name))
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield {"trust_remote_code": False, "local_files_only": local or not hub_answers()}
    except InputError:
        raise
    except Exception as error:  # configurations, hub, safetensors and torch each raise their own
        reason = first_words(error)
        if local:
            raise InputError(f"{name} cannot be loaded: {type(error).__name__}: {reason}") from error
        raise InputError(
            f"{name} cannot be fetched ({reason}); give a folder with its config.json and model.safetensors"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _source(name: str) -> str:
    """What the library calls it: a name on the hub, or a folder.

    >>> _source("hf/microsoft/resnet-18")
    'microsoft/resnet-18'
    """
    return name.removeprefix(PREFIX)


@functools.lru_cache(maxsize=8)
def _config_of(name: str, changed: float) -> Any:
    with _reading(name) as how:
        return need("transformers", "hf").AutoConfig.from_pretrained(_source(name), **how)


def _config(name: str) -> Any:
    file = Path(_source(name)) / "config.json"
    return _config_of(name, file.stat().st_mtime if file.is_file() else 0.0)


def _has_two_towers(config: Any) -> bool:
    return any(made in _TWO_TOWERS for made in getattr(config, "architectures", None) or ())


def _build(name: str, classes: int, options: dict[str, Any]) -> nn.Module:
    transformers = need("transformers", "hf")
    with _reading(name) as how:
        config = transformers.AutoConfig.from_pretrained(_source(name), **how)
        if config.num_labels != classes:
            config.num_labels = classes
        network: nn.Module = transformers.AutoModelForImageClassification.from_config(config)
    return network


def _published(name: str, classes: int, version: str) -> Published:
    if version != "DEFAULT":
        raise InputError(
            f"weights={version!r}: {name} has one set of weights; leave weights out, or give a file"
        )
    transformers, config = need("transformers", "hf"), _config(name)
    auto = transformers.AutoModel if _has_two_towers(config) else transformers.AutoModelForImageClassification
    with _reading(name) as how:
        how_much = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # said below, in one line
        network, seen = auto.from_pretrained(_source(name), **how_much, **how)
        if _has_two_towers(config):
            network.tokenizer = transformers.AutoTokenizer.from_pretrained(_source(name), **how)
    head = _last_layer(network)
    missing = sorted(seen["missing_keys"])
    wrong = [key for key in missing if not key.startswith(f"{head}.")]
    wrong += [str(found[0]) for found in seen["mismatched_keys"]]
    if wrong:
        raise InputError(
            f"{name} holds the weights of another network: {len(wrong)} tensors are missing or of another shape, "
            f"the first is {wrong[0]}"
        )
    names = categories_of(network.config)
    return Published(network, f"Hugging Face {_source(name)}", trained_head=not missing, categories=names)


def _last_layer(network: nn.Module) -> str:
    names: list[str] = [name for name, layer in network.named_modules() if outputs(layer) is not None]
    return names[-1]


def _head(name: str) -> str:
    config = _config(name)
    if _has_two_towers(config):
        return ""
    return _last_layer(hollow(lambda: _build(name, config.num_labels, {})))


def _preprocess(name: str) -> Preprocess | None:
    """That of the processor beside the weights; None where there is none."""
    source = Path(_source(name))
    if (
        is_folder(source)
        and not (source / "preprocessor_config.json").is_file() | (source / "processor_config.json").is_file()
    ):
        return None
    with _reading(name) as how:
        return Preprocess.from_transform(
            need("transformers", "hf").AutoImageProcessor.from_pretrained(_source(name), **how)
        )


FAMILY = Family(_build, _published, _head, _preprocess, categories=lambda name: categories_of(_config(name)))
