"""One door to every layout: names, recognition, options, held-out parts, and a claim about real data."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import dataset_fixtures as fixtures
from drawings import Drawing
from sightline.boxes import centre_box, iou
from sightline.data import (
    detect_dataset,
    get_dataset,
    list_datasets,
    load_dataset,
    parse_data_options,
    register_dataset,
    unregister_dataset,
)
from sightline.errors import InputError
from sightline.types import Dataset, Sample

SHARED = Path(os.environ.get("SIGHTLINE_SHARED", "../shared"))
TINY = SHARED / "data" / "tiny-imagenet-40.zip"
WRITERS = {
    "tiny-imagenet": fixtures.write_tiny_imagenet_fixture,
    "cub": fixtures.write_cub_fixture,
    "ilsvrc": fixtures.write_ilsvrc_fixture,
    "voc": fixtures.write_voc_fixture,
    "coco": fixtures.write_coco_fixture,
    "wsol": fixtures.write_wsol_fixture,
    "yolo": fixtures.write_yolo_fixture,
    "cvat": fixtures.write_cvat_fixture,
    "label-studio": fixtures.write_label_studio_fixture,
    "svt": fixtures.write_svt_fixture,
    "folder": fixtures.write_folder_fixture,
}


def root_of(name: str, folder: Path) -> Path:
    return folder / "metadata" / "CUB" if name == "wsol" else folder


def test_every_layout_has_a_fixture() -> None:
    assert list_datasets() == list(WRITERS)


@pytest.mark.parametrize("name", WRITERS)
def test_layouts_are_recognised_and_read(tmp_path: Path, name: str) -> None:
    drawn: dict[str, list[Drawing]] = WRITERS[name](tmp_path)
    root = root_of(name, tmp_path)
    assert detect_dataset(root) == name
    options = {"allow_empty": True} if name == "voc" else {}
    for split, items in drawn.items():
        dataset = load_dataset(root, split=split, **options)
        assert dataset.split == split
        named = load_dataset(root, name, split, **options)
        assert [s.id for s in dataset.samples] == [s.id for s in named.samples]
        files = {str(sample.source) for sample in dataset.samples}
        assert len(files) == len(items)
        assert all(Path(file).is_file() for file in files)


def test_tiny_imagenet_reads_what_was_drawn(tmp_path: Path, same: Callable[..., None]) -> None:
    drawn = fixtures.write_tiny_imagenet_fixture(tmp_path)
    for split in ("train", "val"):
        same(load_dataset(tmp_path, split=split), drawn[split])


def test_held_out_parts_are_disjoint_and_whole(tmp_path: Path) -> None:
    fixtures.write_folder_fixture(tmp_path)
    fit, held = (
        load_dataset(tmp_path, split=f"train-{part}", held_per_class=1) for part in ("fit", "heldout")
    )
    assert (fit.split, held.split) == ("train-fit", "train-heldout")
    assert [sample.label for sample in held.samples] == [0, 1, 2]
    together = sorted(sample.id for sample in [*fit.samples, *held.samples])
    assert together == sorted(sample.id for sample in load_dataset(tmp_path, split="train").samples)


def test_several_samples_of_one_image_are_not_split(tmp_path: Path) -> None:
    fixtures.write_coco_fixture(tmp_path)
    with pytest.raises(
        InputError, match="split 'train-fit': coco lists an image once for each of its classes"
    ):
        load_dataset(tmp_path, split="train-fit", held_per_class=1)


def test_options_reach_the_adapter_and_strange_ones_are_named(tmp_path: Path) -> None:
    fixtures.write_ilsvrc_fixture(tmp_path)
    assert len(load_dataset(tmp_path, "ilsvrc", blacklist=True)) == 11
    with pytest.raises(
        InputError, match=r"unknown option of dataset 'ilsvrc' 'black_list'; did you mean 'blacklist'\?"
    ):
        load_dataset(tmp_path, "ilsvrc", black_list=True)


def test_what_has_no_known_layout(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"no layout known here: it is empty; give dataset= \(--dataset\), one of tiny-imagenet, cub,",
    ):
        detect_dataset(tmp_path)
    with pytest.raises(InputError, match="no such folder or zip archive"):
        load_dataset(tmp_path / "gone")


def test_an_archive_is_looked_into(tmp_path: Path) -> None:
    """Not every zip is Tiny ImageNet: what it holds instead is said."""
    drawn = tmp_path / "drawn"
    fixtures.write_tiny_imagenet_fixture(drawn)
    tiny = shutil.make_archive(str(tmp_path / "tiny"), "zip", drawn)
    assert detect_dataset(tiny) == "tiny-imagenet"
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        for name in ("photos/a.jpg", "photos/b.jpg", "readme.txt", "z.txt"):
            archive.writestr(name, b"")
    with pytest.raises(
        InputError, match=r"no layout known here: it holds photos/a\.jpg, photos/b\.jpg, readme\.txt, …;"
    ):
        detect_dataset(tmp_path / "other.zip")
    (tmp_path / "no.zip").write_bytes(b"no archive")
    with pytest.raises(InputError, match="it is neither a folder nor a zip archive"):
        detect_dataset(tmp_path / "no.zip")


def test_a_data_set_of_the_user_s_own_is_one_function(tmp_path: Path) -> None:
    """It is recognised before the built-in ones and read with its own options; a twin of a built-in one hides it."""

    @register_dataset("mine", recognise=lambda root: (root / "mine.txt").is_file())
    def read_mine(root: Path, split: str = "val", *, names: list[str] | None = None) -> Dataset:
        """What this test reads."""
        return Dataset("mine", split, [Sample("a", root / "a.jpg", 0)], tuple(names or ["thing"]))

    def read_other(root: Path, split: str = "val") -> Dataset:
        return Dataset("other", split, [], ())

    with pytest.warns(UserWarning, match="'cub' .*hides the built-in one"):
        register_dataset("cub")(read_other)

    fixtures.write_folder_fixture(tmp_path)
    (tmp_path / "mine.txt").write_text("")
    try:
        assert list_datasets()[:2] == ["cub", "mine"]
        assert detect_dataset(tmp_path) == "mine"
        options = parse_data_options(tmp_path, None, ["names=dog,cat"])
        assert load_dataset(tmp_path, **options).categories == ("dog", "cat")
        assert load_dataset(tmp_path, "cub").name == "other"
        with pytest.raises(InputError, match="unknown option of dataset 'cub' 'names': it has no options"):
            parse_data_options(tmp_path, "cub", ["names=a"])
    finally:
        unregister_dataset("mine")
        unregister_dataset("cub")
    assert detect_dataset(tmp_path) == "folder"
    assert get_dataset("cub").order == 20


def test_options_are_read_by_the_adapter_s_annotations(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("tabby, tabby cat\ntiger cat\n\n")
    for pair, expected in (
        ("categories=dog, cat", ["dog", "cat"]),
        ("categories=dog", ["dog"]),
        (f"categories=@{names}", ["tabby, tabby cat", "tiger cat"]),
        ("keep_difficult=yes", True),
        ("bad_boxes=skip", "skip"),
    ):
        assert parse_data_options("VOCdevkit", "voc", [pair]) == {pair.split("=")[0]: expected}
    assert parse_data_options("metadata", "wsol", ["images=none", "masks=a"]) == {
        "images": None,
        "masks": "a",
    }
    for pair, message in (
        ("keep_difficult=2", "option keep_difficult='2' of dataset voc: expected true or false"),
        ("category=dog", "unknown option of dataset 'voc' 'category'; did you mean 'categories'"),
        ("categories", "data option 'categories'; expected NAME=VALUE, e.g. images=FOLDER"),
        ("categories=@gone.txt", "@gone.txt: no such file or folder: 'gone.txt'"),
    ):
        with pytest.raises(InputError) as caught:
            parse_data_options("VOCdevkit", "voc", [pair])
        assert message in str(caught.value)


def test_importing_the_room_is_light() -> None:
    code = (
        "import sys, sightline.data; print([m for m in ('scipy', 'PIL', 'numba', 'cv2') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.skipif(not TINY.exists(), reason=f"{TINY} is not here")
def test_the_centre_box_scores_half_on_the_real_validation_images() -> None:
    """A box with an 8-pixel margin reaches IoU 0.5 on 50.8 % of the 1,200: what any localiser must beat."""
    dataset = load_dataset(TINY, split="val")
    assert len(dataset) == 1200
    centre = centre_box((64, 64), 8)
    boxes = torch.cat([sample.boxes_xyxy for sample in dataset.samples])
    hits = int((iou(boxes, centre.reshape(1, 4)) >= 0.5).sum())
    assert round(100 * hits / 1200, 1) == 50.8
