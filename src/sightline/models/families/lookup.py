"""The family of a network, by its name."""

from __future__ import annotations

from sightline.errors import unknown
from sightline.models.families import huggingface, lite, surgery, timm, torchvision
from sightline.models.families.base import Family
from sightline.models.weights import State, matched


def family_of(name: str) -> Family:
    """The family of ``name``; raises `InputError` with the nearest names."""
    if name in lite.LITES:  # first: only this one needs neither torchvision nor timm
        return lite.FAMILY
    if name.startswith(huggingface.PREFIX) or huggingface.is_folder(name):
        return huggingface.FAMILY
    if name == "refined":
        return surgery.REFINED
    if surgery.SURGERY.fullmatch(name):
        if name not in surgery.surgery_names() and not name.startswith("timm/"):
            raise unknown("model", name, surgery.surgery_names())
        return surgery.FAMILY
    if name.startswith("timm/"):
        if not timm.is_known(name):
            raise unknown("model", name, timm.timm_names())
        return timm.FAMILY
    if name not in torchvision.torchvision_names():
        raise unknown(
            "model", name, network_names(), hint="(`timm/NAME` for timm's, `hf/NAME` for Hugging Face's)"
        )
    return torchvision.FAMILY


def network_names() -> list[str]:
    """All names except timm's, sorted."""
    return sorted([*lite.LITES, *torchvision.torchvision_names(), *surgery.surgery_names()])


def class_count(family: Family, name: str, state: State) -> int | None:
    """The weights' number of classes; None if they lack the class layer."""
    key = f"{family.head(name)}.weight"
    layer = matched(state, [key]).get(key)
    return None if layer is None else int(layer.shape[0])
