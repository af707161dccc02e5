"""Every format, written and read back: by this package's adapters, pycocotools, and the formats' own rules."""

from __future__ import annotations

import csv
import json
import sys
import types
from xml.etree import ElementTree

import numpy as np
import PIL.Image
import pytest
import torch

from sightline.data import load_dataset
from sightline.data.adapters.voc_xml import read_voc_xml
from sightline.errors import InputError, MissingExtraError
from sightline.labels import Label, LabelledPhoto, Labels
from sightline.labels.files import BOX_FORMATS, MASK_FORMATS, write_labels
from sightline.labels.rle import decode, encode
from sightline.reports.output_folder import OutputFolder

NAMES = ("dog", "cat & kitten", "bird")


def mask(size_hw, box):
    found = np.zeros(size_hw, dtype=bool)
    x0, y0, x1, y1 = box
    found[y0:y1, x0:x1] = True
    found[y0, x0] = False  # not quite its box
    return found


@pytest.fixture
def labels() -> Labels:
    """Two photos with boxes of whole pixels, one with none; the second photo has two objects that overlap."""
    one = Label(1, NAMES[1], (2, 3, 10, 8), 0.9, 0.8, encode(mask((20, 30), (2, 3, 10, 8))))
    two = Label(0, NAMES[0], (0, 0, 40, 24), 0.25, 1.0, encode(mask((24, 40), (0, 0, 40, 24))))
    three = Label(2, NAMES[2], (10, 4, 30, 20), 0.75, 0.5, encode(mask((24, 40), (10, 4, 30, 20))))
    return Labels(
        [
            LabelledPhoto("a.jpg", (20, 30), (one,)),
            LabelledPhoto("more/b-c.jpg", (24, 40), (two, three)),
            LabelledPhoto("none.jpg", (8, 8)),
        ],
        NAMES,
    )


@pytest.fixture
def photos(labels, tmp_path):
    root = tmp_path / "photos"
    for photo in labels.photos:
        path = root / photo.file
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", photo.size_hw[::-1], "teal").save(path)
    return root


@pytest.fixture
def written(labels, photos, tmp_path):
    def write(format, **options):
        folder = OutputFolder(tmp_path / format).prepare()
        write_labels(labels, folder, format, **options)
        return folder.path

    return write


def boxes_of(dataset) -> dict[tuple[str, str], list[list[float]]]:
    return {
        (sample.source.stem, dataset.categories[sample.label]): sample.boxes_xyxy.tolist()
        for sample in dataset.samples
    }


def expected(labels) -> dict[tuple[str, str], list[list[float]]]:
    return {
        (photo.stem.split("/")[-1], label.category): [list(label.box_xyxy)]
        for photo in labels.photos
        for label in photo.labels
    }


def test_coco_is_read_back_by_the_adapter(labels, photos, written) -> None:
    root = written("coco")
    assert boxes_of(load_dataset(root, "coco", split="all", images=photos)) == expected(labels)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools 2.0.11 with NumPy 2
def test_coco_is_read_back_by_pycocotools(labels, written, capsys) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    found = coco.COCO(str(written("coco-rle") / "annotations" / "instances_all.json"))
    capsys.readouterr()
    assert [found.cats[i]["name"] for i in sorted(found.cats)] == list(NAMES)
    pairs = [(photo, label) for photo in labels.photos for label in photo.labels]
    for annotation, (photo, label) in zip(found.dataset["annotations"], pairs, strict=True):
        assert found.imgs[annotation["image_id"]]["file_name"] == photo.file
        x, y, width, height = annotation["bbox"]
        assert (x, y, x + width, y + height) == label.box_xyxy
        read = found.annToMask(annotation).astype(bool)
        assert np.array_equal(read, decode(label.rle, photo.size_hw))
        assert annotation["area"] == read.sum()
        assert (annotation["score"], annotation["doubt"]) == (label.score, round(label.doubt, 4))


def test_voc_is_read_back_by_the_adapter(labels, photos, written) -> None:
    root = written("voc", photos=str(photos))
    dataset = load_dataset(root, "voc", split="all", categories=NAMES)
    assert boxes_of(dataset) == expected(labels)


def test_voc_cannot_list_a_name_with_a_blank(tmp_path) -> None:
    labels = Labels([LabelledPhoto("b c.jpg", (4, 4))])
    with pytest.raises(InputError, match="cannot hold a name with a blank"):
        write_labels(labels, OutputFolder(tmp_path).prepare(), "voc")
    assert labels.label_studio("p/")[0]["data"]["image"] == "p/b%20c.jpg"


