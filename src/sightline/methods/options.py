"""Method options as a user types them, for one method or for all that have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sightline.errors import InputError, unknown
from sightline.methods.registry import Method, get_method
from sightline.options import read_value, split_pair


def parse_options(methods: Sequence[str], pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The options of each method, from ``NAME=VALUE`` (every method that has it) or ``METHOD.NAME=VALUE``.

    The second wins over the first. Raises `InputError` for an unknown name (with the nearest ones), for a value of the
    wrong kind or out of range, and for a name given twice.

    >>> parse_options(["gradcam", "scorecam"], ["channels=64"])
    {'gradcam': {}, 'scorecam': {'channels': 64}}
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in methods}
    table = {name: get_method(name) for name in methods}
    texts: dict[str, str] = {}
    for pair in pairs:
        key, text = split_pair(pair, "channels=64")
        if key in texts:
            raise InputError(f"option {key} is given twice, {texts[key]!r} and {text!r}; expected it once")
        texts[key] = text
    for key, text in sorted(texts.items(), key=lambda one: "." in one[0]):
        only, _, option = key.rpartition(".")
        if only and only not in table:
            raise unknown("method in the option's name", only, table)
        owners = [name for name in ([only] if only else table) if option in table[name].options]
        if not owners:
            valid = [name for method in table.values() for name in method.options]
            asked = " and ".join(methods)
            if not valid:
                raise InputError(f"unknown option {option!r}: {asked} has no options")
            raise unknown(f"option of {asked}:", option, dict.fromkeys(valid))
        for name in owners:
            kinds = table[name].kinds[option]
            found[name][option] = read_value(kinds, text, f"option {option}={text!r} of {name}")
    return found


def option_types(method: Method) -> dict[str, tuple[Any, ...]]:
    """The types or literal values that each option accepts, from the annotations.

    >>> option_types(get_method("cam"))["nwc"]
    (<class 'bool'>,)
    """
    return method.kinds
