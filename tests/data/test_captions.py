"""Captions of COCO's JSON and of a CSV."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
import pytest

from sightline.data.adapters.captions import read_captions
from sightline.errors import InputError


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (4, 4)).save(path)
    return path


def coco(root: Path) -> Path:
    """Two images with two captions and one, a third without, in the official layout."""
    path = root / "annotations" / "captions_val2017.json"
    path.parent.mkdir(parents=True)
    images = [{"id": 10 * n, "file_name": f"{n}.jpg"} for n in (1, 2, 3)]
    said = [(10, "a dog"), (20, "two cats, asleep"), (10, "A brown dog.")]
    annotations = [{"id": i, "image_id": image, "caption": c} for i, (image, c) in enumerate(said)]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    for image in images:
        photo(root / "val2017" / str(image["file_name"]))
    return path


def test_coco_gathers_the_captions_of_an_image(tmp_path: Path) -> None:
    found = read_captions(coco(tmp_path))
    assert [(c.id, c.captions) for c in found] == [
        ("1.jpg", ("a dog", "A brown dog.")),
        ("2.jpg", ("two cats, asleep",)),
    ]
    assert found[0].source == tmp_path / "val2017" / "1.jpg"


def test_csv_takes_its_columns_by_name_and_images_beside_it(tmp_path: Path) -> None:
    photo(tmp_path / "in" / "a.png")
    path = tmp_path / "captions.csv"
    path.write_text('id,image,caption\n7,in/a.png,"a dog, asleep"\n8,in/a.png,second\n')
    (found,) = read_captions(path)
    assert (found.id, found.source) == ("in/a.png", tmp_path / "in" / "a.png")
    assert found.captions == ("a dog, asleep", "second")


def test_another_folder_of_images(tmp_path: Path) -> None:
    photo(tmp_path / "photos" / "a.png")
    path = tmp_path / "captions.csv"
    path.write_text("image,caption\na.png,a dog\n")
    assert read_captions(path, tmp_path / "photos")[0].source == tmp_path / "photos" / "a.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,caption\na.png,a dog\n", r"captions.csv, line 2: .*a.png is missing"),
        (
            "photo,caption\na.png,a dog\n",
            r"line 1: expected a header with 'image' and 'caption', got 'photo,caption'",
        ),
        ("image,caption\na.png\n", r"line 2: expected 2 columns \(image,caption\), got 'a.png'"),
        ("image,caption\n", "has no caption"),
    ],
)
def test_a_bad_csv_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "captions.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_captions(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [{"image_id": 99, "caption": "x"}]}, r"annotations\[0\]: image_id 99 is not among"),
        ({"annotations": [{"image_id": 10}]}, r"annotations\[0\]: expected 'caption' as str, got None"),
        ({"images": None}, "has no list 'images'"),
    ],
)
def test_bad_json_names_its_record(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = coco(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        read_captions(path)


def test_a_caption_without_its_image(tmp_path: Path) -> None:
    path = coco(tmp_path)
    (tmp_path / "val2017" / "2.jpg").unlink()
    with pytest.raises(InputError, match=r"annotations\[1\]: .*2.jpg is missing"):
        read_captions(path)
