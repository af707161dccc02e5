"""From a photo to the network's input, and the mapping between their pixels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from sightline.data.images import read_image
from sightline.data.photos import VIEWS
from sightline.errors import InputError, unknown
from sightline.inspection.transform import check_place, measure, run
from sightline.models.processor import Processor, is_processor, read_processor
from sightline.models.torchvision_transform import read_transform
from sightline.runtime import import_light
from sightline.types import Geometry

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_RESAMPLE = {mode.name.lower(): mode for mode in Image.Resampling}
_FIELDS = ("input_hw", "resize", "mean", "std", "interpolation")

# A 1×10000 photo whose shorter side becomes 256 would have 655 million pixels. Above this size only the
# cropped part is computed; below it the whole, because that matches torchvision bit for bit.
_MOST_PIXELS = 64_000_000
MOST_PIXELS_SIDE = 16_384  # of an input that a file asks for


@dataclass(frozen=True)
class Preprocess:
    """How a network wants its photos: size, crop, and normalisation (x - mean) / std of RGB in [0, 1].

    ``input_hw``  (height, width) of the network's input.
    ``resize``    for ``view="crop"``: the length of the photo's shorter side before the centre crop, or
                  (height, width) if the aspect ratio is not preserved.
    ``mean``, ``std``  one number per channel: three, or one for a network of grey photos.
    ``interpolation``  "bilinear", "bicubic", "nearest", "lanczos", "box" or "hamming", always antialiased.
    ``transform`` a callable PIL image -> (C, H, W) float tensor, for preprocessing that the other fields
                  cannot express; both views then use it (see `from_transform`).
    ``per_image`` the transform scales each photo by its own values; ``mean`` and ``std`` then say nothing.

    >>> preprocess = Preprocess(input_hw=(224, 224), resize=256)
    >>> tensor, geometry = preprocess.prepare(Image.new("RGB", (512, 1024)), view="crop")
    >>> tensor.shape, geometry.shown_xyxy
    (torch.Size([3, 224, 224]), (32.0, 288.0, 480.0, 736.0))
    """

    input_hw: tuple[int, int] = (224, 224)
    resize: int | tuple[int, int] = 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    transform: Callable[[Image.Image], Tensor] | None = None
    per_image: bool = False
    _measured: dict[tuple[int, int], Geometry] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        sides = [*self.input_hw, *(self.resize if isinstance(self.resize, tuple) else (self.resize,))]
        if len(self.input_hw) != 2 or not all(isinstance(n, int) and n > 0 for n in sides):
            raise InputError(
                f"input_hw={self.input_hw} and resize={self.resize}; expected two positive integers, "
                "and one (the shorter side) or two (height, width)"
            )
        numbers = all(isinstance(x, (int, float)) and math.isfinite(x) for x in (*self.mean, *self.std))
        if len(self.mean) != len(self.std) or not self.mean or 0 in self.std or not numbers:
            raise InputError(f"mean={self.mean} and std={self.std}; expected as many of each, no std of 0")
        if self.transform is None and len(self.mean) not in (1, 3):
            raise InputError(f"mean and std of {len(self.mean)} channels; a photo has 3, or 1 (grey)")
        if self.interpolation not in _RESAMPLE:
            raise unknown("interpolation", self.interpolation, _RESAMPLE)

    @property
    def scaling(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """``mean`` and ``std``; raises `InputError` if each photo is scaled by its own values."""
        if self.per_image:
            raise InputError(
                "the transform scales each photo by its own values; expected a fixed (x - mean) / std here"
            )
        return self.mean, self.std

    @property
    def resizes(self) -> bool:
        """Whether the input size can be changed; a user's own transform cannot."""
        return self.transform is None

    def at_size(self, input_hw: tuple[int, int]) -> Preprocess:
        """The same for another input size; the resize before a crop scales with it.

        >>> Preprocess((224, 224), resize=256).at_size((448, 448)).resize
        512
        """
        if not self.resizes:
            raise InputError("photos are prepared by your own transform, whose input size cannot be changed")
        factor = min(input_hw) / min(self.input_hw)
        sides = self.resize if isinstance(self.resize, tuple) else (self.resize,)
        grown = tuple(round(side * factor) for side in sides)
        return replace(self, input_hw=input_hw, resize=(grown[0], grown[1]) if len(grown) == 2 else grown[0])

    def prepare(self, photo: Image.Image, view: str = "whole") -> tuple[Tensor, Geometry]:
        """An upright RGB photo as a float32 tensor (3, H, W), or (1, H, W) in grey, with its `Geometry`.

        "whole" resizes the whole photo to ``input_hw``; "crop" resizes it to ``resize`` and takes the
        centre ``input_hw``, as in the network's evaluation (with black borders if the crop is larger).
        """
        if view not in VIEWS:
            raise unknown("view", view, VIEWS)
        photo = photo if photo.mode == "RGB" else read_image(photo)
        if self.transform is not None:
            return self._transformed(self.transform, photo)
        pixels, geometry = self.pixels(photo, view)
        return self.normalised(pixels[None])[0], geometry

    def pixels(self, photo: Image.Image, view: str = "whole") -> tuple[NDArray[np.uint8], Geometry]:
        """What the network is shown of an upright RGB photo, (H, W, 3) in 8 bits (in grey: 1), before `normalised`."""
        if len(self.mean) == 1:
            photo = photo.convert("L")
        shown, geometry = self._whole(photo) if view == "whole" else self._crop(photo)
        pixels = np.asarray(shown)
        return pixels if pixels.ndim == 3 else pixels[:, :, None], geometry

    def normalised(self, pixels: NDArray[np.uint8], channels_last: bool = False) -> Tensor:
        """(x / 255 - mean) / std of 8-bit pixels (N, H, W, 3): float32 (N, 3, H, W), in that memory format.

        >>> Preprocess((1, 1), 1, (0.5,) * 3, (0.5,) * 3).normalised(np.zeros((1, 1, 1, 3), np.uint8)).flatten()
        tensor([-1., -1., -1.])
        """
        form = torch.channels_last if channels_last else torch.contiguous_format
        with warnings.catch_warnings():  # a picture's own pixels are read-only; they are copied at once
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32, memory_format=form)
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return images.div_(255).sub_(mean).div_(std)

    def _whole(self, photo: Image.Image) -> tuple[Image.Image, Geometry]:
        height, width = self.input_hw
        box = (0.0, 0.0, float(photo.width), float(photo.height))
        shown = photo.resize((width, height), _RESAMPLE[self.interpolation])
        return shown, Geometry((photo.height, photo.width), self.input_hw, box)

    def _crop(self, photo: Image.Image) -> tuple[Image.Image, Geometry]:
        height, width = self._resized_hw(photo)
        rows, columns = self.input_hw
        top, left = _centred(height, rows), _centred(width, columns)
        part = (left, top, left + columns, top + rows)
        per_x, per_y = photo.width / width, photo.height / height  # photo pixels per resized pixel
        box = (part[0] * per_x, part[1] * per_y, part[2] * per_x, part[3] * per_y)
        geometry = Geometry((photo.height, photo.width), self.input_hw, box)
        resample = _RESAMPLE[self.interpolation]
        if width * height > _MOST_PIXELS:
            return _resized_part(photo, (width, height), part, resample), geometry
        return photo.resize((width, height), resample).crop(part), geometry

    def _resized_hw(self, photo: Image.Image) -> tuple[int, int]:
        if isinstance(self.resize, tuple):
            return self.resize
        short, long = sorted(photo.size)
        longer = int(self.resize * long / short)  # torchvision truncates
        return (longer, self.resize) if photo.width <= photo.height else (self.resize, longer)

    def _transformed(
        self, transform: Callable[[Image.Image], Tensor], photo: Image.Image
    ) -> tuple[Tensor, Geometry]:
        size_hw = (photo.height, photo.width)
        if size_hw not in self._measured:
            self._measured[size_hw] = measure(transform, size_hw).geometry
        geometry, tensor = self._measured[size_hw], run(transform, photo)
        if tuple(tensor.shape[1:]) != geometry.input_hw:
            raise InputError(
                f"the transform gave {tuple(tensor.shape[1:])} for one photo of {size_hw} and "
                f"{geometry.input_hw} for another; expected a deterministic transform"
            )
        check_place(transform, photo, tensor, geometry)
        return tensor, geometry

    def to_dict(self) -> dict[str, Any]:
        """The five fields, ready for JSON; raises `InputError` for a ``transform``, which is code."""
        if self.transform is not None:
            raise InputError(
                "a transform is code and cannot be saved; expected Preprocess(input_hw, resize, mean, std)"
            )
        plain = {name: getattr(self, name) for name in _FIELDS}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Preprocess:
        """The inverse of `to_dict`; raises `InputError` if a field is missing.

        >>> Preprocess.from_dict(Preprocess((64, 64), 64).to_dict()) == Preprocess((64, 64), 64)
        True
        """
        if not isinstance(saved, Mapping):
            raise InputError(f"the saved preprocessing is a {type(saved).__name__}; expected an object")
        missing = [name for name in _FIELDS if name not in saved]
        if missing:
            raise InputError(f"the saved preprocessing lacks {', '.join(missing)}; it has {', '.join(saved)}")
        values: dict[str, Any] = {
            name: tuple(saved[name]) if isinstance(saved[name], list) else saved[name] for name in _FIELDS
        }
        sides = [*values["input_hw"], *(r if isinstance(r := values["resize"], tuple) else (r,))]
        if max(sides) > MOST_PIXELS_SIDE:
            raise InputError(
                f"the saved preprocessing has a side of {max(sides):,} pixels; at most {MOST_PIXELS_SIDE:,}"
            )
        return cls(**values)

    @classmethod
    def from_torchvision(cls, weights: Any) -> Preprocess:
        """The preprocessing of published weights, such as ``ResNet50_Weights.DEFAULT``.

        >>> from torchvision.models import ResNet50_Weights
        >>> Preprocess.from_torchvision(ResNet50_Weights.DEFAULT).resize
        232
        """
        preset = weights.transforms()
        fields = read_transform(preset)
        return cls.from_transform(preset) if fields is None else cls(**fields)

    @classmethod
    def from_timm(cls, model: nn.Module | str) -> Preprocess:
        """The preprocessing of timm's own evaluation for ``model``, a timm network or its name."""
        data: Any = import_light("timm.data")
        if isinstance(model, str):
            known = import_light("timm").get_pretrained_cfg(model)
            config = data.resolve_data_config({}, pretrained_cfg=known.to_dict())
        else:
            config = data.resolve_model_data_config(model)
        return cls.from_transform(data.create_transform(**config, is_training=False))

    @classmethod
    def from_transform(cls, transform: Callable[[Image.Image], Tensor]) -> Preprocess:
        """The preprocessing of a callable (PIL image -> (C, H, W) float tensor).

        A torchvision preset or Compose, or a Hugging Face image processor, of resize, centre crop, conversion and
        normalisation is parsed, and checked on a noise image; ``view="whole"`` then works too. Values may differ by
        one part in 255 if the transform resizes tensors instead of PIL images.

        Any other callable is used unchanged, for both views. The part of the photo that it shows is measured, once
        per photo size. Raises `InputError` unless it is a fixed resize, crop or pad followed by a scaling of the
        values (fixed, or by each photo's own mean and deviation); ``resize`` is then meaningless.
        """
        if is_processor(transform):
            fields, transform = read_processor(transform), Processor(transform)
        else:
            fields = read_transform(transform)
        if fields is not None and _agrees(parsed := cls(**fields), transform):
            return parsed
        found = measure(transform, (300, 400))
        input_hw = found.geometry.input_hw
        return cls(input_hw, input_hw, found.mean, found.std, transform=transform, per_image=found.per_image)


