"""An extension of the documentation: a doctest in a docstring is shown as a block of code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"(?:^>>> .*\n?(?:^(?!\s*$).*\n?)*\n?)+", re.MULTILINE)


def fenced(text: str) -> str:
    """``text`` with each run of doctest lines, up to an empty line, in a fence."""
    return _EXAMPLE.sub(lambda found: f"```pycon\n{found[0].strip()}\n```\n", text)


class Doctests(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
