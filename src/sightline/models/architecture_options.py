"""The options that a checkpoint may set for its network: structure only, never a path, a URL or a class.

A checkpoint can come from anywhere. Its options reach `timm.create_model` and torchvision's builders, and some of those
read files, fetch URLs or unpickle. So only the names below are accepted, with plain values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from sightline.errors import InputError

LARGEST = 65_536  # units, kernels, sides
_NAME = re.compile(r"(timm/)?[A-Za-z0-9_.\-]{1,100}")
DEEPEST = 2  # a refined network has a base with options of its own


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _is_counts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) <= 64 and all(map(_is_count, value))


def _is_depths(value: object) -> bool:
    return _is_counts(value) and len(value) <= 16 and max(value, default=0) <= 512  # type: ignore[arg-type, call-overload]


def _is_switch(value: object) -> bool:
    return isinstance(value, bool)


def _one_of(*choices: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and value in choices


_COUNT, _NUMBER = ("a count", _is_count), ("a number", _is_number)
_DEPTHS = ("at most 16 counts of at most 512", _is_depths)
_COUNTS, _SWITCH = ("a list of counts", _is_counts), ("true or false", _is_switch)
_COUNT_OR_COUNTS = ("a count or a list of counts", lambda v: v is None or _is_count(v) or _is_counts(v))

ALLOWED: dict[str, tuple[str, Callable[[object], bool]]] = {
    # networks cut for class activation maps
    "theta": _NUMBER,
    "last_strides": _COUNT,
    "extra_conv": _COUNT_OR_COUNTS,
    "extra_groups": _COUNT,
    "extra_dropout": _NUMBER,
    # the small trunks
    "stem": _COUNT,
    "widths": _COUNTS,
    "depths": _DEPTHS,
    "blocks": _DEPTHS,
    "strides": _COUNTS,
    "norm": ("batch or group", _one_of("batch", "group")),
    # a classifier with a box regressor
    "base": ("the name of a network", lambda v: isinstance(v, str)),
    "base_options": ("an object", lambda v: isinstance(v, Mapping)),
    "shared": _COUNT,
    "depth": ("a count of at most 512", lambda v: _is_count(v) and _is_depths([v])),
    "hidden": _COUNT,
    "grid": _COUNT,
    "head": ("grid or edges", _one_of("grid", "edges")),
    # torchvision and timm
    "aux_logits": _SWITCH,
    "transform_input": _SWITCH,
    "init_weights": _SWITCH,
    "dropout": _NUMBER,
    "in_chans": _COUNT,
    "img_size": _COUNT_OR_COUNTS,
    "patch_size": _COUNT_OR_COUNTS,
    "output_stride": _COUNT,
    "drop_rate": _NUMBER,
    "drop_path_rate": _NUMBER,
    "global_pool": ("avg, max, avgmax, token or map", _one_of("avg", "max", "avgmax", "token", "map")),
}


def checked_architecture(given: Any, source: str) -> str:
    """The network that a file's metadata names: a plain name, never a hub, a folder or a URL.

    >>> checked_architecture("timm/resnet10t", "a.safetensors")
    'timm/resnet10t'
    >>> checked_architecture("hf/someone/net", "a.safetensors")
    Traceback (most recent call last):
    sightline.errors.InputError: a.safetensors: unknown network 'hf/someone/net'; a file may only name a network ...
    """
    if not isinstance(given, str) or not _NAME.fullmatch(given):
        raise InputError(
            f"{source}: unknown network {given!r:.200}; a file may only name a network of this package, of "
            "torchvision or of timm (timm/NAME): to load another one, name it yourself and give the file as its weights"
        )
    return given


def checked_categories(given: Any, source: str) -> list[str] | None:
    """The class names in a file's metadata; None if it has none."""
    if given is None:
        return None
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise InputError(f"{source}: categories is {given!r:.100}; expected a list of names")
    return given


def checked_architecture_options(given: Any, source: str, name: str, depth: int = 0) -> dict[str, Any]:
    """The options in a file's metadata; raises `InputError` unless each is a known one with a plain value.

    >>> checked_architecture_options({"theta": 0.1}, "a.safetensors", "small-tap")
    {'theta': 0.1}
    >>> checked_architecture_options({"checkpoint_path": "b.pth"}, "a.safetensors", "timm/resnet10t")
    Traceback (most recent call last):
    sightline.errors.InputError: a.safetensors: timm/resnet10t cannot be built with {'checkpoint_path': 'b.pth'}: ...
    """
    if not isinstance(given, Mapping):
        raise InputError(f"{source}: architecture_options is a {type(given).__name__}; expected an object")
    for option, value in given.items():
        if option not in ALLOWED:
            raise InputError(
                f"{source}: {name} cannot be built with { {option: value}!r:.300}: a file may only set "
                f"{', '.join(sorted(ALLOWED))}"
            )
        expected, fits = ALLOWED[option]
        if not fits(value):
            raise InputError(f"{source}: {option}={value!r:.300} for {name}; expected {expected}")
        if option == "base":
            checked_architecture(value, source)
        if option == "base_options":
            if depth == DEEPEST:
                raise InputError(f"{source}: base_options are nested too deep for {name}")
            checked_architecture_options(value, source, name, depth + 1)
    return dict(given)
