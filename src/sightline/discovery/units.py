"""Class-specific units (Zhou et al. 2016, section 4.5, Figure 13): what the units that speak for a class look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn

from sightline.data.images import read_image
from sightline.discovery.features import Source, probe_photo, source_id, source_of, target_layer
from sightline.discovery.gallery import RIGHT, Tile, gallery, mapped
from sightline.discovery.occluding import AtLayer, EstimatedField, estimate_field, occluded_drops
from sightline.discovery.peaks import Peak, TopPeaks
from sightline.discovery.progress import bar
from sightline.discovery.receptive import ReceptiveField, receptive_field
from sightline.discovery.result import Result, describe_model
from sightline.engine import observe
from sightline.errors import ImageError, InputError, UnsupportedError
from sightline.methods.passes import observe_for
from sightline.methods.registry import get_method
from sightline.models.trace import Site
from sightline.pipeline import prepare
from sightline.render import GREY
from sightline.targets import ClassTarget, logits_of, resolve_classes
from sightline.types import Geometry

CHANCES = 64  # images a class from which Grad-CAM weights are averaged


@dataclass(frozen=True, eq=False)
class UnitFound:
    """One unit: for which class (None: asked for by number), its weight there, its top images, its field.

    ``drops`` (H, W): what its strongest image's peak loses where a pixel is hidden.
    """

    category: str | None
    unit: int
    weight: float | None
    peaks: list[Peak]
    field: EstimatedField
    drops: Tensor


def class_units(
    model: nn.Module,
    sources: Sequence[Source],
    classes: Sequence[str | int] = (),
    units: Sequence[int] = (),
    *,
    names: Sequence[str] | None = None,
    per_class: int = 3,
    top: int = 7,
    estimate_on: int = 3,
    window: int | None = None,
    stride: int | None = None,
    threshold: float = 0.2,
    batch_size: int = 32,
    progress: bool = True,
) -> tuple[Result, list[UnitFound]]:
    """For each class the units with the largest weights, their top images, and the part of these that they look at.

    The weight of unit k for class c is w_k^c of the head (Zhou et al. 2016, Figure 13) where `cam` can read it; of
    another network the Grad-CAM weight mean_xy ∂y^c/∂A_k, averaged over the first 64 images whose most probable
    class is c. ``units`` are looked at besides, whatever their weights. A unit's ``top`` images are those where its
    map's maximum is greatest; each is cut to the unit's receptive field around that maximum, estimated by sliding
    occlusion of the first ``estimate_on`` of them (`estimate_field`) and, beside it, by arithmetic
    (`receptive_field`). ``names``: what each image shows, for the captions. Images are read in batches, and of each
    only the peaks are kept.

    Raises `InputError` for no image, an unknown class, a unit that the layer does not have, and a class that no
    image is taken for (Grad-CAM weights).
    """
    for what, value in (("per_class", per_class), ("top", top), ("estimate_on", estimate_on)):
        if value < 1:
            raise InputError(f"{what}={value}; expected 1 or more")
    if len(sources) == 0:
        raise InputError("there is no image to look for units in")
    if not classes and not units:
        raise InputError("give a class or a unit to look at")
    network = _Observed.of(model)
    network.check(units)
    reader = _Reader(model, sources, batch_size, progress)
    indices = network.indices(classes)
    weights, how = network.weights(indices, reader)
    chosen: list[tuple[str | None, int, float | None]] = []
    for index, row in zip(indices, weights, strict=True):
        best = row.topk(min(per_class, network.channels))
        chosen += [(network.category(index), int(u), float(w)) for w, u in zip(*best, strict=True)]
    chosen += [(None, unit, None) for unit in units]
    peaks = TopPeaks([unit for _, unit, _ in chosen], top)
    for numbers, images in reader.batches("units"):
        peaks.update(network.activations(images), 0, numbers)
    ranked = peaks.ranked()
    drops = _drops(network, reader, {u: ranked[u][:estimate_on] for u in ranked}, window, stride)
    found = []
    for category, unit, weight in chosen:
        some = ranked[unit][:estimate_on]
        field = estimate_field(
            [drops[unit, peak.number] for peak in some], [network.centre(p.y, p.x) for p in some], threshold
        )
        found.append(UnitFound(category, unit, weight, ranked[unit], field, drops[unit, some[0].number]))
    result = _result(
        found, network, reader, names, how, {"top": top, "estimate_on": estimate_on, "threshold": threshold}
    )
    result.pictures = {"poster.png": poster(found, network, reader, names)}
    return result, found


class _Observed:
    """A network with its target layer."""

    def __init__(self, model: nn.Module, network: nn.Module, site: Site, images: Tensor) -> None:
        self.model, self.network, self.site = model, network, site
        evidence = observe(network, images, [site], gradient=False)
        self.logits, self.input_hw = evidence.logits, (images.shape[2], images.shape[3])
        self.channels, self.map_hw = evidence.activations.shape[1], tuple(evidence.activations.shape[2:])
        self.probe = images
        self.theory: ReceptiveField | str
        try:
            self.theory = receptive_field(network, site)
        except UnsupportedError as error:
            self.theory = str(error)

    @classmethod
    def of(cls, model: nn.Module) -> _Observed:
        network: nn.Module = getattr(model, "network", model)
        images, _, _ = prepare(model, [probe_photo()])
        return cls(model, network, target_layer(network, images), images)

    def check(self, units: Sequence[int]) -> None:
        for unit in units:
            if not 0 <= unit < self.channels:
                raise InputError(
                    f"unit {unit}: layer '{self.site}' has {self.channels} units, 0 to {self.channels - 1}"
                )

    def indices(self, classes: Sequence[str | int]) -> list[int]:
        if not classes:
            return []
        if self.logits is None:
            raise InputError("the network gives no class scores (N, C); name units instead of classes")
        categories = getattr(self.model, "categories", None)
        found: list[int] = resolve_classes(list(classes), self.logits, categories)[0].tolist()
        return found

    def category(self, index: int) -> str:
        categories = getattr(self.model, "categories", None)
        return categories[index] if categories else f"class {index}"

    def activations(self, images: Tensor) -> Tensor:
        return observe(self.network, images, [self.site], gradient=False).activations.cpu()

    def centre(self, y: int, x: int) -> tuple[float, float]:
        """(y, x) of the middle of a position's field, in network pixels; without theory that of its cell."""
        if isinstance(self.theory, ReceptiveField):
            return self.theory.centre(y, x)
        (height, width), (rows, columns) = self.input_hw, self.map_hw
        return (y + 0.5) * height / rows, (x + 0.5) * width / columns

    def weights(self, indices: Sequence[int], reader: _Reader) -> tuple[Tensor, str]:
        """(K, C) weights of the units for the classes, and where they are from."""
        if not indices:
            return torch.zeros(0, self.channels), "none"
        try:
            evidence, _ = observe_for(get_method("cam"), self.network, self.probe)
        except UnsupportedError:
            return self._gradcam(indices, reader), "Grad-CAM"
        return evidence.classifier_weights()[0][list(indices)].cpu(), "head"

    def _gradcam(self, indices: Sequence[int], reader: _Reader) -> Tensor:
        """mean_xy ∂y^c/∂A_k, averaged over the first images whose most probable class is c."""
        total, count = torch.zeros(len(indices), self.channels), [0] * len(indices)
        for _, images in reader.batches("weights"):
            if min(count) >= CHANCES:
                break
            evidence = observe(self.network, images, [self.site])
            logits = logits_of(evidence.output)
            assert logits is not None
            first = logits.argmax(1)
            for k, index in enumerate(indices):
                rows = (first == index).nonzero()[:, 0][: CHANCES - count[k]]
                if len(rows):
                    alpha = evidence.gradient(ClassTarget(torch.full_like(first, index))).mean((2, 3))
                    total[k] += alpha[rows].sum(0).cpu()
                    count[k] += len(rows)
        for k, index in enumerate(indices):
            if count[k] == 0:
                raise InputError(
                    f"class {self.category(index)!r} is the most probable one of no image; its units are weighed by "
                    "Grad-CAM, which needs one (this network's head is not pooling and one linear layer)"
                )
        return total / torch.tensor(count)[:, None]


