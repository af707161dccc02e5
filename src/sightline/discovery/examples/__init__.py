"""Example data for discovery, composed from real photos in standard formats; reproducible by seed."""

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
    """The function (out, train, test, *, seed) that makes a verb's data.

    >>> maker("text").__name__
    'make_text'
    """
    module, function = KINDS[kind]
    found: Callable[..., Any] = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    return found