def _centred(have: int, want: int) -> int:
    """The start of a centred crop of ``want`` in ``have`` pixels, rounded as in torchvision; < 0: padding."""
    return -((want - have) // 2) if want > have else round((have - want) / 2)


def _resized_part(
    photo: Image.Image,
    size_wh: tuple[int, int],
    part: tuple[int, int, int, int],
    resample: Image.Resampling,
) -> Image.Image:
    """``photo.resize(size_wh).crop(part)`` up to rounding, without computing pixels outside ``part``."""
    width, height = size_wh
    left, top, right, bottom = max(part[0], 0), max(part[1], 0), min(part[2], width), min(part[3], height)
    per_x, per_y = photo.width / width, photo.height / height
    box = (left * per_x, top * per_y, min(right * per_x, photo.width), min(bottom * per_y, photo.height))
    shown = photo.resize((right - left, bottom - top), resample, box=box)
    canvas = Image.new(photo.mode, (part[2] - part[0], part[3] - part[1]))
    canvas.paste(shown, (left - part[0], top - part[1]))
    return canvas


def _agrees(parsed: Preprocess, transform: Callable[[Image.Image], Tensor]) -> bool:
    """Whether both agree on noise, which reveals a difference in size, crop, antialiasing or normalisation."""
    side = 2 * max(parsed._resized_hw(Image.new("RGB", (8, 8))))
    noise = np.random.default_rng(0).integers(0, 256, (side + 37, 2 * side + 11, 3), dtype=np.uint8)
    photo = Image.fromarray(noise)
    theirs, (ours, _) = run(transform, photo), parsed.prepare(photo, view="crop")
    if theirs.shape != ours.shape:
        return False
    apart = (theirs - ours).abs() * ours.new_tensor(parsed.std).abs()[:, None, None]
    return bool(apart.max() <= 2.5 / 255)  # two roundings to 8 bits, one per direction of the resize
