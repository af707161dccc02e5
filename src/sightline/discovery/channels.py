"""How channel maps add up to a class map (Zhou et al. 2016, Figure 2): the largest, the rest, the sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import PIL.Image
from torch import Tensor, nn

from sightline.data.images import PhotoSource, source_name
from sightline.discovery.gallery import Tile, gallery, mapped
from sightline.discovery.head_maps import heat
from sightline.discovery.result import Result, describe_model
from sightline.errors import InputError
from sightline.explanation import Explanation
from sightline.pipeline import explain
from sightline.targets import Classes


def channel_maps(
    model: nn.Module,
    sources: Sequence[PhotoSource],
    classes: Classes = "top1",
    *,
    top: int = 5,
    view: str = "whole",
) -> Result:
    """M_c = Σ_k w_k^c A_k as a picture: per photo and class the ``top`` largest w_k^c A_k, the rest, and the sum.

    The largest are those that add most to the score: w_k^c · mean A_k. The table has each channel's weight and its
    share of Σ_k w_k^c · mean A_k, which with GAP is the score without its bias. Raises `InputError` for no photo, and
    what `cam` raises for a network without pooling and one linear layer.
    """
    if not sources:
        raise InputError("no photo given")
    rows: list[list[str]] = []
    numbers: list[dict[str, Any]] = []
    tiles: list[tuple[str, list[Tile]]] = []
    for source in sources:
        explanation = explain(model, [source], method="cam", classes=classes, view=view)
        for k in range(explanation.classes.shape[1]):
            line, found = _one(explanation, k, top, source_name(source))
            tiles.append(line)
            numbers += found
    for one in numbers:
        cells = (
            one["photo"],
            one["class"],
            one["channel"],
            f"{one['weight']:+.3f}",
            f"{100 * one['share']:.1f}",
        )
        rows.append([str(cell) for cell in cells])
    settings = {"images": len(sources), "top": top, "view": view, "model": describe_model(model)}
    notes = [
        "Share: of Σ_k w_k · mean A_k over all channels, in per cent (with GAP, the score without its bias)."
    ]
    headings = ["photo", "class", "channel", "weight", "share"]
    picture = gallery(tiles, "Channel maps and their sum, the class map")
    return Result("Channel maps", headings, rows, settings, notes, numbers, {"channels.png": picture})


def _one(
    explanation: Explanation, k: int, top: int, name: str
) -> tuple[tuple[str, list[Tile]], list[dict[str, Any]]]:
    """One row of the picture, and its numbers."""
    found, whole = explanation.contributions(top), explanation.maps[0, k]
    photo, category = explanation.photo(0), explanation.category(0, k)
    total = float(whole.mean())
    numbers, tiles = [], [Tile(photo, ("photo",))]
    for place in range(top):
        raw = found.maps[0, k, place]
        weight, channel = float(found.weights[0, k, place]), int(found.channels[0, k, place])
        share = float(raw.mean()) / total if total else 0.0
        numbers.append(
            {"photo": name, "class": category, "channel": channel, "weight": weight, "share": share}
        )
        tiles.append(
            Tile(_shown(photo, raw, explanation), (f"{weight:+.2f} × no. {channel}", f"{share:.0%}"))
        )
    rest = whole - found.maps[0, k].sum(0)
    share = float(rest.mean()) / total if total else 0.0
    tiles.append(Tile(_shown(photo, rest, explanation), ("+ all others", f"{share:.0%}")))
    tiles.append(Tile(_shown(photo, whole, explanation), ("= class map",)))
    return (f"{category}\n{name}", tiles), numbers


def _shown(photo: PIL.Image.Image, raw: Tensor, explanation: Explanation) -> PIL.Image.Image:
    """The part of the photo that the network saw, under one map."""
    x0, y0, x1, y1 = (round(side) for side in explanation.geometries[0].shown_xyxy)
    part = photo.crop((x0, y0, x1, y1))
    return mapped(part, heat(raw.float().cpu(), (part.height, part.width)))
