"""`PhotoBatch`: the one way from photos to a network's input."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from sightline.data.images import PhotoSource, decode_image, read_bytes, read_image, source_name
from sightline.errors import InputError, StoreError, unknown
from sightline.types import Geometry

VIEWS = ("whole", "crop")
ON_ERROR = ("raise", "collect")


class Prepares(Protocol):
    """What turns an upright RGB photo into a network's input, such as `sightline.models.preprocess.Preprocess`."""

    @property
    def input_hw(self) -> tuple[int, int]: ...

    @property
    def mean(self) -> tuple[float, ...]: ...

    def prepare(self, photo: Image.Image, view: str = "whole") -> tuple[Tensor, Geometry]: ...

    @property
    def resizes(self) -> bool: ...

    def pixels(self, photo: Image.Image, view: str = "whole") -> tuple[NDArray[np.uint8], Geometry]: ...

    def normalised(self, pixels: NDArray[np.uint8], channels_last: bool = False) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class PhotoBatch:
    """N photos as a network takes them, and where each of the network's pixels lies on its photo.

    ``images`` (N, C, H, W); ``geometries``, ``sources`` (as they were given) and ``photos`` (upright RGB; None where
    they were not kept) are N each. ``view`` is what the network is shown: "whole" | "crop"; "tensor" for images
    that were tensors already. ``indices``: the place of each among all that were asked for; ``errors``: place ->
    reason of those that could not be read. ``sha256``: the checksums of the files, where asked for.

    >>> batch = PhotoBatch.of_tensor(torch.zeros(2, 3, 4, 6))
    >>> len(batch), batch.geometries[0].photo_hw
    (2, (4, 6))
    """

    images: Tensor
    geometries: list[Geometry]
    photos: list[Image.Image] | None = None
    sources: list[PhotoSource] = field(default_factory=list)
    view: str = "tensor"
    indices: list[int] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    sha256: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.images) != len(self.geometries):
            raise InputError(
                f"{len(self.images)} images and {len(self.geometries)} geometries; expected one of each per photo"
            )

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def load(
        cls,
        sources: Sequence[PhotoSource],
        preprocess: Prepares,
        view: str = "whole",
        *,
        workers: int = 1,
        keep_photos: bool = True,
        on_error: str = "raise",
        checksums: bool = False,
        channels_last: bool = False,
    ) -> PhotoBatch:
        """Read ``sources`` (see `read_image`) and prepare them for a network.

        ``workers``: threads that read at the same time. ``on_error``: "raise" the first `ImageError`, or "collect"
        the reasons in ``errors`` and go on, unless a store fails (`StoreError`). ``checksums``: also the SHA-256 of
        each file. ``channels_last``: the images in that memory format.

        >>> from sightline.models.preprocess import Preprocess
        >>> batch = PhotoBatch.load([Image.new("RGB", (8, 6)), "gone.jpg"], Preprocess((4, 4)), on_error="collect")
        >>> batch.images.shape, batch.indices, batch.errors
        (torch.Size([1, 3, 4, 4]), [0], {1: "no such file or folder: 'gone.jpg'"})
        """
        if view not in VIEWS:
            raise unknown("view", view, VIEWS)
        if on_error not in ON_ERROR:
            raise unknown("on_error", on_error, ON_ERROR)

        def read(source: PhotoSource) -> _Read | str:
            try:
                return _read(source, preprocess, view, keep_photos, checksums)
            except StoreError:
                raise  # the next photo would fare no better
            except InputError as error:
                if on_error == "raise":
                    raise
                return str(error)

        found = list(_in_threads(read, sources, workers))
        done = {place: one for place, one in enumerate(found) if not isinstance(one, str)}
        return cls(
            images=_images(
                {place: one.image for place, one in done.items()}, sources, preprocess, channels_last
            ),
            geometries=[one.geometry for one in done.values()],
            photos=[one.photo for one in done.values() if one.photo is not None] if keep_photos else None,
            sources=[sources[place] for place in done],
            view=view,
            indices=list(done),
            errors={place: one for place, one in enumerate(found) if isinstance(one, str)},
            sha256=[one.sha256 for one in done.values()] if checksums else [],
        )

    @classmethod
    def of_tensor(cls, images: Tensor, axes: int = 2) -> PhotoBatch:
        """Images (N, C, H, W) that somebody prepared already: their own pixels are the photo's.

        ``axes``: 1 for signals (N, C, L), 3 for volumes and clips (N, C, D, H, W), whose slices are the pictures.
        """
        if images.ndim != 2 + axes or 0 in images.shape:
            one = images.ndim == 3 and images.shape[0] in (1, 3, 4)  # an image that lacks the batch dimension
            hint = "; add the batch dimension: x[None]" if one else ""
            expected = {1: "(N, C, L)", 2: "(N, 3, H, W)", 3: "(N, C, D, H, W)"}[axes]
            raise InputError(f"batch has shape {tuple(images.shape)}; expected {expected}{hint}")
        if not images.is_floating_point():
            raise InputError(
                f"batch is {images.dtype}; expected a float tensor, normalised as the model was trained"
            )
        height, width = (1, *images.shape[2:])[-2:]
        geometry = Geometry.identity((height, width))
        return cls(images, [geometry] * len(images), indices=list(range(len(images))))

    def to(self, *place: Any, **options: Any) -> PhotoBatch:
        """The same with its images moved as `torch.Tensor.to` moves them, or to where the weights of a model are.

        >>> PhotoBatch.of_tensor(torch.zeros(1, 3, 4, 4)).to(torch.float64).images.dtype
        torch.float64
        """
        if place and isinstance(place[0], nn.Module):
            like = next((p for p in place[0].parameters() if p.is_floating_point()), None)
            place = () if like is None else (like.device, like.dtype)
            if like is None and not options:
                return self
        return replace(self, images=self.images.to(*place, **options))

    def select(self, rows: Sequence[int]) -> PhotoBatch:
        """The photos of these rows, in this order.

        >>> PhotoBatch.of_tensor(torch.zeros(3, 3, 4, 4)).select([2, 0]).indices
        [2, 0]
        """

        def some(values: list[Any]) -> list[Any]:
            return [values[row] for row in rows] if values else []

        return replace(
            self,
            images=self.images[list(rows)],
            geometries=some(self.geometries),
            photos=None if self.photos is None else some(self.photos),
            sources=some(self.sources),
            indices=some(self.indices),
            sha256=some(self.sha256),
        )


