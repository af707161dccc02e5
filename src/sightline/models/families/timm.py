"""timm's classifiers by name, with the prefix "timm/"."""

from __future__ import annotations

from typing import Any

from torch import nn

from sightline.errors import unknown
from sightline.models.families.base import Family, Published, fetching, offline_at_once
from sightline.models.preprocess import Preprocess
from sightline.runtime import import_light


def _timm() -> Any:
    return import_light("timm")


def timm_name(name: str) -> str:
    return name.removeprefix("timm/")


def timm_names() -> list[str]:
    """timm's networks and published sets of weights, with the prefix "timm/"."""
    return [f"timm/{name}" for name in sorted({*_timm().list_models(), *_timm().list_pretrained()})]


def is_known(name: str) -> bool:
    """Whether timm has a network of that name."""
    return bool(_timm().is_model(timm_name(name)))


def _build_timm(name: str, classes: int, options: dict[str, Any]) -> nn.Module:
    network: nn.Module = _timm().create_model(timm_name(name), num_classes=classes, **options)
    return network


def _published_timm(name: str, classes: int, version: str) -> Published:
    if version != "DEFAULT":
        tags = _timm().list_pretrained(f"{timm_name(name).split('.')[0]}.*")
        raise unknown(
            f"weights of {name}", version, [f"timm/{tag}" for tag in tags], hint="(as the model's name)"
        )
    with fetching(name), offline_at_once():
        network: Any = _timm().create_model(timm_name(name), pretrained=True)
    return Published(network, f"timm {network.pretrained_cfg.get('tag') or 'published'}")


def _head_timm(name: str) -> str:
    classifier = _timm().get_pretrained_cfg(timm_name(name)).classifier
    return str(classifier if isinstance(classifier, str) else classifier[0])


def _preprocess_timm(name: str) -> Preprocess:
    return Preprocess.from_timm(timm_name(name))


FAMILY = Family(_build_timm, _published_timm, _head_timm, _preprocess_timm)
