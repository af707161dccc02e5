"""ILSVRC CLS-LOC in the devkit's form and in Kaggle's: read back as drawn, and every way to get it wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from dataset_fixtures import wnids, write_ilsvrc_fixture
from sightline.data.adapters.ilsvrc import read_ilsvrc
from sightline.data.adapters.ilsvrc_devkit import DevkitFiles, read_categories
from sightline.errors import InputError

IDS = wnids(3)
DEVKIT = "ILSVRC2012_devkit_t12/data"
TRUTH = f"{DEVKIT}/ILSVRC2012_validation_ground_truth.txt"
VAL_XML = "ILSVRC/Annotations/CLS-LOC/val"
VAL_IMAGES = "ILSVRC/Data/CLS-LOC/val"


@pytest.mark.parametrize("form", ["devkit", "kaggle"])
@pytest.mark.parametrize("inner", ["", "ILSVRC"])
def test_reads_what_was_drawn(tmp_path: Path, same: Callable[..., None], form: str, inner: str) -> None:
    drawn = write_ilsvrc_fixture(tmp_path, form=form)
    val = read_ilsvrc(tmp_path / inner)
    same(val, drawn["val"])
    assert [s.label for s in val.samples] == [item.label for item in drawn["val"]]
    same(read_ilsvrc(tmp_path / inner, "train", boxes=True), drawn["train"])
    assert (val.name, val.split, val.categories) == ("ilsvrc", "val", ("000 box", "001 disc", "002 box"))
    assert val[0].source == tmp_path / VAL_IMAGES / "ILSVRC2012_val_00000001.JPEG"


def test_training_boxes_are_not_read_unless_asked_for(tmp_path: Path) -> None:
    write_ilsvrc_fixture(tmp_path)
    shutil.rmtree(tmp_path / "ILSVRC/Annotations")
    train = read_ilsvrc(tmp_path, "train")
    assert [s.boxes_xyxy.shape[0] for s in train.samples] == [0] * 12
    assert train[0].id == f"{IDS[0]}_0.JPEG"
    with pytest.raises(
        InputError, match=r"line 1: .*val/ILSVRC2012_val_00000001\.xml is missing; boxes=False reads"
    ):
        read_ilsvrc(tmp_path)
    assert [s.label for s in read_ilsvrc(tmp_path, boxes=False).samples] == [0, 1, 2] * 4


def test_literal_boxes_inclusive_in_the_file_and_only_those_of_the_label(
    tmp_path: Path, edit: Callable[..., None]
) -> None:
    """The first validation image of the real set: xmin 111, ymin 108, xmax 441, ymax 193 of 500×375."""
    write_ilsvrc_fixture(tmp_path)
    corners = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
    thing = "<object><name>{}</name><bndbox>" + corners + "</bndbox></object>"
    objects = thing.format(IDS[0], 111, 108, 441, 193) + thing.format(IDS[1], 1, 2, 3, 4)
    size = "<size><width>500</width><height>375</height></size>"
    (tmp_path / VAL_XML / "ILSVRC2012_val_00000001.xml").write_text(
        f"<annotation>{size}{objects}</annotation>"
    )
    assert read_ilsvrc(tmp_path)[0].boxes_xyxy.tolist() == [[111, 108, 442, 194]]


def test_kaggles_table_serves_where_there_is_no_xml(tmp_path: Path, same: Callable[..., None]) -> None:
    drawn = write_ilsvrc_fixture(tmp_path, form="kaggle")
    shutil.rmtree(tmp_path / VAL_XML)
    same(read_ilsvrc(tmp_path), drawn["val"])


def test_class_folders_serve_where_there_is_no_table(tmp_path: Path, same: Callable[..., None]) -> None:
    drawn = write_ilsvrc_fixture(tmp_path)
    shutil.rmtree(tmp_path / "ILSVRC2012_devkit_t12")
    shutil.rmtree(tmp_path / "ILSVRC/ImageSets")
    with pytest.raises(
        InputError, match=r"no labels for .*CLS-LOC/val: expected LOC_val_solution\.csv, the devkit's"
    ):
        read_ilsvrc(tmp_path)
    for number, item in enumerate(drawn["val"], 1):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        (tmp_path / VAL_IMAGES / IDS[item.label]).mkdir(exist_ok=True)
        (tmp_path / VAL_IMAGES / name).rename(tmp_path / VAL_IMAGES / IDS[item.label] / name)
    val = read_ilsvrc(tmp_path)
    same(val, drawn["val"])
    assert val.categories == tuple(IDS)  # nothing here says what they are called
    assert len(read_ilsvrc(tmp_path, "train")) == 12


@pytest.mark.parametrize("table", ["map_clsloc.txt", "meta_clsloc.mat"])
def test_later_devkits(tmp_path: Path, same: Callable[..., None], table: str) -> None:
    drawn = write_ilsvrc_fixture(tmp_path)
    data = tmp_path / "ILSVRC" / "devkit" / "data"
    data.parent.mkdir()
    (tmp_path / DEVKIT).rename(data)
    (data / "meta.mat").unlink()
    (data / "ILSVRC2012_validation_ground_truth.txt").rename(
        data / "ILSVRC2015_clsloc_validation_ground_truth.txt"
    )
    classes = [(3 - label, wnid, f"a_thing_{label}") for label, wnid in enumerate(IDS)]
    if table == "map_clsloc.txt":
        (data / table).write_text("".join(f"{wnid} {number} {name}\n" for number, wnid, name in classes))
    else:
        fields = [(name, object) for name in ("ILSVRC2015_CLSLOC_ID", "WNID", "name")]
        savemat(data / table, {"synsets": np.array(classes, dtype=fields).reshape(1, -1)})
    val = read_ilsvrc(tmp_path)
    same(val, drawn["val"])
    assert val.categories == ("a thing 0", "a thing 1", "a thing 2")


def test_the_blacklist_names_images_by_number(tmp_path: Path) -> None:
    write_ilsvrc_fixture(tmp_path)
    assert len(read_ilsvrc(tmp_path)) == 12
    assert [s.id for s in read_ilsvrc(tmp_path, blacklist=True).samples] == [
        f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 12)
    ]
    with pytest.raises(InputError, match="blacklist=True is for split 'val'"):
        read_ilsvrc(tmp_path, "train", blacklist=True)
    (tmp_path / DEVKIT / "ILSVRC2014_clsloc_validation_blacklist.txt").unlink()
    with pytest.raises(
        InputError, match=r"the blacklist is missing; expected ILSVRC20\*_clsloc_validation_blacklist"
    ):
        read_ilsvrc(tmp_path, blacklist=True)


def test_order_and_names_of_the_thousand_classes_are_torchvisions(tmp_path: Path) -> None:
    """The real synsets (timm has them offline), shuffled in the file, come out as torchvision's list."""
    from timm.data import ImageNetInfo
    from torchvision.models import ResNet18_Weights

    info = ImageNetInfo()
    lines = [f"{info.index_to_label_name(i)} {info.index_to_description(i)}\n" for i in range(1000)]
    (tmp_path / "LOC_synset_mapping.txt").write_text("".join(lines[500:] + lines[:500]))
    names = read_categories(DevkitFiles(tmp_path))
    assert [names[wnid] for wnid in sorted(names)] == ResNet18_Weights.DEFAULT.meta["categories"]


