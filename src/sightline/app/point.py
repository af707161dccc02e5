"""Which classes look at one point of the photo."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.app.choices import Choices, takes_layer
from sightline.app.session import Session
from sightline.errors import InputError, UnsupportedError
from sightline.pipeline import explain
from sightline.types import Geometry

COMPARED = 10  # classes of a network whose head gives no class map


@dataclass(frozen=True)
class ClassShare:
    """A class that looks at the point: ``share`` in [0, 1]."""

    class_index: int
    category: str
    share: float


@dataclass(frozen=True)
class AtPoint:
    """``meaning`` says what the shares are."""

    x: float
    y: float
    meaning: str
    classes: list[ClassShare]


def at_point(session: Session, x: float, y: float, choices: Choices, count: int = 5) -> AtPoint:
    """The classes that look at (x, y), photo pixels, most first.

    Where the head gives class maps, the score that the network would give each class if the whole photo were like
    this point: M_c(x, y) + b_c by the score rule (the map's mean + b_c is the class's own logit; Zhou et al., CVPR
    2016). Elsewhere, of the ten most probable classes, each one's heat at the point as a share of its maximum.
    """
    offer, photo = session.offer, session.photo
    width, height = photo.image.size
    if not (0 <= x < width and 0 <= y < height):
        raise InputError(f"the point {x:.0f}, {y:.0f} is outside the photo, {width} × {height}")
    if offer.embeds_text:
        raise InputError("a network that embeds has no classes to ask for at a point")
    try:
        found = explain(
            offer.model, photo.batch, method="cam", classes=torch.arange(offer.classes)[None], bias=True
        )
        values = _at(found.maps[0], found.geometries[0], x, y)
        rule = session.score_rule
        assert rule is not None
        shares, meaning = rule.probabilities(values[None])[0], "if everything looked like this spot"
    except UnsupportedError:
        method = choices.methods[0]
        spec, top = offer.methods[method], torch.tensor([index for index, _ in session.top(COMPARED)])
        layer = choices.layer if takes_layer(spec) else None
        found = explain(offer.model, photo.batch, method=spec, classes=top[None], layer=layer)
        heat = _at(found.heatmaps()[0], found.geometries[0], x, y).cpu()
        shares = torch.zeros(offer.classes).scatter(0, top, heat)
        meaning = f"heat here, of the {len(top)} most probable classes ({method})"
    best = shares.topk(min(count, len(shares)))
    rows = [ClassShare(int(i), offer.category(int(i)), float(s)) for s, i in zip(*best, strict=True)]
    return AtPoint(x, y, meaning, rows)


def _at(maps: Tensor, geometry: Geometry, x: float, y: float) -> Tensor:
    """The values of maps (C, h, w) at a point of the photo, (C,): those of the maps upsampled bilinearly."""
    x0, y0, x1, y1 = geometry.shown_xyxy
    across, down = 2 * (x - x0) / (x1 - x0) - 1, 2 * (y - y0) / (y1 - y0) - 1
    if max(abs(across), abs(down)) > 1:
        raise InputError("the network was not shown this part of the photo")
    grid = maps.new_tensor([across, down]).view(1, 1, 1, 2)
    return F.grid_sample(maps[None], grid, padding_mode="border", align_corners=False).flatten()
