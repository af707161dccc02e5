"""The units found, as a table and as the picture of Figure 13 (Zhou et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from sightline.discovery.features import source_id
from sightline.discovery.gallery import RIGHT, Tile, gallery, mapped
from sightline.discovery.observed_network import GRADCAM_IMAGES, ImageReader, ObservedNetwork
from sightline.discovery.occlusion import EstimatedField
from sightline.discovery.peaks import Peak
from sightline.discovery.result import Result, describe_model
from sightline.inspection.receptive_field import ReceptiveField
from sightline.pictures.overlay import GREY
from sightline.types import Geometry


@dataclass(frozen=True, eq=False)
class UnitFound:
    """One unit: its class (None: requested by number), its weight, its top images, its receptive field.

    ``drops`` (H, W): how much the peak of its top image drops where a pixel is occluded.
    """

    category: str | None
    unit: int
    weight: float | None
    peaks: list[Peak]
    field: EstimatedField
    drops: Tensor


def units_table(
    found: Sequence[UnitFound],
    network: ObservedNetwork,
    reader: ImageReader,
    names: Sequence[str] | None,
    how: str,
    options: dict[str, Any],
) -> Result:
    theory = network.theory
    seen = f"{theory.size[0]}×{theory.size[1]}" if isinstance(theory, ReceptiveField) else "unknown"
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
        "Grad-CAM": f"Grad-CAM weights, averaged over at most {GRADCAM_IMAGES} images classified as the class",
        "none": "units given by number",
    }
    notes = [
        f"{describe_model(network.model)['name']}, layer '{network.layer}': {network.channels} units; "
        f"{len(reader.sources)} images. Chosen by {meant[how]}.",
        f"Receptive field, in pixels of the {height}×{width} input: estimated by occlusion of the top "
        f"{options['estimate_on']} images (at least {options['threshold']:g} of the largest drop), "
        f"and by arithmetic{known}.",
    ]
    settings = {
        "images": len(reader.sources), "model": describe_model(network.model), "layer": str(network.layer),
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
        "field, by arithmetic",
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


def units_picture(
    found: Sequence[UnitFound], network: ObservedNetwork, reader: ImageReader, names: Sequence[str] | None
) -> PIL.Image.Image:
    """One row per unit: the effect of occlusion on its top image, then its top images, cropped to its field."""
    captions = reader.labels(names)
    rows = []
    for one in found:
        tiles = [_occlusion_tile(one, network, reader)]
        for peak in one.peaks:
            photo, _, geometry = reader.one(peak.number)
            photo = _dimmed(
                photo, geometry, one.field.region_at(network.centre(peak.y, peak.x), network.input_hw)
            )
            part = photo.crop(whole_pixels(geometry.to_photo(field_of(one, network, peak)[None])[0]))
            name = captions[peak.number]
            tiles.append(Tile(part, (name,), RIGHT if name == one.category else GREY))
        weight = "" if one.weight is None else f"\nw = {one.weight:.3f}"
        label = f"{one.category}\nunit {one.unit}" if one.category else f"unit {one.unit}"
        rows.append((label + weight, tiles))
    most = max(len(one.peaks) for one in found)
    return gallery(
        rows, "Class-specific units", headings=["occlusion", *(f"top {i + 1}" for i in range(most))]
    )


def _dimmed(photo: PIL.Image.Image, geometry: Geometry, region: Tensor) -> PIL.Image.Image:
    """The photo with everything outside the unit's field (H, W) darkened; unchanged if the field is unknown."""
    if not bool(region.any()):
        return photo
    inside = geometry.masks_to_photo(region[None])[0].numpy()
    shade = PIL.Image.fromarray(np.where(inside, 255, 90).astype(np.uint8))
    return PIL.Image.composite(photo, PIL.Image.new("RGB", photo.size), shade)


def _occlusion_tile(one: UnitFound, network: ObservedNetwork, reader: ImageReader) -> Tile:
    """The top image under its drops; the estimated field white, the arithmetic one dashed green."""
    peak = one.peaks[0]
    photo, _, geometry = reader.one(peak.number)
    heat = one.drops.clamp(min=0)
    theory = None
    if isinstance(network.theory, ReceptiveField):
        theory = geometry.to_photo(network.theory.box(peak.y, peak.x, network.input_hw)[None])
    estimated = geometry.to_photo(field_of(one, network, peak)[None])
    return Tile(mapped(photo, heat / heat.max().clamp(min=1e-12), theory, estimated), ("field",))


def field_of(one: UnitFound, network: ObservedNetwork, peak: Peak) -> Tensor:
    """The box (4,) in network pixels to crop to around a peak: estimated, else by arithmetic, else the whole input."""
    height, width = network.input_hw
    box = one.field.at(network.centre(peak.y, peak.x))
    if box is None and isinstance(network.theory, ReceptiveField):
        box = network.theory.box(peak.y, peak.x, network.input_hw)
    whole = torch.tensor([0.0, 0.0, width, height])
    if box is None:
        return whole
    inside = torch.cat([torch.maximum(box[:2], whole[:2]), torch.minimum(box[2:], whole[2:])])
    return inside if bool((inside[2:] - inside[:2] >= 1).all()) else whole


def whole_pixels(box: Tensor) -> tuple[int, int, int, int]:
    """Edges rounded outwards to whole pixels."""
    x0, y0, x1, y1 = box.tolist()
    return math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)
