"""`sightline discover features|finegrained|units`: what they print and save, and every mistake in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataset_fixtures import write_cub_fixture, write_folder_fixture
from sightline.discovery.features import load_features
from sightline.discovery.linear import load_head

Run = Callable[..., Any]


@pytest.fixture
def model(weights: Path, tmp_path: Path) -> list[object]:
    """A random SqueezeNet with four classes, two of them the fixture's."""
    names = tmp_path / "names.txt"
    names.write_text("000 box\n001 disc\nzebra\nheron\n")
    return ["--model", "squeezenet1_1", "--weights", weights, "--categories", names]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_folder_fixture(tmp_path / "data", classes=3, per_class=4)
    return tmp_path / "data"


def test_features_of_photos(sightline: Run, photos: Path, model: list[object], tmp_path: Path) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    result = sightline("discover", "features", photos, *model, "--out", out, "--cache", cache)
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{out}/squeezenet1_1.npz: 3 images, 512 features of layer features\n"
    found = load_features(out / "squeezenet1_1.npz")
    assert [Path(name).name for name in found.ids] == ["a.png", "b.jpg", "c.png"]
    assert found.values.shape == (3, 512)
    assert len(list(cache.glob("*/shard-*.npy"))) == 1


def test_one_bad_photo(sightline: Run, photos: Path, model: list[object], tmp_path: Path) -> None:
    (photos / "b.jpg").write_bytes(b"")
    result = sightline(
        "discover", "features", photos, *model, "--out", tmp_path / "out", "--cache", tmp_path / "cache"
    )
    assert result.code == 3
    assert result.err == f"skipped {photos}/b.jpg is empty (0 bytes)\n"
    assert len(load_features(tmp_path / "out" / "squeezenet1_1.npz")) == 2


def test_an_svm_on_the_features(sightline: Run, data: Path, model: list[object], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = sightline(
        "discover", "features", "--data", data, "--train", "train", "--test", "val", *model,
        "--class", "000 box", "--class", "002 box", "--out", out, "--cache", tmp_path / "cache",
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert "on GAP features of 8 images of train; tested on 8 of val." in result.out
    assert "chance: the most frequent class" in result.out
    head = load_head(out / "squeezenet1_1-svm.npz")
    assert (head.classes, head.weight.shape) == (("000 box", "002 box"), (2, 512))
    results = json.loads((out / "results.json").read_text())
    assert results["rows"][0]["features"] == "squeezenet1_1"
    assert 0 <= results["rows"][0]["gt_known"] <= 1
    assert {path.name for path in out.iterdir()} == {
        "squeezenet1_1-train.npz", "squeezenet1_1-val.npz", "squeezenet1_1-svm.npz", "table.md", "table.csv",
        "results.json", "maps.png", "manifest.json",
    }  # fmt: skip


def test_only_what_the_model_does_not_know(
    sightline: Run, data: Path, model: list[object], tmp_path: Path
) -> None:
    result = sightline(
        "discover", "features", "--data", data, "--new-classes", *model, "--out", tmp_path / "out",
        "--cache", tmp_path / "cache",
    )  # fmt: skip
    assert result.code == 0
    assert "squeezenet1_1-train.npz: 4 images" in result.out  # 002 box alone


def test_fine_grained_on_cub(sightline: Run, model: list[object], tmp_path: Path) -> None:
    """The command for CUB-200-2011, on drawings in its layout."""
    write_cub_fixture(tmp_path / "cub", per_class=3)
    out = tmp_path / "out"
    result = sightline(
        "discover", "finegrained", "--data", tmp_path / "cub", "--dataset", "cub", *model, "--out", out,
        "--cache", tmp_path / "cache",
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    for words in ("full image", "crop to the predicted box", "crop to the true box", "tested on 9 of test"):
        assert words in result.out
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["options"]["maps_of"] == "the whole-image SVM"
    # the paper's rule: 20 % of the maximum, without a true box
    assert (manifest["options"]["threshold"], manifest["options"]["threshold_chosen_on"]) == (0.2, None)
    assert manifest["files"] == ["crops.png", "results.json", "table.csv", "table.md"]


def test_units_of_a_class(sightline: Run, data: Path, model: list[object], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = sightline(
        "discover", "units", "--data", data, *model, "--class", "001 disc", "--unit", 7, "--per-class", 1,
        "--top", 2, "--estimate-on", 1, "--window", 112, "--out", out,
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert "squeezenet1_1, layer 'features': 512 units; 12 images." in result.out
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [(row["class"], row["unit"]) for row in rows][1] == (None, 7)
    assert len(rows[0]["top_images"]) == 2
    assert (out / "poster.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["features"], "give either photos or --data with a data set"),
        (["features", "PHOTOS", "--data", "DATA"], "give either photos or --data with a data set"),
        (["features", "PHOTOS", "--format", "csv"], "unknown format 'csv'; valid: npz, parquet"),
        (["features", "EMPTY"], "is a folder without images"),
        (
            ["features", "--data", "DATA", "--choose-threshold-on", "val"],
            "--choose-threshold-on needs --test",
        ),
        (
            ["features", "--data", "DATA", "--test", "train"],
            "also in the training split train; test on others",
        ),
        (
            ["features", "--data", "DATA", "--class", "003 disc"],
            "unknown class '003 disc'; did you mean '001 disc'",
        ),
        (
            ["features", "--data", "DATA", "--test", "val", "--class", "000 box"],
            "1 class; a linear SVM needs 2",
        ),
        (
            ["features", "--data", "DATA", "--new-classes", "--class", "000 box"],
            "--class or --new-classes, not both",
        ),
        (["features", "--data", "EMPTY"], "EMPTY"),
        (
            ["finegrained", "--data", "DATA", "--train", "train-heldout", "--held-per-class", "1"],
            "has 1 image to",
        ),
        (["finegrained", "--data", "DATA", "--test", "test"], "test"),
        (["units", "PHOTOS", "--unit", "512"], "unit 512: layer 'features' has 512 units, 0 to 511"),
        (["units", "PHOTOS"], "give at least one class or unit"),
        (["units", "PHOTOS", "--class", "hero"], "unknown class 'hero'; did you mean 'heron'"),
        (["units", "--unit", "1"], "give either photos or --data with a data set"),
    ],
)
def test_mistakes(
    sightline: Run,
    photos: Path,
    data: Path,
    model: list[object],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    empty = tmp_path / "EMPTY"
    empty.mkdir()
    places = {"PHOTOS": photos, "DATA": data, "EMPTY": empty}
    more = [] if arguments[0] == "units" else ["--cache", tmp_path / "cache"]
    result = sightline(
        "discover", *[places.get(word, word) for word in arguments], *model, *more, "--out", tmp_path / "out"
    )
    assert result.code == 2
    assert message in result.err
    assert result.err.startswith("sightline: ")
    assert result.err.count("\n") == 1


def test_help_has_examples(sightline: Run) -> None:
    for verb in ("features", "finegrained", "units"):
        text = sightline("discover", verb, "--help").out
        assert f"sightline discover {verb} " in text