class _Reader:
    """Images in batches, those that cannot be read left out and listed."""

    def __init__(self, model: nn.Module, sources: Sequence[Source], size: int, progress: bool) -> None:
        self.model, self.sources, self.size, self.progress = model, sources, size, progress
        self.errors: dict[str, str] = {}

    def batches(self, what: str) -> Iterator[tuple[list[int], Tensor]]:
        """(numbers, images (n, 3, H, W)) of those that can be read."""
        some = False
        for start in bar(range(0, len(self.sources), self.size), what, self.progress):
            numbers, photos = [], []
            for number in range(start, min(start + self.size, len(self.sources))):
                try:
                    photos.append(self.photo(number))
                    numbers.append(number)
                except ImageError as error:
                    self.errors[source_id(self.sources[number], number)] = str(error)
            if photos:
                some = True
                yield numbers, prepare(self.model, photos)[0]
        if not some:
            raise InputError(
                f"none of the {len(self.sources)} images can be read; {next(iter(self.errors.values()))}"
            )

    def photo(self, number: int) -> PIL.Image.Image:
        return read_image(source_of(self.sources[number]))

    def one(self, number: int) -> tuple[PIL.Image.Image, Tensor, Geometry]:
        photo = self.photo(number)
        images, geometries, _ = prepare(self.model, [photo])
        return photo, images[0], geometries[0]

    def labels(self, names: Sequence[str] | None) -> Sequence[str]:
        if names is not None:
            return names
        return [source_id(source, i).rsplit("/", 1)[-1] for i, source in enumerate(self.sources)]