@pytest.mark.parametrize(
    ("file", "line", "text", "message"),
    [
        (TRUTH, 2, "x", r"ground_truth\.txt, line 2: expected a whole number for class, got 'x'"),
        (TRUTH, 2, "1 2", r"ground_truth\.txt, line 2: expected 1 columns \(class\), got 2: '1 2'"),
        (TRUTH, 2, "4", r"ground_truth\.txt, line 2: class 4 is not in the devkit's table of 3 classes"),
        (TRUTH, 12, "1\n1\n", r"ground_truth\.txt, line 13: .*ILSVRC2012_val_00000013\.JPEG is missing"),
        (
            f"{VAL_XML}/ILSVRC2012_val_00000003.xml",
            2,
            "<size",
            r"val_00000003\.xml, line \d: not well-formed XML",
        ),
        (
            f"{VAL_XML}/ILSVRC2012_val_00000003.xml",
            5,
            "<bndbox><xmin>9</xmin><ymin>2</ymin><xmax>4</xmax><ymax>9</ymax></bndbox>",
            r"val_00000003\.xml, line 4: box x0 y0 x1 y1 = 9 2 5 10 has width -4 and height 8; bad_boxes='skip'",
        ),
        (
            f"{VAL_XML}/ILSVRC2012_val_00000003.xml",
            5,
            "<bndbox><xmin>9</xmin><ymin>2</ymin><xmax>61</xmax><ymax>9</ymax></bndbox>",
            r"line 4: box x0 y0 x1 y1 = 9 2 62 10 lies 2 pixels outside its image of 60×48 pixels",
        ),
    ],
)
def test_malformed_files_of_the_devkits_form(
    tmp_path: Path, edit: Callable[..., None], file: str, line: int, text: str, message: str
) -> None:
    write_ilsvrc_fixture(tmp_path)
    edit(tmp_path / file, line, text)
    with pytest.raises(InputError, match=message):
        read_ilsvrc(tmp_path)


