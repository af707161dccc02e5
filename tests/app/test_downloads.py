"""What a visitor takes home."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from xml.etree import ElementTree

import pytest
from PIL import Image

from sightline.app.choices import Choices
from sightline.app.downloads import KINDS, download
from sightline.data.adapters.voc_xml import read_voc_xml
from sightline.errors import InputError
from sightline.types import BoxRule
from twohalves import photo

CHOICES = Choices(("cam", "gradcam"), class_index=0, rule=BoxRule(0.5))


def test_the_picture_holds_the_methods_side_by_side(session):
    made = download(session, CHOICES, "png")
    assert (made.name, made.media) == ("half.png", "image/png")
    assert Image.open(BytesIO(made.data)).size == (2 * 192 + 8, 96)


def test_the_numbers_state_model_rule_and_results(session):
    told = json.loads(download(session, CHOICES, "json").data)
    assert told["model"]["name"] == "toy"
    assert told["rule"]["threshold"] == 0.5
    assert told["photo"] == {"name": "half.png", "width": 40, "height": 20}
    assert [one["method"] for one in told["results"]] == ["cam", "gradcam"]
    x0, y0, x1, y1 = told["results"][0]["boxes_xyxy"][0]
    assert (x0, y0, y1) == (0, 0, 20)
    assert x1 == pytest.approx(20, abs=2.6)
    assert told["top"][0]["category"] == "ant"


def test_coco_voc_and_yolo_hold_the_same_boxes(session, tmp_path):
    session.open([("a.png", photo()), ("b.png", photo(left="blue", right="black")), ("a.png", photo(20, 40))])
    coco = json.loads(download(session, CHOICES, "coco").data)
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "b.png", "a-2.png"]
    names = {one["id"]: one["name"] for one in coco["categories"]}
    assert [names[one["category_id"]] for one in coco["annotations"]] == ["ant", "cat", "ant"]
    yolo = unzipped(download(session, CHOICES, "yolo").data)
    voc = unzipped(download(session, CHOICES, "voc").data)
    assert set(yolo) == {"data.yaml", "a.txt", "b.txt", "a-2.txt"}
    assert set(voc) == {"a.xml", "b.xml", "a-2.xml"}
    x, y, width, height = coco["annotations"][0]["bbox"]
    line = yolo["a.txt"].split()
    assert line[0] == "0"
    assert [float(v) for v in line[1:]] == pytest.approx(
        [(x + width / 2) / 40, (y + height / 2) / 20, width / 40, height / 20], abs=1e-6
    )
    file = tmp_path / "a.xml"
    file.write_text(voc["a.xml"], encoding="utf-8")
    (read,) = read_voc_xml(file).objects
    assert read.name == "ant"
    box = ElementTree.fromstring(voc["a.xml"]).find("object/bndbox")
    assert [int(side.text) for side in box] == [
        round(x) + 1,
        round(y) + 1,
        round(x + width),
        round(y + height),
    ]


def unzipped(data):
    with zipfile.ZipFile(BytesIO(data)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_other_kinds_and_no_photo_are_refused(session):
    assert KINDS == ("png", "json", "coco", "yolo", "voc")
    with pytest.raises(InputError, match="unknown kind of file"):
        download(session, CHOICES, "exe")
    session.forget()
    with pytest.raises(InputError, match="open a photo first"):
        download(session, CHOICES, "png")