def _drops(
    network: _Observed,
    reader: _Reader,
    peaks: dict[int, list[Peak]],
    window: int | None,
    stride: int | None,
) -> dict[tuple[int, int], Tensor]:
    """(unit, image) -> drops (H, W); an image that is in the list of several units is occluded once."""
    by_image: dict[int, list[tuple[int, Peak]]] = {}
    for unit, some in peaks.items():
        for peak in some:
            by_image.setdefault(peak.number, []).append((unit, peak))
    at_layer, found = AtLayer(network.network, network.site), {}
    for number in bar(sorted(by_image), "occlusion", reader.progress):
        _, image, _ = reader.one(number)
        wanted = [(unit, peak.y, peak.x) for unit, peak in by_image[number]]
        maps = occluded_drops(at_layer, image, wanted, window=window, stride=stride)
        found.update(
            {(unit, number): one.cpu() for (unit, _), one in zip(by_image[number], maps, strict=True)}
        )
    return found


def _result(
    found: Sequence[UnitFound],
    network: _Observed,
    reader: _Reader,
    names: Sequence[str] | None,
    how: str,
    options: dict[str, Any],
) -> Result:
    theory = network.theory
    seen = f"{theory.size[0]}×{theory.size[1]}" if isinstance(theory, ReceptiveField) else "not known"
    rows, numbers = [], []
    for one in found:
        shown = [] if names is None else [names[peak.number] for peak in one.peaks]
        mostly = max(dict.fromkeys(shown), key=shown.count) if shown else ""
        side = "" if one.field.box is None else "×".join(f"{x:.0f}" for x in (_high(one), _wide(one)))
        own = (
            f"{shown.count(one.category)} of {len(shown)}" if one.category in shown else f"0 of {len(shown)}"
        )
        of_class = own if shown and one.category is not None else ""
        weight = "" if one.weight is None else f"{one.weight:.3f}"
        value = f"{one.peaks[0].value:.2f}"
        many = f"{mostly} ({shown.count(mostly)})" if shown else ""
        rows.append([one.category or "", str(one.unit), weight, value, of_class, many, side, seen])
        numbers.append(
            {
                "class": one.category, "unit": one.unit, "weight": one.weight, "top_value": one.peaks[0].value,
                "top_images": [source_id(reader.sources[p.number], p.number) for p in one.peaks], "shown": shown,
                "field_height": None if one.field.box is None else _high(one),
                "field_width": None if one.field.box is None else _wide(one),
            }
        )  # fmt: skip
    known = "" if isinstance(theory, ReceptiveField) else f" ({theory})"
    height, width = network.input_hw
    meant = {
        "head": "the head's weights of the class",
        "Grad-CAM": f"Grad-CAM weights, averaged over up to {CHANCES} images taken for the class",
        "none": "units asked for by number",
    }
    notes = [
        f"{describe_model(network.model)['name']}, layer '{network.site}': {network.channels} units; "
        f"{len(reader.sources)} images. Chosen by {meant[how]}.",
        f"Field, in pixels of the input of {height}×{width}: estimated by occlusion of the first "
        f"{options['estimate_on']} top images (at least {options['threshold']:g} of the greatest drop), and by arithmetic{known}.",
    ]
    settings = {
        "images": len(reader.sources), "model": describe_model(network.model), "layer": str(network.site),
        "units": network.channels, "weights_from": how, **options,
        "theory": vars(theory) if isinstance(theory, ReceptiveField) else theory,
    }  # fmt: skip
    headings = [
        "class",
        "unit",
        "weight",
        "top value",
        "of the class",
        "mostly",
        "field, estimated",
        "field, theory",
    ]
    kept = [i for i in range(len(headings)) if any(row[i] for row in rows)]
    return Result(
        "Class-specific units",
        [headings[i] for i in kept],
        [[row[i] for i in kept] for row in rows],
        settings,
        notes,
        numbers,
        skipped=reader.errors,
    )


