"""A network observed at its target layer, and images read in batches, for the search for units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import PIL.Image
import torch
from torch import Tensor, nn

from sightline.data.images import read_image
from sightline.discovery.features import Source, probe_photo, source_id, source_of, target_layer
from sightline.engine import observe
from sightline.errors import ImageError, InputError, UnsupportedError
from sightline.inspection.receptive_field import ReceptiveField, receptive_field
from sightline.inspection.structure import LayerRef
from sightline.methods.observation import observe_for
from sightline.methods.registry import get_method
from sightline.pipeline import as_batch
from sightline.progress import tracked
from sightline.targets import ClassTarget, logits_of, resolve_classes
from sightline.types import Geometry

GRADCAM_IMAGES = 64  # images per class over which Grad-CAM weights are averaged


class ObservedNetwork:
    """A network with its target layer."""

    def __init__(self, model: nn.Module, network: nn.Module, layer: LayerRef, images: Tensor) -> None:
        self.model, self.network, self.layer = model, network, layer
        evidence = observe(network, images, [layer], gradient=False)
        self.logits, self.input_hw = evidence.logits, (images.shape[2], images.shape[3])
        self.channels, self.map_hw = evidence.activations.shape[1], tuple(evidence.activations.shape[2:])
        self.probe = images
        self.theory: ReceptiveField | str
        try:
            self.theory = receptive_field(network, layer)
        except UnsupportedError as error:
            self.theory = str(error)

    @classmethod
    def of(cls, model: nn.Module) -> ObservedNetwork:
        network: nn.Module = getattr(model, "network", model)
        images = as_batch(model, [probe_photo()]).images
        return cls(model, network, target_layer(network, images), images)

    def check(self, units: Sequence[int]) -> None:
        for unit in units:
            if not 0 <= unit < self.channels:
                raise InputError(
                    f"unit {unit}: layer '{self.layer}' has {self.channels} units, 0 to {self.channels - 1}"
                )

    def indices(self, classes: Sequence[str | int]) -> list[int]:
        if not classes:
            return []
        if self.logits is None:
            raise InputError("the network has no class scores (N, C); give units instead of classes")
        categories = getattr(self.model, "categories", None)
        found: list[int] = resolve_classes(list(classes), self.logits, categories)[0].tolist()
        return found

    def category(self, index: int) -> str:
        categories = getattr(self.model, "categories", None)
        return categories[index] if categories else f"class {index}"

    def activations(self, images: Tensor) -> Tensor:
        return observe(self.network, images, [self.layer], gradient=False).activations.cpu()

    def centre(self, y: int, x: int) -> tuple[float, float]:
        """Centre (y, x) of a position's receptive field, in network pixels; if it is unknown, of its cell."""
        if isinstance(self.theory, ReceptiveField):
            return self.theory.centre(y, x)
        (height, width), (rows, columns) = self.input_hw, self.map_hw
        return (y + 0.5) * height / rows, (x + 0.5) * width / columns

    def weights(self, indices: Sequence[int], reader: ImageReader) -> tuple[Tensor, str]:
        """(K, C) weights of the units for the classes, and their origin."""
        if not indices:
            return torch.zeros(0, self.channels), "none"
        try:
            evidence, _ = observe_for(get_method("cam"), self.network, self.probe)
        except UnsupportedError:
            return self._gradcam(indices, reader), "Grad-CAM"
        return evidence.classifier_weights()[0][list(indices)].cpu(), "head"

    def _gradcam(self, indices: Sequence[int], reader: ImageReader) -> Tensor:
        """mean_xy ∂y^c/∂A_k, averaged over the first images whose most probable class is c."""
        total, count = torch.zeros(len(indices), self.channels), [0] * len(indices)
        for _, images in reader.batches("weights"):
            if min(count) >= GRADCAM_IMAGES:
                break
            evidence = observe(self.network, images, [self.layer])
            logits = logits_of(evidence.output)
            assert logits is not None
            first = logits.argmax(1)
            for k, index in enumerate(indices):
                rows = (first == index).nonzero()[:, 0][: GRADCAM_IMAGES - count[k]]
                if len(rows):
                    alpha = evidence.gradient(ClassTarget(torch.full_like(first, index))).mean((2, 3))
                    total[k] += alpha[rows].sum(0).cpu()
                    count[k] += len(rows)
        for k, index in enumerate(indices):
            if count[k] == 0:
                raise InputError(
                    f"class {self.category(index)!r} is not the most probable class of any image; Grad-CAM weights "
                    "need one (this network's head is not pooling and one linear layer)"
                )
        return total / torch.tensor(count)[:, None]


class ImageReader:
    """Reads images in batches; skips and lists those that cannot be read."""

    def __init__(self, model: nn.Module, sources: Sequence[Source], size: int, progress: bool) -> None:
        self.model, self.sources, self.size, self.progress = model, sources, size, progress
        self.errors: dict[str, str] = {}

    def batches(self, what: str) -> Iterator[tuple[list[int], Tensor]]:
        """(numbers, images (n, 3, H, W)) of the readable ones."""
        some = False
        for start in tracked(range(0, len(self.sources), self.size), what, self.progress):
            numbers, photos = [], []
            for number in range(start, min(start + self.size, len(self.sources))):
                try:
                    photos.append(self.photo(number))
                    numbers.append(number)
                except ImageError as error:
                    self.errors[source_id(self.sources[number], number)] = str(error)
            if photos:
                some = True
                yield numbers, as_batch(self.model, photos).images
        if not some:
            raise InputError(
                f"none of the {len(self.sources)} images can be read; {next(iter(self.errors.values()))}"
            )

    def photo(self, number: int) -> PIL.Image.Image:
        return read_image(source_of(self.sources[number]))

    def one(self, number: int) -> tuple[PIL.Image.Image, Tensor, Geometry]:
        photo = self.photo(number)
        batch = as_batch(self.model, [photo])
        return photo, batch.images[0], batch.geometries[0]

    def labels(self, names: Sequence[str] | None) -> Sequence[str]:
        if names is not None:
            return names
        return [source_id(source, i).rsplit("/", 1)[-1] for i, source in enumerate(self.sources)]