def _images(
    found: dict[int, Tensor | NDArray[np.uint8]],
    sources: Sequence[PhotoSource],
    preprocess: Prepares,
    channels_last: bool,
) -> Tensor:
    """The network's input; pixels of 8 bits are normalised all at once.

    Raises `InputError` where a transform does not bring the photos to one size.
    """
    if not found:
        return torch.empty(0, len(preprocess.mean), *preprocess.input_hw)
    tensors = {place: one for place, one in found.items() if isinstance(one, Tensor)}
    if not tensors:
        return preprocess.normalised(
            np.stack([one for one in found.values() if not isinstance(one, Tensor)]), channels_last
        )
    first, *others = tensors
    for place in others:
        if tensors[place].shape != tensors[first].shape:
            names = [f"{source_name(sources[i])} is {tuple(tensors[i].shape)}" for i in (first, place)]
            raise InputError(
                f"the transform gives photos of different sizes: {' and '.join(names)}; expected one size: "
                "add a resize to it, or explain one photo at a time"
            )
    images = torch.stack(list(tensors.values()))
    return images.to(memory_format=torch.channels_last) if channels_last else images


@dataclass(frozen=True, eq=False)
class _Read:
    """One photo."""

    image: Tensor | NDArray[np.uint8]  # (C, H, W) as the network takes it, or (H, W, 3) before that
    geometry: Geometry
    photo: Image.Image | None
    sha256: str


def _read(source: PhotoSource, preprocess: Prepares, view: str, keep: bool, checksum: bool) -> _Read:
    digest = ""
    if not checksum:
        photo = read_image(source)
    else:
        data = read_bytes(source)  # once, for both
        digest = hashlib.sha256(data).hexdigest()
        in_memory = isinstance(source, (Image.Image, np.ndarray))
        photo = read_image(source) if in_memory else decode_image(data, source_name(source))
    image: Tensor | NDArray[np.uint8]
    image, geometry = (
        preprocess.pixels(photo, view) if preprocess.resizes else preprocess.prepare(photo, view)
    )
    return _Read(image, geometry, photo if keep else None, digest)


def _in_threads(
    function: Callable[[PhotoSource], _Read | str], sources: Sequence[PhotoSource], workers: int
) -> Iterator[_Read | str]:
    if workers < 2 or len(sources) < 2:
        yield from map(function, sources)
        return
    with ThreadPoolExecutor(min(workers, len(sources))) as pool:
        yield from pool.map(function, sources)