def test_voc_rounds_outwards() -> None:
    from sightline.labels.voc import voc_xml

    photo = LabelledPhoto("a.jpg", (10, 10), (Label(0, "dog", (0.4, 1.0, 3.2, 10.0)),))
    corners = [int(e.text) for e in ElementTree.fromstring(voc_xml(photo)).find("object/bndbox")]
    assert corners == [1, 2, 4, 10]


def test_voc_names_stay_text(tmp_path) -> None:
    photo = LabelledPhoto("a.jpg", (8, 8), (Label(0, "<cat> & \u00e9", (1, 1, 4, 4)),))
    path = tmp_path / "a.xml"
    path.write_text(Labels([photo]).voc()["a.xml"], encoding="utf-8")
    assert read_voc_xml(path).objects[0].name == "<cat> & \u00e9"


def test_yolo_is_read_back(labels, photos, written) -> None:
    root = written("yolo", photos=str(photos))
    dataset = load_dataset(root, allow_empty=True)
    found = [(s.id, box) for s in dataset.samples for box in s.boxes_xyxy.tolist()]
    expected = {
        (f"{photo.file}:{label.category}", label.box_xyxy)
        for photo in labels.photos
        for label in photo.labels
    }
    assert len(found) == len(expected)
    for key, box in found:
        assert (
            min(abs(torch.tensor(box) - torch.tensor(true)).max() for k, true in expected if k == key) < 1e-3
        )
    assert "1: cat & kitten" in (root / "data.yaml").read_text()


def test_the_csv_is_read_back_by_the_folder_adapter(tmp_path) -> None:
    root = tmp_path / "photos"
    (root / "cat").mkdir(parents=True)
    PIL.Image.new("RGB", (30, 20)).save(root / "cat" / "a.jpg")
    labels = Labels([LabelledPhoto("cat/a.jpg", (20, 30), (Label(0, "cat", (2.25, 3, 10, 8.5)),))])
    write_labels(labels, OutputFolder(root), "csv")
    assert load_dataset(root, "folder")[0].boxes_xyxy.tolist() == [[2.25, 3, 10, 8.5]]


