"""What the page draws: one figure per method, with its heat as a picture and its boxes as numbers."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import torch
from PIL import Image

from sightline.app.choices import Choices, finds_regions
from sightline.app.session import Session
from sightline.errors import InputError
from sightline.explanation import Explanation
from sightline.heatmap import difference
from sightline.pictures.overlay import coloured, drawn_size, overlay, resized
from sightline.scores import percent_text

SHOWN = 1024  # pixels of the longer side of a photo in the page
TILE = 320
TWO_SIDED = "PuOr_r"  # orange for the first class, violet for the second; safe for colour-blind people


@dataclass(frozen=True)
class Figure:
    """``heat``: a picture as a data URI, over ``region`` (x0, y0, x1, y1 as shares of the photo); ``boxes`` likewise.

    ``caption`` says in words what is seen, for those who hear the page. ``note``: why there is no heat.
    """

    title: str
    caption: str
    heat: str = ""
    region: tuple[float, ...] = (0.0, 0.0, 1.0, 1.0)
    boxes: list[list[float]] = field(default_factory=list)
    note: str = ""
    legend: tuple[str, str] = ("less", "more")

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def figures(session: Session, choices: Choices) -> list[Figure]:
    """One figure per chosen method, then that of the difference, if a second class is chosen."""
    found = [_figure(session, method, choices) for method in choices.methods]
    if choices.against is not None and not session.offer.embeds_text:
        found.append(_difference(session, choices))
    return found


def _figure(session: Session, method: str, choices: Choices) -> Figure:
    try:
        explanation = session.explained(method, choices)
    except InputError as error:
        return Figure(method, f"{method}: {error}", note=str(error))
    boxes = boxes_of(session, method, choices)
    rule = explanation.box_rule(choices.rule)
    heatmap = explanation.heatmaps(normalise=rule.normalise, percentile=rule.percentile)[0, 0]
    blank = not bool(heatmap.max() > 0)
    return Figure(
        method,
        caption(session, method, choices),
        "" if blank else heat_uri(heatmap, choices.colormap),
        _region(explanation),
        boxes,
        "points nowhere: no positive evidence for this class, or the same everywhere" if blank else "",
    )


def _difference(session: Session, choices: Choices) -> Figure:
    """Where the first class has more heat than the second, and where less."""
    method = choices.methods[0]
    assert choices.against is not None
    try:
        one = session.explained(method, choices)
        other = session.explained(method, _of_class(choices, choices.against))
    except InputError as error:
        return Figure("difference", str(error), note=str(error))
    a, b = one.category(0, 0), other.category(0, 0)
    apart = difference(one.maps[0, 0], other.maps[0, 0], (one.input_hw[0], one.input_hw[1]))
    title = f"{a} against {b}"
    return Figure(
        title,
        f"{title}, {method}: orange where {a} has more heat, violet where {b} has",
        heat_uri((apart + 1) / 2, TWO_SIDED),
        _region(one),
        legend=(b, a),
    )


def _of_class(choices: Choices, index: int) -> Choices:
    return replace(choices, class_index=index, against=None)


def boxes_of(session: Session, method: str, choices: Choices) -> list[list[float]]:
    """The boxes of one figure as shares of the photo's sides: moving the threshold needs no more than this."""
    if not finds_regions(session.offer.methods[method]):
        return []
    explanation = session.explained(method, choices)
    width, height = session.photo.image.size
    scale = torch.tensor([width, height, width, height])
    shares: list[list[float]] = (explanation.boxes(choices.rule)[0][0].cpu() / scale).tolist()
    return [[round(side, 5) for side in box] for box in shares]


def caption(session: Session, method: str, choices: Choices) -> str:
    """The figure in words: class, score, box in pixels.

    Such as "tabby 62.1 %; box 12, 30 to 200, 180".
    """
    explanation = session.explained(method, choices)
    found = explanation.predictions(choices.rule)[0][0]
    score = found.score
    name = choices.text if session.offer.embeds_text else found.category
    rule = explanation.score_rule
    text = f"{name} {rule.text(score) if rule else percent_text(score)}" if score == score else name
    if not finds_regions(session.offer.methods[method]):
        return f"{text}; single pixels, no box"
    boxes = [", ".join(f"{v:.0f}" for v in box[:2]) + " to " + ", ".join(f"{v:.0f}" for v in box[2:])
             for box in found.boxes_xyxy.tolist()]  # fmt: skip
    if not boxes:
        return f"{text}; no box"
    return f"{text}; {'box' if len(boxes) == 1 else f'{len(boxes)} boxes:'} {'; '.join(boxes[:6])}"


def photo_uri(image: Image.Image, longest: int = SHOWN) -> str:
    """The photo as the page shows it, a JPEG."""
    size = drawn_size(image.size, longest=longest)
    return data_uri(resized(image, size), "jpeg")


def heat_uri(heatmap: torch.Tensor, colormap: str) -> str:
    """A heatmap (H, W) as colours, one pixel each; the browser enlarges it."""
    height, width = heatmap.shape
    return data_uri(coloured(heatmap.float().cpu(), (width, height), colormap), "webp")


def data_uri(picture: Image.Image, kind: str) -> str:
    """A picture as text that a page can show, without a file on the server.

    >>> data_uri(Image.new("RGB", (1, 1)), "png")[:22]
    'data:image/png;base64,'
    """
    stream = BytesIO()
    picture.save(stream, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def tiles(session: Session, choices: Choices) -> list[dict[str, str]]:
    """The contact sheet: every photo with its heat and box by the first method, for its own most probable class."""
    found, method = [], choices.methods[0]
    for number, photo in enumerate(session.photos):
        explanation = session.explained(method, choices, number)
        rule = explanation.box_rule(choices.rule)
        heatmap = (
            explanation.heatmaps(normalise=rule.normalise, percentile=rule.percentile)[0, 0].float().cpu()
        )
        boxes = explanation.boxes(rule)[0][0].cpu() if finds_regions(session.offer.methods[method]) else None
        size = drawn_size(photo.image.size, longest=TILE)
        shown = explanation.geometries[0].shown_xyxy
        picture = overlay(photo.image, heatmap, 0.5, choices.colormap, boxes, shown_xyxy=shown, size=size)
        name = choices.text if session.offer.embeds_text else explanation.category(0, 0)
        found.append({"name": photo.name, "label": name, "picture": data_uri(picture, "jpeg")})
    return found


def _region(explanation: Explanation) -> tuple[float, ...]:
    geometry = explanation.geometries[0]
    height, width = geometry.photo_hw
    x0, y0, x1, y1 = geometry.shown_xyxy
    return (x0 / width, y0 / height, x1 / width, y1 / height)