@pytest.mark.parametrize(
    ("file", "line", "text", "message"),
    [
        (
            "LOC_val_solution.csv",
            3,
            "ILSVRC2012_val_00000002",
            r"line 3: expected 2 columns \(ImageId, PredictionString\)",
        ),
        (
            "LOC_val_solution.csv",
            3,
            "x,n10000000 1 2 3",
            r"line 3: expected 'WNID x0 y0 x1 y1 …', got 'n10000000 1 2 3'",
        ),
        (
            "LOC_val_solution.csv",
            3,
            "x,n10000000 1 2 3 4",
            r"LOC_val_solution\.csv, line 3: .*val/x\.JPEG is missing",
        ),
        (
            "LOC_val_solution.csv",
            3,
            "x,n99999999 1 2 3 4",
            r"unknown class 'n99999999'.* \(.*LOC_val_solution\.csv, line 3\)",
        ),
        (
            "LOC_synset_mapping.txt",
            2,
            "n10000037",
            r"LOC_synset_mapping\.txt, line 2: expected 2 columns \(wnid, words\)",
        ),
        (
            "LOC_synset_mapping.txt",
            3,
            "n10000074 x\nn10000099 dodo",
            "split 'val' has no image of class 'dodo'; allow_empty",
        ),
    ],
)
def test_malformed_files_of_kaggles_form(
    tmp_path: Path, edit: Callable[..., None], file: str, line: int, text: str, message: str
) -> None:
    write_ilsvrc_fixture(tmp_path, form="kaggle")
    edit(tmp_path / file, line, text)
    with pytest.raises(InputError, match=message):
        read_ilsvrc(tmp_path)


@pytest.mark.parametrize("content", ["short", "no mat file at all " * 99, "other", "cut"])
def test_a_table_of_synsets_that_is_none(tmp_path: Path, content: str) -> None:
    write_ilsvrc_fixture(tmp_path)
    path = tmp_path / DEVKIT / "meta.mat"
    if content == "other":
        savemat(path, {"synsets": np.array([(1, 2)], dtype=[("a", object), ("b", object)])})
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:400])
    else:
        path.write_text(content)
    with pytest.raises(InputError, match=r"meta\.mat is not the devkit's table of synsets \(\w+"):
        read_ilsvrc(tmp_path)


def test_a_label_of_train_without_an_image(tmp_path: Path) -> None:
    write_ilsvrc_fixture(tmp_path)
    (tmp_path / f"ILSVRC/Data/CLS-LOC/train/{IDS[1]}/{IDS[1]}_1.JPEG").unlink()
    with pytest.raises(InputError, match=rf"train_cls\.txt, line 2: .*{IDS[1]}_1\.JPEG is missing"):
        read_ilsvrc(tmp_path, "train")


def test_skipping_bad_boxes_counts_them(tmp_path: Path, edit: Callable[..., None]) -> None:
    write_ilsvrc_fixture(tmp_path)
    bad = "<bndbox><xmin>9</xmin><ymin>2</ymin><xmax>4</xmax><ymax>9</ymax></bndbox>"
    edit(tmp_path / VAL_XML / "ILSVRC2012_val_00000001.xml", 5, bad)
    with pytest.warns(UserWarning, match=r"skipped 1 of 16 boxes:\n  .*val_00000001\.xml, line 4"):
        assert read_ilsvrc(tmp_path, bad_boxes="skip")[0].boxes_xyxy.shape == (0, 4)


def test_no_image_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ilsvrc_fixture(tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(Image, "open", refuse)
    assert len(read_ilsvrc(tmp_path)) == 12


def test_test_has_no_labels_and_nothing_is_no_layout(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"unknown split 'test'; valid: train, val \(the labels of test are not public\)"
    ):
        read_ilsvrc(tmp_path, "test")
    (tmp_path / "ILSVRC/Data/CLS-LOC").mkdir(parents=True)
    with pytest.raises(
        InputError, match=r"no list of classes; expected LOC_synset_mapping\.txt, a devkit, or train"
    ):
        read_ilsvrc(tmp_path)
