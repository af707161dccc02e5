"""Files to take home: the picture, the numbers, the boxes in three labelling formats."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import PurePath
from typing import Any

import PIL.Image

from sightline.app.choices import Choices, finds_regions
from sightline.app.session import Session
from sightline.errors import unknown
from sightline.labels import Label, LabelledPhoto, Labels
from sightline.labels.yolo import data_yaml
from sightline.pictures.overlay import overlay
from sightline.reports.manifest import describe_run
from sightline.reports.output_folder import as_json

KINDS = ("png", "json", "coco", "yolo", "voc")


@dataclass(frozen=True)
class Download:
    """A file's name, its media type and its bytes."""

    name: str
    media: str
    data: bytes


def download(session: Session, choices: Choices, kind: str) -> Download:
    """``kind``: "png" and "json" of the photo that is looked at, by every chosen method; "coco", "yolo" and "voc" of
    all photos, by the first.

    Of several photos each has its own most probable class, as on the contact sheet.
    """
    if kind not in KINDS:
        raise unknown("kind of file", kind, KINDS)
    stem = PurePath(session.photo.name).stem
    if kind == "png":
        return Download(f"{stem}.png", "image/png", _png(session, choices))
    if kind == "json":
        return Download(f"{stem}.json", "application/json", as_json(_manifest(session, choices)).encode())
    labels = _labels(session, choices)
    if kind == "coco":
        return Download("coco.json", "application/json", json.dumps(labels.coco(), indent=1).encode())
    files = labels.voc() if kind == "voc" else {**labels.yolo(), "data.yaml": data_yaml(labels.names)}
    return Download(f"{kind}.zip", "application/zip", _zipped(files))


def _png(session: Session, choices: Choices) -> bytes:
    """The overlays of the chosen methods beside each other."""
    pictures = []
    for method in choices.methods:
        explanation = session.explained(method, choices)
        rule = explanation.box_rule(choices.rule)
        heatmap = (
            explanation.heatmaps(normalise=rule.normalise, percentile=rule.percentile)[0, 0].float().cpu()
        )
        boxes = explanation.boxes(rule)[0][0].cpu() if finds_regions(session.offer.methods[method]) else None
        shown = explanation.geometries[0].shown_xyxy
        label = None if session.offer.embeds_text else explanation.category(0, 0)
        pictures.append(
            overlay(session.photo.image, heatmap, 0.5, choices.colormap, boxes, label, shown_xyxy=shown)
        )
    gap = 8
    wide = sum(one.width for one in pictures) + gap * (len(pictures) - 1)
    sheet = PIL.Image.new("RGB", (wide, pictures[0].height), "white")
    x = 0
    for one in pictures:
        sheet.paste(one, (x, 0))
        x += one.width + gap
    stream = BytesIO()
    sheet.save(stream, "png")
    return stream.getvalue()


def _manifest(session: Session, choices: Choices) -> dict[str, Any]:
    results = []
    for method in choices.methods:
        explanation = session.explained(method, choices)
        found = explanation.predictions(choices.rule)[0][0]
        boxes = found.boxes_xyxy.tolist() if finds_regions(session.offer.methods[method]) else []
        results.append(
            {
                "method": method,
                "layers": explanation.layers,
                "class": found.class_index,
                "category": choices.text or found.category,
                "score": None if found.score != found.score else found.score,
                "boxes_xyxy": boxes,
            }
        )
    photo = session.photo
    return describe_run(
        model=session.offer.model.describe(),
        photo={"name": photo.name, "width": photo.image.width, "height": photo.image.height},
        rule=choices.rule.as_dict(),
        top=[{"class": i, "category": session.offer.category(i), "score": s} for i, s in session.top()],
        results=results,
    )


def _labels(session: Session, choices: Choices) -> Labels:
    """The boxes of every photo by the first method."""
    method = choices.methods[0]
    photos: list[LabelledPhoto] = []
    asked = choices if len(session.photos) == 1 else replace(choices, class_index=None)
    for number, photo in enumerate(session.photos):
        explanation = session.explained(method, asked, number)
        photos += explanation.labels(choices.rule, files=[photo.name]).photos
    if session.offer.embeds_text:  # the text is the one class
        photos = [replace(photo, labels=_named(photo, choices.text)) for photo in photos]
        return Labels(photos, (choices.text,))
    return Labels(photos, session.offer.model.categories or ())


def _named(photo: LabelledPhoto, text: str) -> tuple[Label, ...]:
    return tuple(replace(label, class_index=0, category=text) for label in photo.labels)


def _zipped(files: dict[str, str]) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return stream.getvalue()
