"""GAP features of any network: the pooled activations of its target layer (Zhou et al. 2016, section 4.4)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from sightline.data.images import read_bytes, read_image
from sightline.discovery.cache import VectorCache
from sightline.engine import observe
from sightline.errors import ImageError, InputError, UnsupportedError, need
from sightline.files import reading
from sightline.inspection.structure import LayerRef, inspect_network
from sightline.models.weights import tensors_sha256
from sightline.pipeline import as_batch
from sightline.progress import tracked
from sightline.reports.output_folder import make_folder, write_atomically
from sightline.types import ImageSource, Sample

Source = ImageSource | str | Sample
SUFFIXES = (".parquet", ".npz")


@dataclass(frozen=True, eq=False)
class Features:
    """``values`` (N, C) float32 for the images ``ids`` (N,), computed as ``key`` describes.

    ``rows`` (N,): the index of each row's image among those given; unreadable images are missing there and listed
    in ``errors``, id -> reason. ``key``: weights checksum, transform, view and layer.
    """

    ids: tuple[str, ...]
    values: NDArray[np.float32]
    key: Mapping[str, Any]
    rows: NDArray[np.int64]
    errors: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, per_image: Sequence[Any]) -> list[Any]:
        """Select the entries for these rows from a sequence with one per given image (labels, say)."""
        return [per_image[row] for row in self.rows]

    def save(self, path: str | Path, **columns: Sequence[Any]) -> Path:
        """Write ``.parquet`` (columns id, features, and ``columns``) or ``.npz`` (ids, values, …), atomically.

        The key is stored with it as JSON. Raises `InputError` for another suffix.
        """
        path = Path(path)
        if path.suffix not in SUFFIXES:
            raise InputError(f"{path}: features are saved as {' or '.join(SUFFIXES)}")
        make_folder(path.parent)
        write = self._parquet if path.suffix == ".parquet" else self._npz
        write_atomically(path, partial(write, columns))
        return path

    def _npz(self, columns: Mapping[str, Sequence[Any]], file: Any) -> None:
        more: dict[str, Any] = {name: np.asarray(column) for name, column in columns.items()}
        key = np.asarray(json.dumps(dict(self.key)))
        np.savez(file, ids=np.asarray(self.ids), values=self.values, key=key, **more)

    def _parquet(self, columns: Mapping[str, Sequence[Any]], file: Any) -> None:
        arrow, parquet = need("pyarrow", "batch"), need("pyarrow.parquet", "batch")

        flat = arrow.array(self.values.reshape(-1), arrow.float32())
        vectors = arrow.FixedSizeListArray.from_arrays(flat, self.values.shape[1])
        more = {name: arrow.array(list(column)) for name, column in columns.items()}
        table = arrow.table({"id": arrow.array(list(self.ids)), "features": vectors, **more})
        parquet.write_table(table.replace_schema_metadata({"sightline": json.dumps(dict(self.key))}), file)


def load_features(path: str | Path) -> Features:
    """Load what `Features.save` wrote, without the extra columns. Raises `InputError` for any other file.

    >>> load_features("nowhere.npz")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere.npz: no such file
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with reading(path, "a feature file written by sightline"):
        if path.suffix == ".parquet":
            table = need("pyarrow.parquet", "batch").read_table(path)
            ids = tuple(table["id"].to_pylist())
            flat = table["features"].combine_chunks().flatten().to_numpy()
            values, key = flat.reshape(len(ids), -1), json.loads(table.schema.metadata[b"sightline"])
        else:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as saved:
                ids, values = tuple(saved["ids"].tolist()), saved["values"]
                key = json.loads(str(saved["key"]))
        if not isinstance(key, dict) or values.ndim != 2 or len(values) != len(ids):
            raise ValueError(f"it holds {len(ids)} ids and features of shape {values.shape}")
        return Features(ids, np.asarray(values, np.float32), key, np.arange(len(ids)))


