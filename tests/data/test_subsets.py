"""`sightline data`: subsets made from archives in the official layouts, here of a few small pictures."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from sightline.cli import build_app
from sightline.data import load_dataset
from sightline.data.subsets import SUBSETS, base, check_subset, listed, make_subset
from sightline.data.subsets.archives import members
from sightline.errors import InputError


def jpeg(width: int, height: int, kind: str = "JPEG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height), "green").save(data, kind)
    return data.getvalue()


@pytest.fixture
def lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test writes its own lists of photos."""
    folder = tmp_path / "lists"
    folder.mkdir()
    monkeypatch.setattr(base, "LISTS", folder)
    return folder


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_the_committed_lists() -> None:
    counts = {name: len(set(listed(name))) for name in SUBSETS}
    assert counts == {
        "ilsvrc-val-650": 650,
        "cub-50": 2203,
        "leeds-butterflies": 416,
        "scene15": 2700,
        "icdar15-text": 250,
        "coco-mini": 159,
    }


def test_cub_from_a_tar(tmp_path: Path, lists: Path) -> None:
    (lists / "cub-50.txt").write_text("{} 2 3\n")
    files = {
        "images.txt": b"1 001.A/a.jpg\n2 001.A/b.jpg\n3 002.B/c.jpg\n",
        "classes.txt": b"1 001.A\n2 002.B\n",
        "image_class_labels.txt": b"1 1\n2 1\n3 2\n",
        "train_test_split.txt": b"1 1\n2 0\n3 0\n",
        "bounding_boxes.txt": b"1 0 0 5 5\n2 60.0 27.0 325.0 304.0\n3 1.0 2.0 3.0 4.0\n",
        "images/001.A/b.jpg": jpeg(576, 400),
        "images/002.B/c.jpg": jpeg(100, 80),
        "images/001.A/a.jpg": jpeg(10, 10),
    }
    with tarfile.open(tmp_path / "CUB_200_2011.tgz", "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"CUB_200_2011/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert make_subset("cub-50", [tmp_path / "CUB_200_2011.tgz"], tmp_path / "out") == 2
    found = load_dataset(tmp_path / "out", "cub", "test")
    assert [sample.boxes_xyxy.tolist() for sample in found.samples] == [
        [[30.0, 13.5, 192.5, 165.5]],
        [[1.0, 2.0, 4.0, 6.0]],
    ]
    with Image.open(found.samples[0].source) as photo:
        assert photo.size == (288, 200)
    (tmp_path / "out/CUB_200_2011/images/002.B/c.jpg").unlink()
    with pytest.raises(
        InputError, match=r"lacks 1 of the 7 files of cub-50: CUB_200_2011/images/002\.B/c\.jpg"
    ):
        check_subset("cub-50", tmp_path / "out")


def test_ilsvrc_from_a_folder(tmp_path: Path, lists: Path) -> None:
    (lists / "ilsvrc-val-650.txt").write_text("ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_{:08d}.JPEG 7\n")
    source = tmp_path / "official"
    source.mkdir()
    (source / "ILSVRC2012_val_00000007.JPEG").write_bytes(jpeg(454, 227))
    (source / "ILSVRC2012_val_00000008.JPEG").write_bytes(jpeg(454, 227))
    (source / "LOC_synset_mapping.txt").write_text("n01440764 tench\n")
    (source / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000008,n01440764 0 0 9 9\n"
        "ILSVRC2012_val_00000007,n01440764 0 10 99 49\n"
    )
    make_subset("ilsvrc-val-650", [source], tmp_path / "out")
    (sample,) = load_dataset(tmp_path / "out", "ilsvrc", "val", bad_boxes="refuse").samples
    assert sample.boxes_xyxy.tolist() == [[0.0, 10.0, 50.0, 50.0]]


def test_butterflies_with_masks(tmp_path: Path, lists: Path) -> None:
    (lists / "leeds-butterflies.txt").write_text("photos/Pieris_rapae/{:07d}.jpg 80002\n")
    mask = Image.new("L", (576, 400))
    ImageDraw.Draw(mask).rectangle((100, 100, 299, 199), 1)
    drawn = io.BytesIO()
    mask.save(drawn, "PNG")
    source = zipped(
        tmp_path / "leeds.zip",
        {
            "leedsbutterfly/images/0080002.png": jpeg(576, 400, "PNG"),
            "leedsbutterfly/segmentations/0080002_seg0.png": drawn.getvalue(),
        },
    )
    make_subset("leeds-butterflies", [source], tmp_path / "out")
    (sample,) = load_dataset(tmp_path / "out/photos", "folder", "all").samples
    assert sample.boxes_xyxy.tolist() == [[50.0, 50.0, 150.0, 100.0]]
    there = {"images": str(tmp_path / "out")}
    (masked,) = load_dataset(
        tmp_path / "out/metadata/LEEDS", "wsol", "test", allow_empty=True, **there
    ).samples
    assert (masked.label, len(masked.masks)) == (7, 1)


def test_scenes_text_and_coco(tmp_path: Path, lists: Path) -> None:
    (lists / "scene15.txt").write_text("train/Coast/image_{:04d}.jpg 6\n")
    scenes = zipped(tmp_path / "scenes.zip", {"15-Scene/MITcoast/image_0006.jpg": jpeg(384, 256)})
    assert make_subset("scene15", [scenes], tmp_path / "scene15") == 1

    (lists / "icdar15-text.txt").write_text("text/img_{}.jpg 1\n")
    photos = zipped(tmp_path / "photos.zip", {"img_1.jpg": jpeg(1200, 720)})
    words = zipped(tmp_path / "words.zip", {"gt_img_1.txt": "\ufeff0,10,20,10,20,30,0,30,EXIT\n".encode()})
    make_subset("icdar15-text", [photos, words], tmp_path / "icdar")
    assert (tmp_path / "icdar/boxes.csv").read_text().splitlines()[1] == "text/img_1.jpg,0.0,5.0,10.0,15.0"

    (lists / "coco-mini.txt").write_text("val2017/{:012d}.jpg 9\n")
    instance = {"image_id": 9, "bbox": [10, 20, 30, 40], "area": 1200, "segmentation": [[10, 20, 40, 60]]}
    images = [
        {"id": 9, "file_name": "000000000009.jpg", "width": 720, "height": 360},
        {"id": 1, "file_name": "x"},
    ]
    table = {"images": images, "annotations": [instance, {**instance, "image_id": 1}]}
    names = [
        f"annotations/{kind}_{split}2017.json"
        for kind in ("captions", "instances")
        for split in ("train", "val")
    ]
    coco = zipped(
        tmp_path / "coco.zip",
        {**{name: json.dumps(table).encode() for name in names}, "val2017/000000000009.jpg": jpeg(720, 360)},
    )
    make_subset("coco-mini", [coco], tmp_path / "coco")
    kept = json.loads((tmp_path / "coco/annotations/instances_val2017.json").read_text())
    assert kept["annotations"] == [
        {
            "image_id": 9,
            "bbox": [5.0, 10.0, 15.0, 20.0],
            "area": 300.0,
            "segmentation": [[5.0, 10.0, 20.0, 30.0]],
        }
    ]
    captions = json.loads((tmp_path / "coco/annotations/captions_val2017.json").read_text())
    assert captions["images"][0]["width"] == 720


def test_sources_that_do_not_hold_it(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"LOC_val_solution\.csv; it is part of the data on Kaggle"):
        make_subset("ilsvrc-val-650", [empty], tmp_path / "out")
    with pytest.raises(InputError, match="lacks 2700 of the 2700 files of scene15"):
        make_subset("scene15", [empty], tmp_path / "scenes")
    with pytest.raises(InputError, match="no such folder, zip or tar archive"):
        list(members([tmp_path / "gone.zip"]))
    (empty / "mine.txt").write_text("")
    with pytest.raises(InputError, match="is not empty"):
        make_subset("scene15", [tmp_path], empty)


def test_the_verb(tmp_path: Path) -> None:
    run = CliRunner().invoke(build_app(), ["data", "cub-50"])
    assert "sightline data cub-50 --from CUB_200_2011.tgz" in run.output
    assert "ilsvrc-val-650" in CliRunner().invoke(build_app(), ["data"]).output
    wrong = CliRunner().invoke(build_app(), ["data", "cub50"])
    assert "did you mean 'cub-50'" in str(wrong.exception)
