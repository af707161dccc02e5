"""Networks cut for class activation maps, by name: a trunk, pooling, a linear layer; and NIN."""

from __future__ import annotations

import contextlib
import functools
import re
from typing import Any

from torch import nn

from sightline.errors import InputError
from sightline.models.families import gapnet, lite, timm, torchvision
from sightline.models.families.base import Family, Published, fetching, last_with, offline_at_once
from sightline.models.preprocess import Preprocess
from sightline.models.weights import hollow

SURGERY = re.compile(r"nin|.+-(gap|gmp|tap)")


@functools.cache
def surgery_names() -> tuple[str, ...]:
    return (*gapnet.list_gapnets(), "nin")


def _build_surgery(name: str, classes: int, options: dict[str, Any]) -> nn.Module:
    return gapnet.build_classifier(name, classes, **options)


def _published_surgery(name: str, classes: int, version: str) -> Published:
    if name == "nin" or name.rpartition("-")[0] in gapnet.SMALL:
        raise InputError(
            f"{name} has no published weights; give a file (weights='….safetensors', --weights), or 'none'"
        )
    pretrained: bool | str = True if version == "DEFAULT" else version
    with fetching(name), offline_at_once() if name.startswith("timm/") else contextlib.nullcontext():
        network = gapnet.build_gapnet(name, classes, pretrained=pretrained)
    return Published(network, "published trunk, untrained head", trained_head=False)


def _head_surgery(name: str) -> str:
    return last_with(hollow(lambda: _build_surgery(name, 1000, {})), 1000) if name == "nin" else "fc"


def _preprocess_surgery(name: str) -> Preprocess | None:
    trunk = name.rpartition("-")[0] or name
    if trunk in gapnet.SMALL:
        return Preprocess((64, 64), 64)
    if trunk in lite.LITES:
        return lite.FAMILY.preprocess(trunk)
    if trunk.startswith("timm/"):
        return timm.FAMILY.preprocess(trunk)
    original = gapnet.PAPER[trunk][0] if trunk in gapnet.PAPER else gapnet.ALIASES.get(trunk, trunk)
    return Preprocess() if original == "nin" else torchvision.FAMILY.preprocess(original)


FAMILY = Family(_build_surgery, _published_surgery, _head_surgery, _preprocess_surgery)


# A classifier with a box regressor, trained by `sightline refine`; it exists only as a checkpoint.


def _build_refined(name: str, classes: int, options: dict[str, Any]) -> nn.Module:
    from sightline.models.families.refined import build_refined

    return build_refined(classes, **options)


def _published_refined(name: str, classes: int, version: str) -> Published:
    raise InputError("a refined network has no published weights; give the checkpoint that `refine` wrote")


REFINED = Family(_build_refined, _published_refined, lambda _: "classifier.fc", lambda _: Preprocess())
