"""Tiny ImageNet in its official layout: a folder, the zip itself, and everything that can be wrong in them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from PIL import Image

from sightline.data.adapters.tiny_imagenet import read_tiny_imagenet
from sightline.data.images import read_image
from sightline.data.splits import hold_out
from sightline.errors import InputError
from sightline.types import ZipMember

WORDS = "n01\tdog, domestic dog\nn02\tcrane\nn03\tcrane\nn99\tnever used\n"


def write(root: Path, per_class: int = 2) -> Path:
    """Three classes in the official layout."""
    root.mkdir(parents=True)
    (root / "wnids.txt").write_text("n02\nn01\nn03\n")
    (root / "words.txt").write_text(WORDS)
    lines = []
    for number, wnid in enumerate(["n02", "n01", "n03"]):
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        rows = []
        for i in range(per_class):
            Image.new("RGB", (64, 64), (number, i, 0)).save(images / f"{wnid}_{i}.JPEG")
            rows.append(f"{wnid}_{i}.JPEG\t0\t{i}\t63\t{i}\n")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("".join(rows))
        lines.append(f"val_{number}.JPEG\t{wnid}\t1\t2\t3\t4\n")
    (root / "val" / "images").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (64, 64)).save(root / "val" / "images" / f"val_{number}.JPEG")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def zipped(folder: Path, top: str = "tiny-imagenet-200/") -> Path:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, top + path.relative_to(folder).as_posix())
    return archive


def test_a_folder(tmp_path):
    data = read_tiny_imagenet(write(tmp_path / "tiny"), "train")
    assert data.categories == ("crane (n02)", "dog", "crane (n03)")  # the order of wnids.txt
    assert [(s.id, s.label) for s in data.samples][:3] == [
        ("n02_0.JPEG", 0),
        ("n02_1.JPEG", 0),
        ("n01_0.JPEG", 1),
    ]
    # Inclusive corners 0 1 63 1 are a row of pixels: one high, 64 wide.
    assert data[1].boxes_xyxy.tolist() == [[0.0, 1.0, 64.0, 2.0]]
    val = read_tiny_imagenet(tmp_path / "tiny", "val")
    assert [(s.id, s.label, s.boxes_xyxy.tolist()) for s in val.samples][1] == (
        "val_1.JPEG",
        1,
        [[1, 2, 4, 5]],
    )


@pytest.mark.parametrize("top", ["", "tiny-imagenet-200/"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_the_zip_itself_equals_its_folder(tmp_path, top, split):
    folder = write(tmp_path / "tiny")
    archive = zipped(folder, top)
    left, right = read_tiny_imagenet(folder, split), read_tiny_imagenet(archive, split)
    assert left.categories == right.categories
    for a, b in zip(left.samples, right.samples, strict=True):
        assert (a.id, a.label, a.boxes_xyxy.tolist()) == (b.id, b.label, b.boxes_xyxy.tolist())
        assert isinstance(b.source, ZipMember)
        assert read_image(a.source).tobytes() == read_image(b.source).tobytes()


def test_a_folder_around_the_folder(tmp_path):
    write(tmp_path / "outer" / "tiny-imagenet-200")
    assert len(read_tiny_imagenet(tmp_path / "outer", "val")) == 3


def edit(root: Path, name: str, text: str) -> None:
    (root / name).write_text(text)


@pytest.mark.parametrize(
    ("name", "text", "split", "message"),
    [
        (
            "val/val_annotations.txt",
            "val_0.JPEG\tn01\t1\t2\t3\n",
            "val",
            r"val_annotations\.txt, line 1: expected 6 columns",
        ),
        (
            "val/val_annotations.txt",
            "\nval_0.JPEG\tn01\t1\t2\t3\tx\n",
            "val",
            "line 2: expected 4 whole numbers",
        ),
        (
            "val/val_annotations.txt",
            "val_0.JPEG\tn01\t9\t2\t3\t4\n",
            "val",
            "line 1: box 9 2 3 4 has no area",
        ),
        ("val/val_annotations.txt", "val_0.JPEG\tn01\t1\t2\t3\t64\n", "val", "extends outside its image"),
        ("val/val_annotations.txt", "val_0.JPEG\tn01\t-1\t2\t3\t4\n", "val", "extends outside its image"),
        (
            "val/val_annotations.txt",
            "val_0.JPEG\tn04\t1\t2\t3\t4\n",
            "val",
            "unknown wnid 'n04'; did you mean",
        ),
        (
            "val/val_annotations.txt",
            "val_9.JPEG\tn01\t1\t2\t3\t4\n",
            "val",
            r"line 1: .*val_9\.JPEG is missing",
        ),
        ("train/n01/n01_boxes.txt", "", "train", "class n01 is empty"),
        ("train/n01/n01_boxes.txt", "n01_7.JPEG\t1\t2\t3\t4\n", "train", r"line 1: .*n01_7\.JPEG is missing"),
        ("train/n01/n01_boxes.txt", "n01_0.JPEG\t1\t2\t3\n", "train", "line 1: expected 4 whole numbers"),
        ("words.txt", "n01\tdog\n", "train", r"words\.txt has no words for n02, n03"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, name, text, split, message):
    root = write(tmp_path / "tiny")
    edit(root, name, text)
    with pytest.raises(InputError, match=message):
        read_tiny_imagenet(root, split)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="no such folder or zip"):
        read_tiny_imagenet(tmp_path / "nowhere")
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(InputError, match="neither a folder nor a zip"):
        read_tiny_imagenet(tmp_path / "text.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no wnids\.txt"):
        read_tiny_imagenet(tmp_path / "empty")
    root = write(tmp_path / "tiny")
    (root / "val" / "val_annotations.txt").unlink()
    with pytest.raises(InputError, match=r"val_annotations\.txt is missing"):
        read_tiny_imagenet(root, "val")
    with pytest.raises(InputError, match="did you mean 'val'"):
        read_tiny_imagenet(root, "vall")


def test_holding_out_is_a_partition_that_no_order_changes(tmp_path):
    data = read_tiny_imagenet(write(tmp_path / "tiny", per_class=6), "train")
    fit, held = hold_out(data, per_class=2)
    assert sorted([s.id for s in fit.samples] + [s.id for s in held.samples]) == sorted(
        s.id for s in data.samples
    )
    assert [[s.label for s in held.samples].count(label) for label in range(3)] == [2, 2, 2]
    backwards = hold_out(type(data)(data.name, data.split, data.samples[::-1], data.categories), per_class=2)[
        1
    ]
    assert {s.id for s in backwards.samples} == {s.id for s in held.samples}
    assert {s.id for s in hold_out(data, per_class=2, seed=1)[1].samples} != {s.id for s in held.samples}
    # A hash decides, so these names hold on any machine and in any version of Python.
    assert [s.id for s in held.samples] == HELD
    with pytest.raises(InputError, match="has 6 samples; holding out 6 leaves none"):
        hold_out(data, per_class=6)


HELD = ["n02_0.JPEG", "n02_1.JPEG", "n01_1.JPEG", "n01_2.JPEG", "n03_0.JPEG", "n03_1.JPEG"]


def test_the_real_thing(shared_tiny):
    data = read_tiny_imagenet(shared_tiny, "val")
    assert len(data) == 1200
    assert len(data.categories) == 40
    counts = [0] * 40
    for sample in data.samples:
        counts[sample.label] += 1
    assert counts == [30] * 40


@pytest.fixture
def shared_tiny() -> Path:
    import os

    path = Path(os.environ.get("SIGHTLINE_SHARED", "../shared")) / "data" / "tiny-imagenet-40.zip"
    if not path.exists():
        pytest.skip("tiny-imagenet-40.zip is not at hand (set SIGHTLINE_SHARED)")
    return path
