"""Example data for discovery, made of real photos, in the field's own formats; the same seed, the same data."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

KINDS = {
    "objects": ("scenes", "make_scenes"),
    "concept": ("captions", "make_captions"),
    "text": ("text", "make_text"),
    "vqa": ("questions", "make_questions"),
    "caption": ("places", "make_places"),
}


def maker(kind: str) -> Callable[..., Any]:
    """The function (out, train, test, *, seed) that makes the data of a verb.

    >>> maker("text").__name__
    'make_text'
    """
    module, function = KINDS[kind]
    made: Callable[..., Any] = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    return made
