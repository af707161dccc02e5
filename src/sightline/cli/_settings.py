"""The resolved options of a run of ``explain``, every choice checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sightline.errors import unknown
from sightline.types import BoxRule


@dataclass(frozen=True)
class Settings:
    """The resolved options of a run, as manifest.json holds them."""

    methods: Sequence[str]
    classes: str | Sequence[str] = "top1"
    layers: Sequence[str] = ()
    view: str = "whole"
    rule: BoxRule = field(default_factory=BoxRule)
    method_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    colormap: str = "turbo"
    batch_size: int = 8

    def as_dict(self) -> dict[str, Any]:
        """The options as manifest.json holds them; those of the box rule lie beside the others, ``standard`` too."""
        fields = {name: value for name, value in vars(self).items() if name not in ("rule", "method_options")}
        return {**fields, **self.rule.as_dict(), "standard": self.rule.relative_to}


def checked_settings(options: Sequence[str] = (), **given: Any) -> Settings:
    """`Settings` from what was typed, every choice checked before a model is loaded; ``options`` are NAME=VALUE.

    Raises `InputError` with the near matches of the first wrong choice.
    """
    from sightline.explanation import VIEWS
    from sightline.methods.options import parse_options
    from sightline.pictures.overlay import colour_table

    settings = Settings(**given)
    if settings.view not in VIEWS:
        raise unknown("view", settings.view, VIEWS)
    colour_table(settings.colormap)
    methods = list(dict.fromkeys(settings.methods))
    return replace(settings, methods=methods, method_options=parse_options(methods, options))


def caption_of(model_name: str, settings: Settings) -> str:
    """What the picture shows, in one line.

    >>> caption_of("resnet50", Settings(["cam"]))
    'resnet50 · view: whole · heat: minmax · box: largest region ≥ 0.2 of the maximum'
    """
    parts = (model_name, f"view: {settings.view}", f"heat: {settings.rule.normalise}")
    return " · ".join([*parts, f"box: {settings.rule.describe()}"])