def _high(one: UnitFound) -> float:
    assert one.field.box is not None
    return float(one.field.box[3] - one.field.box[1])


def _wide(one: UnitFound) -> float:
    assert one.field.box is not None
    return float(one.field.box[2] - one.field.box[0])


def poster(
    found: Sequence[UnitFound], network: _Observed, reader: _Reader, names: Sequence[str] | None
) -> PIL.Image.Image:
    """A row a unit: where its strongest image was occluded with effect, then its top images, cut to its field."""
    captions = reader.labels(names)
    rows = []
    for one in found:
        tiles = [_effect(one, network, reader)]
        for peak in one.peaks:
            photo, _, geometry = reader.one(peak.number)
            part = photo.crop(_whole_pixels(geometry.to_photo(_field(one, network, peak)[None])[0]))
            name = captions[peak.number]
            tiles.append(Tile(part, (name,), RIGHT if name == one.category else GREY))
        weight = "" if one.weight is None else f"\nw = {one.weight:.3f}"
        label = f"{one.category}\nunit {one.unit}" if one.category else f"unit {one.unit}"
        rows.append((label + weight, tiles))
    most = max(len(one.peaks) for one in found)
    return gallery(
        rows, "Class-specific units", headings=["occlusion", *(f"top {i + 1}" for i in range(most))]
    )


def _effect(one: UnitFound, network: _Observed, reader: _Reader) -> Tile:
    """The strongest image under its drops, the estimated field white, that of theory green and dashed."""
    peak = one.peaks[0]
    photo, _, geometry = reader.one(peak.number)
    heat = one.drops.clamp(min=0)
    theory = None
    if isinstance(network.theory, ReceptiveField):
        theory = geometry.to_photo(network.theory.box(peak.y, peak.x, network.input_hw)[None])
    estimated = geometry.to_photo(_field(one, network, peak)[None])
    return Tile(mapped(photo, heat / heat.max().clamp(min=1e-12), theory, estimated), ("field",))


def _field(one: UnitFound, network: _Observed, peak: Peak) -> Tensor:
    """The box (4,) in network pixels to cut out for a peak: estimated, else by theory, else the whole input."""
    height, width = network.input_hw
    box = one.field.at(network.centre(peak.y, peak.x))
    if box is None and isinstance(network.theory, ReceptiveField):
        box = network.theory.box(peak.y, peak.x, network.input_hw)
    whole = torch.tensor([0.0, 0.0, width, height])
    if box is None:
        return whole
    inside = torch.cat([torch.maximum(box[:2], whole[:2]), torch.minimum(box[2:], whole[2:])])
    return inside if bool((inside[2:] - inside[:2] >= 1).all()) else whole


def _whole_pixels(box: Tensor) -> tuple[int, int, int, int]:
    """Edges moved outwards to whole pixels."""
    x0, y0, x1, y1 = box.tolist()
    return int(np.floor(x0)), int(np.floor(y0)), int(np.ceil(x1)), int(np.ceil(y1))