def test_label_studio_gets_per_cent(labels, written) -> None:
    root = written("label-studio")
    tasks = json.loads((root / "tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks][1] == "/data/local-files/?d=more/b-c.jpg"
    for task, photo in zip(tasks, labels.photos, strict=True):
        for found, label in zip(task["predictions"][0]["result"], photo.labels, strict=True):
            value, (height, width) = found["value"], photo.size_hw
            corners = (
                value["x"] * width / 100,
                value["y"] * height / 100,
                (value["x"] + value["width"]) * width / 100,
                (value["y"] + value["height"]) * height / 100,
            )
            assert corners == pytest.approx(label.box_xyxy)
            assert (found["original_width"], found["original_height"]) == (width, height)
            assert value["rectanglelabels"] == [label.category]
    assert tasks[1]["predictions"][0]["score"] == 0.25  # the most doubtful of its boxes
    config = ElementTree.fromstring((root / "config.xml").read_text())
    assert [one.get("value") for one in config.iter("Label")] == ["cat & kitten", "dog", "bird"]


def test_cvat_holds_pixel_edges(labels, written) -> None:
    tree = ElementTree.parse(written("cvat") / "annotations.xml").getroot()
    images = tree.findall("image")
    assert [image.get("name") for image in images] == [photo.file for photo in labels.photos]
    for image, photo in zip(images, labels.photos, strict=True):
        assert (int(image.get("height")), int(image.get("width"))) == photo.size_hw
        for box, label in zip(image, photo.labels, strict=True):
            assert [float(box.get(edge)) for edge in ("xtl", "ytl", "xbr", "ybr")] == list(label.box_xyxy)
            assert box.get("label") == label.category


@pytest.mark.parametrize(("format", "options"), [("cvat", {}), ("label-studio", {"predictions": True})])
def test_labelling_tools_files_are_read_back(labels, photos, written, format, options) -> None:
    dataset = load_dataset(written(format, photos=str(photos)), split="all", **options)
    found = boxes_of(dataset)
    assert found.keys() == expected(labels).keys()
    for key, boxes in expected(labels).items():
        assert found[key][0] == pytest.approx(boxes[0], abs=0.005)


def opened(path) -> PIL.Image.Image:
    with PIL.Image.open(path) as picture:
        picture.load()
        return picture


def test_indexed_masks_hold_the_classes(labels, written) -> None:
    root = written("voc-png")
    picture = opened(root / "SegmentationClass" / "more" / "b-c.png")
    assert (picture.mode, picture.size) == ("P", (40, 24))
    assert picture.getpalette()[3:9] == [128, 0, 0, 0, 128, 0]
    found = np.asarray(picture)
    assert (found[0, 0], found[0, 1], found[5, 15], found[23, 39]) == (0, 1, 3, 1)  # the surer bird is on top
    assert np.asarray(opened(root / "SegmentationObject" / "more" / "b-c.png"))[5, 15] == 2
    rows = list(csv.reader((root / "classes.csv").read_text().splitlines()))
    assert rows == [
        ["value", "class"],
        ["0", "background"],
        ["1", "dog"],
        ["2", "cat & kitten"],
        ["3", "bird"],
    ]
    plain = np.asarray(opened(written("indexed-png") / "masks" / "more" / "b-c.png"))
    assert np.array_equal(plain, found)


def test_of_many_classes_only_those_in_use_are_numbered() -> None:
    from sightline.labels.indexed import mask_values

    photos = [LabelledPhoto("a.jpg", (4, 4), (Label(900, "x", (0, 0, 1, 1)), Label(3, "y", (0, 0, 1, 1))))]
    assert mask_values(Labels(photos, tuple(map(str, range(1000))))) == {900: 1, 3: 2}
    full = LabelledPhoto("a.jpg", (4, 4), tuple(Label(i, str(i), (0, 0, 1, 1)) for i in range(255)))
    with pytest.raises(InputError, match="an indexed PNG holds 254: use coco-rle"):
        mask_values(Labels([full], tuple(map(str, range(1000)))))


def test_two_photos_never_share_a_file() -> None:
    labels = Labels([LabelledPhoto("a.jpg", (4, 4)), LabelledPhoto("A.png", (4, 4))])
    with pytest.raises(InputError, match=r"a\.jpg and A\.png would share one annotation file"):
        labels.yolo()
    assert len(labels.coco()["images"]) == 2


@pytest.mark.parametrize("format", [*BOX_FORMATS, *MASK_FORMATS])
def test_nothing_found_is_written_too(format, tmp_path) -> None:
    folder = OutputFolder(tmp_path).prepare()
    assert write_labels(Labels([LabelledPhoto("a.jpg", (4, 4))]), folder, format)


def test_an_unknown_format_names_the_nearest(tmp_path) -> None:
    with pytest.raises(InputError, match="did you mean 'coco'"):
        write_labels(Labels([]), OutputFolder(tmp_path), "cocos")


@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_are_read_back(seed) -> None:
    found = np.random.default_rng(seed).random((7, 5)) > (0.5, 0.0, 1.0, 0.9)[seed]
    assert np.array_equal(decode(encode(found), (7, 5)), found)
    with pytest.raises(InputError, match="the mask has 3×3"):
        decode(encode(found), (3, 3))


def test_supervision(labels) -> None:
    pytest.importorskip("supervision")
    found = labels.supervision()
    assert found[1].xyxy.tolist() == [[0, 0, 40, 24], [10, 4, 30, 20]]
    assert found[1].mask.shape == (2, 24, 40)
    assert list(found[1]["class_name"]) == ["dog", "bird"]
    assert len(found[2]) == 0


def test_fiftyone_gets_shares(labels, monkeypatch) -> None:
    """A stub: FiftyOne brings a database of its own."""
    stub = types.ModuleType("fiftyone")
    stub.Detection = stub.Detections = lambda **fields: fields  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fiftyone", stub)
    found = labels.fiftyone()[1]["detections"][1]
    assert found["bounding_box"] == [10 / 40, 4 / 24, 20 / 40, 16 / 24]
    assert found["mask"].shape == (16, 20)
    assert (found["label"], found["confidence"]) == ("bird", 0.75)


def test_fiftyone_itself(labels) -> None:
    pytest.importorskip("fiftyone")
    found = labels.fiftyone()[1].detections[1]
    assert list(found.bounding_box) == [10 / 40, 4 / 24, 20 / 40, 16 / 24]
    assert found.mask.shape == (16, 20)
    assert (found.label, found.confidence, found["doubt"]) == ("bird", 0.75, labels.photos[1].labels[1].doubt)


def test_a_missing_package_is_one_line(labels, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(InputError, match="pip install fiftyone"):
        labels.fiftyone()
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match=r"sightline-cam\[supervision\]"):
        labels.supervision()
