"""Boxes at the edge of what is accepted, and the faults that only the image file shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dataset_fixtures import write_cub_fixture
from drawings import colour, drawings
from sightline.data.adapters.cub import read_cub
from sightline.data.adapters.voc_xml import read_voc_xml
from sightline.data.reading import BoxCheck, Files, check_images, keyed, read_text, rows
from sightline.errors import InputError
from sightline.types import Dataset, Sample

SIZE_HW = (20, 30)  # 30 wide, 20 high


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        ((0, 0, 30, 20), (0, 0, 30, 20)),
        ((-1, -1, 31, 21), (0, 0, 30, 20)),  # one pixel out on each side: rounding
        ((29.5, 0, 30.5, 20), (29.5, 0, 30, 20)),
        ((3, 4, 3.25, 4.25), (3, 4, 3.25, 4.25)),
    ],
)
def test_boxes_that_fit_within_rounding_are_kept_and_clipped(
    box: tuple[float, ...], kept: tuple[float, ...]
) -> None:
    assert BoxCheck().keep(box, SIZE_HW, "a.txt, line 1") == kept


def test_without_clipping_a_rounded_box_stays_as_written() -> None:
    assert BoxCheck(clip=False).keep((0, 0, 31, 20), SIZE_HW, "a") == (0, 0, 31, 20)


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ((0, 0, 31.5, 20), "0 0 31.5 20 lies 1.5 pixels outside its image of 30×20 pixels"),
        ((-2, 0, 5, 5), "-2 0 5 5 lies 2 pixels outside its image of 30×20 pixels"),
        (
            (30, 0, 31, 20),
            "30 0 31 20 lies 1 pixels outside its image of 30×20 pixels",
        ),  # nothing left inside
        ((5, 5, 5, 9), "5 5 5 9 has width 0 and height 4"),
        ((5, 9, 8, 5), "5 9 8 5 has width 3 and height -4"),
        ((0, 0, float("nan"), 5), "0 0 nan 5 is not finite"),
    ],
)
def test_bad_boxes_are_refused_by_name_or_left_out_and_listed(box: tuple[float, ...], fault: str) -> None:
    with pytest.raises(InputError) as refused:
        BoxCheck().keep(box, SIZE_HW, "a.txt, line 7")
    assert str(refused.value) == (
        f"a.txt, line 7: box x0 y0 x1 y1 = {fault}; bad_boxes='skip' skips such boxes"
    )
    check = BoxCheck("skip")
    assert check.keep(box, SIZE_HW, "a.txt, line 7") is None
    assert check.keep((0, 0, 1, 1), SIZE_HW, "a.txt, line 8") == (0, 0, 1, 1)
    with pytest.warns(UserWarning, match="skipped 1 of 2") as caught:
        check.report("here")
    assert (
        str(caught[0].message) == f"here: skipped 1 of 2 boxes:\n  a.txt, line 7: box x0 y0 x1 y1 = {fault}"
    )


def test_without_a_size_only_the_near_edges_are_checked() -> None:
    assert BoxCheck().keep((5, 5, 9999, 9999), None, "a") == (5, 5, 9999, 9999)
    with pytest.raises(InputError, match="-3 0 5 5 lies 3 pixels outside its image;"):
        BoxCheck().keep((-3, 0, 5, 5), None, "a")


def test_unknown_policy_is_named() -> None:
    with pytest.raises(InputError, match=r"unknown bad_boxes 'skipp'; did you mean 'skip'\?"):
        BoxCheck("skipp")


def test_rows_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("a 1\n\nb 2 3\n")
    with pytest.raises(
        InputError, match=r"t\.txt, line 3: expected 2 columns \(key, value\), got 3: 'b 2 3'"
    ):
        list(rows(path, "key value"))
    path.write_text("a 1 2 3\n")
    assert list(rows(path, "key value", rest=True)) == [(1, ["a", "1 2 3"])]
    path.write_text("a 1\nb 2\na 3\n")
    with pytest.raises(InputError, match=r"t\.txt, line 3: 'a' is already in line 1"):
        keyed(path, "key value")


def test_text_that_is_missing_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.txt is missing"):
        read_text(tmp_path / "gone.txt")
    (tmp_path / "b.txt").write_bytes(b"abc\xff")
    with pytest.raises(InputError, match=r"b\.txt is not UTF-8 text \(byte 3\)"):
        read_text(tmp_path / "b.txt")


def test_files_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert not Files().has(tmp_path / "no" / "x.jpg")


def test_check_images_finds_what_reading_cannot_see(tmp_path: Path) -> None:
    write_cub_fixture(tmp_path, side=40)  # images are 50×40
    table = tmp_path / "CUB_200_2011" / "bounding_boxes.txt"
    lines = table.read_text().split("\n")
    table.write_text("\n".join(["1 10.0 10.0 45.0 20.0", *lines[1:]]))
    dataset = read_cub(tmp_path, "train")  # CUB gives no sizes: this box is read
    dataset.samples[1].source.write_bytes(b"not a jpeg")
    first, second = check_images(dataset)
    assert (
        first
        == f"{dataset.samples[0].source}: box x0 y0 x1 y1 = 10 10 55 30 lies 5 pixels outside its image of 50×40 pixels"
    )
    assert second.startswith(f"{dataset.samples[1].source} is not an image of a known format")


def test_check_images_turns_the_photo_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    upright = Sample("t", tmp_path / "turned.jpg", 0, torch.tensor([[0.0, 0, 20, 30]]))
    lying = Sample("l", tmp_path / "turned.jpg", 0, torch.tensor([[0.0, 0, 30, 20]]))
    assert [line.split("lies ")[1] for line in check_images(Dataset("d", "s", [upright, lying], ("a",)))] == [
        "10 pixels outside its image of 20×30 pixels"
    ]


XML = """<annotation>
  <size><width>{width}</width><height>40</height></size>
  <object><part><name>hand</name><bndbox><xmin>1</xmin></bndbox></part>
    <bndbox><ymax>9</ymax><xmin>1.5</xmin><ymin>2</ymin><xmax>8</xmax></bndbox><name> dog </name></object>
  <object><name>cat</name><difficult>1</difficult>{second}</object>
