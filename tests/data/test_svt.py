"""Street View Text's XML: every word a box, and each mistake named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sightline.data import detect_dataset, load_dataset
from sightline.errors import InputError

TEXT = """<?xml version="1.0" encoding="utf-8"?>
<tagset>
  <image>
    <imageName>img/14_03.jpg</imageName>
    <address>341 Southwest 10th Avenue</address>
    <lex>LIVING,ROOM,THEATERS</lex>
    <Resolution x="64" y="48" />
    <taggedRectangles>
      <taggedRectangle height="8" width="20" x="10" y="12"><tag>LIVING</tag></taggedRectangle>
      <taggedRectangle height="6" width="5" x="40" y="30"><tag>ROOM</tag></taggedRectangle>
    </taggedRectangles>
  </image>
</tagset>
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "img").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "img" / "14_03.jpg")
    (tmp_path / "test.xml").write_text(TEXT)
    return tmp_path


def test_words_are_boxes(root: Path) -> None:
    assert detect_dataset(root) == "svt"
    dataset = load_dataset(root, split="test")
    assert dataset.categories == ("text",)
    assert dataset[0].id == "img/14_03.jpg"
    assert dataset[0].boxes_xyxy.tolist() == [[10, 12, 30, 20], [40, 30, 45, 36]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('width="20" ', "", r"test.xml, line 9: expected a taggedRectangle with x, y, width, height"),
        ('x="10"', 'x="ten"', r"test.xml, line 9"),
        ("<imageName>img/14_03.jpg</imageName>", "", r"line 3: this image has no imageName"),
        ("img/14_03.jpg", "img/none.jpg", r"none.jpg is missing"),
        ("</tagset>", "", r"not well-formed XML"),
        ("<tagset>", '<!DOCTYPE t [<!ENTITY a "b">]><tagset>', r"declares an entity"),
    ],
)
def test_mistakes_are_named(root: Path, old: str, new: str, message: str) -> None:
    (root / "test.xml").write_text(TEXT.replace(old, new))
    with pytest.raises(InputError, match=message):
        load_dataset(root, "svt", split="test")


def test_the_splits_are_listed(root: Path) -> None:
    with pytest.raises(InputError, match="unknown split 'train'"):
        load_dataset(root, "svt", split="train")
