"""CVAT for images: read back as drawn, and every way to get it wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from dataset_fixtures import write_cvat_fixture
from sightline.data.adapters.cvat import read_cvat
from sightline.errors import InputError

HEAD = (
    "<annotations><meta><task><labels><label><name>cat</name></label><label><name>dog</name></label></labels>"
)


def one(tmp_path: Path, shapes: str, size: str = 'width="200" height="100"') -> Path:
    """An export of one photo of 200×100 and two classes."""
    PIL.Image.new("RGB", (200, 100)).save(tmp_path / "a.jpg")
    text = f'{HEAD}</task></meta>\n<image id="0" name="a.jpg" {size}>\n{shapes}</image></annotations>'
    (tmp_path / "annotations.xml").write_text(text)
    return tmp_path


def test_reads_what_was_drawn(tmp_path: Path, same_by_class: Callable[..., None]) -> None:
    drawn = write_cvat_fixture(tmp_path)
    for split in ("train", "val"):
        dataset = read_cvat(tmp_path, split)
        assert len(dataset.categories) == 3
        same_by_class(dataset, drawn[split], 0.01)
    whole = read_cvat(tmp_path, "all")
    assert len(whole.samples) == sum(len(read_cvat(tmp_path, split).samples) for split in ("train", "val"))


def test_by_hand(tmp_path: Path) -> None:
    """A box turned by 90 degrees about its centre (40, 30) swaps its sides; an outline counts by its bounding box."""
    shapes = (
        '<box label="cat" xtl="20" ytl="20" xbr="60" ybr="40" rotation="90.0"></box>\n'
        '<polygon label="dog" points="10.5,20;30,20;20,60"></polygon>\n'
        '<tag label="dog" source="manual"></tag>\n<box label="cat" xtl="0" ytl="0" xbr="5" ybr="6"/>'
    )
    cat, dog = read_cvat(one(tmp_path, shapes)).samples
    assert cat.boxes_xyxy.tolist() == [[30, 10, 50, 50], [0, 0, 5, 6]]
    assert dog.boxes_xyxy.tolist() == [[10.5, 20, 30, 60]]
    assert cat.source == tmp_path / "a.jpg"


BOX = '<box label="{}" xtl="{}" ytl="0" xbr="5" ybr="6"/>'


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (BOX.format("cow", 0), r"annotations.xml, line 3\)"),
        (BOX.format("cat", "x"), "line 3: expected four numbers xtl ytl xbr ybr, got 'x 0 5 6'"),
        (BOX.format("cat", 9), "line 3: box x0 y0 x1 y1 = 9 0 5 6 has width -4"),
        ('<box label="cat" xtl="1"/>', "line 3: 'ytl' is missing"),
        ('<mask label="cat" rle="1, 2"/>', "line 3: <mask>; expected boxes, polygons"),
        ('<polygon label="cat" points="1,2;3"/>', "line 3: expected four numbers x y x y"),
        ("", "has no image"),
    ],
)  # fmt: skip
def test_faults_are_named(tmp_path: Path, shapes: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_cvat(one(tmp_path, shapes))


def test_faults_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2: 'height' is missing"):
        read_cvat(one(tmp_path, "", 'width="200"'))
    (one(tmp_path, BOX.format("cat", 0)) / "a.jpg").unlink()
    with pytest.raises(InputError, match=r"line 2: .*images.a\.jpg is missing"):
        read_cvat(tmp_path)
    (tmp_path / "annotations.xml").write_text('<annotations>\n<track id="0" label="cat"/></annotations>')
    with pytest.raises(InputError, match="line 2: a video's tracks; expected an export as CVAT for images"):
        read_cvat(tmp_path)
    write_cvat_fixture(tmp_path)
    with pytest.raises(InputError, match="unknown split 'vall'; did you mean 'val'"):
        read_cvat(tmp_path, "vall")