def extract_features(
    model: nn.Module,
    sources: Sequence[Source],
    *,
    batch_size: int = 64,
    view: str = "whole",
    cache: str | Path | None = None,
    boxes: Sequence[Tensor | None] | Tensor | None = None,
    grid: int = 1,
    progress: bool = True,
) -> Features:
    """f_k = mean_xy A_k(x, y) of each image: the target layer's activations, averaged (Zhou et al. 2016, eq. 1).

    The target layer is the one before the last pooling (the class convolution's input in SqueezeNet and NIN); with
    a linear head after average pooling, f is the head's input. ``model``: from `load_model`, or any module with a
    ``preprocess``. ``sources``: files, zip members, PIL images or samples. ``boxes``: per image None or a box (4,)
    xyxy in photo pixels to crop to first, clipped to the photo. ``grid``: pool the map to grid × grid cells instead
    of one, (N, C · grid · grid), where position matters.

    ``cache``: a folder that keeps computed features by checksum of weights, transform, image and box, so that an
    interrupted run resumes. Unreadable images are listed in ``errors`` and skipped. Raises `InputError` for no
    images, no readable image, or a box without area.

    >>> from sightline.models.preprocess import Preprocess
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> net.preprocess = Preprocess((8, 8), 8)
    >>> extract_features(net, [PIL.Image.new("RGB", (9, 9))], progress=False).values.shape
    (1, 4)
    """
    if len(sources) == 0:
        raise InputError("no images to extract features from")
    if boxes is not None and len(boxes) != len(sources):
        raise InputError(
            f"{len(boxes)} boxes for {len(sources)} images; expected one each (None for the whole image)"
        )
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}; expected 1 or more")
    extractor = FeatureExtractor(model, view, grid)
    store = VectorCache(None if cache is None else Path(cache), extractor.key)
    found: dict[int, NDArray[np.float32]] = {}
    errors: dict[str, str] = {}
    ids = [source_id(source, i) for i, source in enumerate(sources)]
    try:
        for start in tracked(range(0, len(sources), batch_size), "features", progress):
            part = range(start, min(start + batch_size, len(sources)))
            items = [_Item(i, source_of(sources[i]), None if boxes is None else boxes[i]) for i in part]
            found |= _batch(extractor, store, items, ids, errors)
    finally:
        store.flush()
    if not found:
        raise InputError(f"none of the {len(sources)} images can be read; first error: {errors[ids[0]]}")
    rows = sorted(found)
    values = np.stack([found[row] for row in rows])
    return Features(tuple(ids[row] for row in rows), values, extractor.key, np.asarray(rows), errors)


def source_of(source: Source) -> ImageSource | str:
    """The image to read: a sample's source, anything else as it is."""
    return source.source if isinstance(source, Sample) else source


def source_id(source: Source, number: int) -> str:
    """An image's id: a sample's id, a path, or the number of an in-memory image.

    >>> source_id(Path("a/b.jpg"), 0), source_id(PIL.Image.new("RGB", (4, 4)), 7)
    ('a/b.jpg', 'image 7')
    """
    if isinstance(source, Sample):
        return source.id
    if isinstance(source, PIL.Image.Image):
        return str(getattr(source, "filename", "") or f"image {number}")
    return str(source)


@dataclass(frozen=True)
class _Item:
    """One image to process: its number, its source, and the box to crop to."""

    number: int
    source: ImageSource | str
    box: Tensor | None

    def checksum(self) -> bytes:
        """SHA-256 of the image's bytes and, if it is cropped, of its box."""
        digest = hashlib.sha256(read_bytes(self.source))
        if self.box is not None:
            digest.update(self.box.detach().cpu().double().numpy().tobytes())
        return digest.digest()

    def photo(self) -> PIL.Image.Image:
        photo = read_image(self.source)
        return photo if self.box is None else crop(photo, self.box)


