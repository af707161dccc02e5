"""Parse a torchvision transform: its resize, crop and normalisation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from PIL import Image
from torch import nn

# Steps that do not change an upright RGB photo. The two functions are open_clip's and CLIP's.
_NOTHING = {"Identity", "ToPureTensor", "RGB", "_convert_to_rgb", "_convert_image_to_rgb"}
_CONVERSIONS = {"ToTensor", "MaybeToTensor", "PILToTensor", "ToImage", "ToDtype", "ConvertImageDtype"}
_ORDER = {"Resize": 0, "CenterCrop": 1, "Normalize": 2}


def read_transform(transform: Callable[..., Any]) -> dict[str, Any] | None:
    """The fields of `Preprocess` equivalent to ``transform``, or None if there are none.

    >>> from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor
    >>> read_transform(Compose([Resize(40), CenterCrop(32), ToTensor()]))["resize"]
    40
    """
    if type(transform).__name__ == "ImageClassification":
        return _fields(transform.crop_size, transform.resize_size, transform)  # type: ignore[attr-defined]
    found: dict[str, Any] = {}
    for step in _steps(transform):
        kind = getattr(step, "__name__", type(step).__name__)
        if kind in _NOTHING or kind in _CONVERSIONS:
            continue
        # Each at most once and in this order; resizing after a crop is something else.
        if kind not in _ORDER or any(_ORDER[kind] <= _ORDER[earlier] for earlier in found):
            return None
        found[kind] = step
    if "Resize" not in found:
        return None
    resize = found["Resize"]
    if getattr(resize, "max_size", None) is not None or resize.size is None:
        return None
    crop = found["CenterCrop"].size if "CenterCrop" in found else resize.size
    if "CenterCrop" not in found and not _is_pair(crop):
        return None  # only the shorter side is fixed: the input size depends on the photo
    return _fields(crop, resize.size, resize, found.get("Normalize"))


def _steps(transform: Any) -> Iterator[Any]:
    """The transforms inside nested Compose and Sequential, in order."""
    inner = transform if isinstance(transform, nn.Sequential) else getattr(transform, "transforms", None)
    if inner is None:
        yield transform
    else:
        for step in inner:
            yield from _steps(step)


def _is_pair(size: Any) -> bool:
    return isinstance(size, Iterable) and len(list(size)) == 2


def _fields(crop: Any, resize: Any, sized: Any, normalise: Any = None) -> dict[str, Any] | None:
    crop_hw, resize_to = _sides(crop), _sides(resize)
    source = normalise if normalise is not None else sized
    mean, std = _numbers(getattr(source, "mean", 0.0)), _numbers(getattr(source, "std", 1.0))
    return {
        "input_hw": crop_hw if len(crop_hw) == 2 else crop_hw * 2,
        "resize": resize_to if len(resize_to) == 2 else resize_to[0],
        "mean": mean if len(mean) > 1 else mean * 3,
        "std": std if len(std) > 1 else std * 3,
        "interpolation": _name(sized.interpolation),
    }


def _sides(size: Any) -> tuple[int, ...]:
    return tuple(int(side) for side in size) if isinstance(size, Iterable) else (int(size),)


def _numbers(values: Any) -> tuple[float, ...]:
    # Seven digits: 0.485 passed through float32 if it was stored as a tensor.
    return tuple(round(v, 7) for v in torch.as_tensor(values, dtype=torch.float64).flatten().tolist())


def _name(interpolation: Any) -> str:
    """The name of torchvision's InterpolationMode, or of PIL's number."""
    if isinstance(interpolation, int):
        return Image.Resampling(interpolation).name.lower()
    name = str(getattr(interpolation, "value", interpolation))
    return "nearest" if name == "nearest-exact" else name  # the same on PIL images
