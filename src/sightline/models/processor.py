"""Parse a Hugging Face image processor: its resize, crop and normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image
from torch import Tensor


def is_processor(transform: object) -> bool:
    """Whether it is an image processor, or a processor that has one (CLIP's)."""
    return hasattr(_image_processor(transform), "image_mean") and hasattr(transform, "save_pretrained")


def _image_processor(processor: Any) -> Any:
    return getattr(processor, "image_processor", processor)


class Processor:
    """The processor as a function: PIL image -> (C, H, W)."""

    def __init__(self, processor: Any) -> None:
        self.processor = _image_processor(processor)

    def __call__(self, photo: Image.Image) -> Tensor:
        found: Tensor = self.processor(images=photo, return_tensors="pt")["pixel_values"][0]
        return found


def read_processor(processor: Any) -> dict[str, Any] | None:
    """The fields of `Preprocess` that say the same as an image processor, or None if there are none.

    They are a guess where a processor has rules of its own (LeViT's), which `Preprocess` checks.
    """
    settings = _image_processor(processor).to_dict()
    scale = settings.get("rescale_factor", 1 / 255)
    plain = settings.get("do_resize") and settings.get("do_rescale") and abs(255 * scale - 1) < 1e-6
    if not plain or settings.get("do_pad"):
        return None
    crop = _sides(settings.get("crop_size")) if settings.get("do_center_crop") else None
    sizes = _resize_and_input(settings.get("size"), crop, settings.get("crop_pct"))
    if sizes is None:
        return None
    normalises = settings.get("do_normalize")
    return {
        "resize": sizes[0],
        "input_hw": sizes[1],
        "mean": tuple(settings["image_mean"]) if normalises else (0.0, 0.0, 0.0),
        "std": tuple(settings["image_std"]) if normalises else (1.0, 1.0, 1.0),
        "interpolation": Image.Resampling(int(settings.get("resample", 2))).name.lower(),
    }


def _sides(size: Any) -> tuple[int, int] | None:
    """A height and a width, if they are given."""
    if isinstance(size, Mapping) and size.get("height") and size.get("width"):
        return int(size["height"]), int(size["width"])
    return (int(size), int(size)) if isinstance(size, int) else None


def _resize_and_input(
    size: Any, crop: tuple[int, int] | None, crop_pct: float | None
) -> tuple[int | tuple[int, int], tuple[int, int]] | None:
    """What is resized to, and what is left of it.

    >>> _resize_and_input({"shortest_edge": 224}, None, 0.875)  # ConvNeXt
    (256, (224, 224))
    """
    if (sides := _sides(size)) is not None:
        return sides, crop or sides
    shorter = size.get("shortest_edge") if isinstance(size, Mapping) else None
    if shorter is None or size.get("longest_edge"):
        return None
    if crop is not None:
        return int(shorter), crop
    if crop_pct is None:
        return None  # the input size depends on the photo
    square = (int(shorter), int(shorter))
    return (int(shorter / crop_pct), square) if shorter < 384 else (square, square)
