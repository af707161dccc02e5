"""Class-specific units (Zhou et al. 2016, section 4.5, Figure 13): what a class's strongest units respond to."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sightline.discovery.features import Source
from sightline.discovery.observed_network import ImageReader, ObservedNetwork
from sightline.discovery.occlusion import AtLayer, estimate_field, occluded_drops
from sightline.discovery.peaks import Peak, TopPeaks
from sightline.discovery.result import Result
from sightline.discovery.units_figure import UnitFound, units_picture, units_table
from sightline.errors import InputError
from sightline.progress import tracked


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
    fill: str = "grey",
    threshold: float = 0.2,
    batch_size: int = 32,
    progress: bool = True,
) -> tuple[Result, list[UnitFound]]:
    """Each class's units with the largest weights, their top images, and the part of each image they respond to.

    The weight of unit k for class c is w_k^c of the head (Zhou et al. 2016, Figure 13) where `cam` can read it;
    otherwise the Grad-CAM weight mean_xy ∂y^c/∂A_k, averaged over the first 64 images whose most probable class
    is c. ``units`` are added whatever their weights. A unit's ``top`` images are those with the largest maximum of
    its map; each is cropped to the unit's receptive field around that maximum, estimated by sliding occlusion of the
    first ``estimate_on`` of them (`estimate_field`) and, for comparison, computed by arithmetic (`receptive_field`).
    ``window``, ``stride`` and ``fill`` of the occluder: as in `occluded_drops`.
    ``names``: what each image shows, for the captions. Images are read in batches; only their peaks are kept.

    Raises `InputError` for no images, an unknown class, a unit the layer does not have, and (with Grad-CAM weights)
    a class that no image is classified as.
    """
    for what, value in (("per_class", per_class), ("top", top), ("estimate_on", estimate_on)):
        if value < 1:
            raise InputError(f"{what}={value}; expected 1 or more")
    if len(sources) == 0:
        raise InputError("no images to search")
    if not classes and not units:
        raise InputError("give at least one class or unit")
    network = ObservedNetwork.of(model)
    network.check(units)
    reader = ImageReader(model, sources, batch_size, progress)
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
    drops = _drops(network, reader, {u: ranked[u][:estimate_on] for u in ranked}, window, stride, fill)
    found = []
    for category, unit, weight in chosen:
        some = ranked[unit][:estimate_on]
        field = estimate_field(
            [drops[unit, peak.number] for peak in some], [network.centre(p.y, p.x) for p in some], threshold
        )
        found.append(UnitFound(category, unit, weight, ranked[unit], field, drops[unit, some[0].number]))
    options = {
        "top": top, "estimate_on": estimate_on, "threshold": threshold,
        "window": window, "stride": stride, "fill": fill,
    }  # fmt: skip
    result = units_table(found, network, reader, names, how, options)
    result.pictures = {"poster.png": units_picture(found, network, reader, names)}
    return result, found


def _drops(
    network: ObservedNetwork,
    reader: ImageReader,
    peaks: dict[int, list[Peak]],
    window: int | None,
    stride: int | None,
    fill: str,
) -> dict[tuple[int, int], Tensor]:
    """(unit, image) -> drops (H, W); an image shared by several units is occluded once."""
    by_image: dict[int, list[tuple[int, Peak]]] = {}
    for unit, some in peaks.items():
        for peak in some:
            by_image.setdefault(peak.number, []).append((unit, peak))
    at_layer, found = AtLayer(network.network, network.layer), {}
    for number in tracked(sorted(by_image), "occlusion", reader.progress):
        _, image, _ = reader.one(number)
        wanted = [(unit, peak.y, peak.x) for unit, peak in by_image[number]]
        maps = occluded_drops(at_layer, image, wanted, window=window, stride=stride, fill=fill)
        found.update(
            {(unit, number): one.cpu() for (unit, _), one in zip(by_image[number], maps, strict=True)}
        )
    return found