</annotation>"""
BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>4</ymax></bndbox>"


def test_xml_objects_in_any_order_of_tags_with_parts_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(XML.format(width=50, second=BOX.format(3)))
    dog, cat = read_voc_xml(path).objects
    assert (dog.name, dog.corners, dog.difficult, dog.where) == (
        "dog",
        (1.5, 2, 8, 9),
        False,
        f"{path}, line 3",
    )
    assert (cat.name, cat.corners, cat.difficult, cat.where) == ("cat", (1, 2, 3, 4), True, f"{path}, line 5")
    assert read_voc_xml(path).size_hw == (40, 50)
    path.write_text(XML.format(width=0, second=BOX.format(3)))
    assert read_voc_xml(path).size_hw is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (XML.format(width=50, second=""), "line 5: this object has no <bndbox><xmin>"),
        (
            XML.format(width=50, second=BOX.format("x")),
            "line 5: expected four numbers xmin ymin xmax ymax, got '1 2 x 4'",
        ),
        (
            XML.format(width="wide", second=BOX.format(3)),
            "expected a whole number for size/width, got 'wide'",
        ),
        ("<annotation>\n<object></annotation>", r"line 2: not well-formed XML \(mismatched tag\)"),
        ("", r"line 1: not well-formed XML \(no element found\)"),
    ],
)
def test_malformed_xml_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_voc_xml(path)


def test_the_drawn_pixels_are_the_boxes() -> None:
    """The fixtures' own truth: the coloured pixels of a shape fill exactly its half-open box."""
    for item in drawings(classes=4, per_class=3, side=40, seed=1, mixed=True):
        picture = item.image()
        for shape in item.shapes:
            rows, columns = np.nonzero((np.asarray(picture) == colour(shape.label)).all(2))
            edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert edges == shape.box
