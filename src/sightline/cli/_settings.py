"""The resolved options of a run of ``explain``, every choice checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sightline.errors import unknown


@dataclass(frozen=True)
class Settings:
    """The resolved options of a run, as manifest.json holds them."""

    methods: Sequence[str]
    classes: str | Sequence[str] = "top1"
    layers: Sequence[str] = ()
    view: str = "whole"
    normalise: str = "minmax"
    threshold: float = 0.2
    standard: str = "max"
    percentile: float = 90.0
    select: str = "largest"
    method_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    colormap: str = "turbo"
    batch_size: int = 8

    @property
    def box_options(self) -> dict[str, Any]:
        names = ("threshold", "standard", "percentile", "select", "normalise")
        return {name: getattr(self, name) for name in names}


def checked_settings(options: Sequence[str] = (), **given: Any) -> Settings:
    """`Settings` from what was typed, every choice checked before a model is loaded; ``options`` are NAME=VALUE.

    Raises `InputError` with the near matches of the first wrong choice.
    """
    from sightline.boxes import SELECTIONS, STANDARDS
    from sightline.explanation import VIEWS
    from sightline.heatmap import NORMALISATIONS
    from sightline.methods.options import parse_options
    from sightline.pictures.overlay import colour_table

    settings = Settings(**given)
    for name, valid in (
        ("view", VIEWS),
        ("normalise", NORMALISATIONS),
        ("standard", STANDARDS),
        ("select", SELECTIONS),
    ):
        if getattr(settings, name) not in valid:
            raise unknown(name, getattr(settings, name), valid)
    colour_table(settings.colormap)
    methods = list(dict.fromkeys(settings.methods))
    return replace(settings, methods=methods, method_options=parse_options(methods, options))


def caption_of(model_name: str, settings: Settings) -> str:
    """What the picture shows, in one line.

    >>> caption_of("resnet50", Settings(["cam"]))
    'resnet50 · view: whole · heat: minmax · box: largest region ≥ 0.2 of the maximum'
    """
    of = {"max": "maximum", "percentile": f"{settings.percentile:g}th percentile"}[settings.standard]
    regions = {"largest": "largest region", "all": "every region"}[settings.select]
    parts = (model_name, f"view: {settings.view}", f"heat: {settings.normalise}")
    return " · ".join([*parts, f"box: {regions} ≥ {settings.threshold:g} of the {of}"])