def crop(photo: PIL.Image.Image, box_xyxy: Tensor) -> PIL.Image.Image:
    """Crop a photo to a box (4,), its edges rounded outwards to whole pixels and clipped to the photo.

    >>> crop(PIL.Image.new("RGB", (9, 9)), Tensor([0.5, 2.0, 4.2, 20.0])).size
    (5, 7)
    """
    x0, y0, x1, y1 = (float(edge) for edge in box_xyxy)
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise InputError(f"a crop box holds NaN or Inf: {[x0, y0, x1, y1]}")
    inside = (max(math.floor(x0), 0), max(math.floor(y0), 0), *map(math.ceil, (x1, y1)))
    left, top, right, bottom = inside[0], inside[1], min(inside[2], photo.width), min(inside[3], photo.height)
    if left >= right or top >= bottom:
        raise InputError(
            f"box {[x0, y0, x1, y1]} has no area inside the photo of {photo.width}×{photo.height} pixels"
        )
    return photo.crop((left, top, right, bottom))


def _batch(
    extractor: FeatureExtractor,
    store: VectorCache,
    items: list[_Item],
    ids: Sequence[str],
    errors: dict[str, str],
) -> dict[int, NDArray[np.float32]]:
    """The vectors of one batch, by number: from the cache, or computed in one forward pass."""
    found: dict[int, NDArray[np.float32]] = {}
    missing: list[tuple[int, bytes, PIL.Image.Image]] = []
    for item in items:
        try:
            key = item.checksum()
            kept = store.get(key)
            if kept is None:
                missing.append((item.number, key, item.photo()))
            else:
                found[item.number] = kept
        except ImageError as error:
            errors[ids[item.number]] = str(error)
    if missing:
        vectors = extractor.features([photo for _, _, photo in missing])
        for (number, key, _), vector in zip(missing, vectors, strict=True):
            store.add(key, vector)
            found[number] = vector
    return found


class FeatureExtractor:
    """A network, its target layer, and a description of everything its features depend on."""

    def __init__(self, model: nn.Module, view: str, grid: int = 1) -> None:
        self.model, self.view, self.grid = model, view, grid
        self.network: nn.Module = getattr(model, "network", model)
        images = as_batch(model, [probe_photo()], view).images
        self.layer = target_layer(self.network, images)
        preprocess: Any = getattr(model, "preprocess", None)
        pixels = hashlib.sha256(images.float().cpu().numpy().tobytes()).hexdigest()
        code = getattr(preprocess, "transform", None) is not None
        self.key: dict[str, Any] = {
            "model": str(getattr(model, "name", type(model).__name__)),
            "weights_sha256": tensors_sha256(self.network.state_dict()),
            "architecture_sha256": hashlib.sha256(repr(self.network).encode()).hexdigest(),
            "transform": "code" if code else preprocess.to_dict(),
            "transform_sha256": pixels,  # of its output on a fixed photo: code has no other checksum
            "view": view,
            "layer": str(self.layer),
            "pooling": "average" if grid == 1 else f"average of {grid}×{grid} parts",
        }

    def features(self, photos: list[PIL.Image.Image]) -> NDArray[np.float32]:
        images = as_batch(self.model, photos, self.view).images
        activations = observe(self.network, images, [self.layer], gradient=False).activations
        pooled = activations.mean((2, 3)) if self.grid == 1 else adaptive_avg_pool2d(activations, self.grid)
        values: NDArray[np.float32] = pooled.flatten(1).float().cpu().numpy()
        if not np.isfinite(values).all():
            raise InputError(f"layer '{self.layer}' gives NaN or Inf")
        return values


def probe_photo() -> PIL.Image.Image:
    """A noise photo, the same on every machine, for inspecting a network."""
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def target_layer(network: nn.Module, images: Tensor) -> LayerRef:
    """The layer before the last pooling. Raises `UnsupportedError` saying why if there is none.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> str(target_layer(net, torch.rand(1, 3, 8, 8)))
    '1'
    """
    structure = inspect_network(network, images)
    if structure.target is None:
        raise UnsupportedError(
            f"no target layer was found: {structure.why_no_target}; use a convolutional network"
        )
    if structure.target.covers is not None:
        raise UnsupportedError(
            "this network crops or pads the image inside, or has convolutions without padding; do the former to the "
            "images before, and use the rest of the network; give the latter padding"
        )
    return structure.target
