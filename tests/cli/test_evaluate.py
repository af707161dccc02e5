"""`sightline evaluate`: what it prints and saves, and every mistake in one line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_fixtures import write_folder_fixture, write_tiny_imagenet_fixture, write_wsol_fixture
from sightline.data import load_dataset

Run = Callable[..., Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "tiny"
    write_tiny_imagenet_fixture(root, classes=4, per_class=3)
    return root


@pytest.fixture
def model(weights: Path, tmp_path: Path) -> list[object]:
    """A random SqueezeNet whose four classes are called as the fixture's."""
    names = tmp_path / "names.txt"
    names.write_text("000 box\n001 disc\n002 box\n003 disc\n")
    return ["--model", "squeezenet1_1", "--weights", weights, "--categories", names, "--input-size", 64]


def test_a_table_and_its_files(sightline: Run, data: Path, model: list[object], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = sightline(
        "evaluate", "--data", data, *model, "--method", "cam", "--method", "gradcam:flip",
        "--standard", "max", "--standard", "percentile", "--choose-threshold-on", "train-heldout",
        "--held-per-class", 1, "--resamples", 20, "--out", out,
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert "tiny-imagenet, split val: 12 images." in result.out
    assert "the best of split train-heldout (4 images)" in result.out
    for word in (
        "cam",
        "gradcam flip",
        "centre box (margin 1/8)",
        "best constant box of train-heldout",
        "003 disc",
    ):
        assert word in result.out
    assert {path.name for path in out.iterdir()} == {
        "table.md", "table.csv", "per_class.csv", "results.json", "manifest.json", "curve.png",
        *(f"contact_sheet_0{n}.png" for n in range(1, 5)),
    }  # fmt: skip
    results = json.loads((out / "results.json").read_text())
    assert [(row["method"], row["standard"]) for row in results["rows"]] == [
        ("cam", "max"),
        ("cam", "percentile"),
        ("gradcam flip", "max"),
        ("gradcam flip", "percentile"),
    ]
    assert results["settings"]["choose_on"] == "train-heldout"
    with (out / "table.csv").open() as file:
        line = next(csv.DictReader(file))
    assert float(line["gt_known_fixed"]) == results["rows"][0]["scores"]["gt_known_fixed"]["value"]


def test_json_and_nothing_else(sightline: Run, data: Path, model: list[object], tmp_path: Path) -> None:
    from sightline.evaluation import evaluate
    from sightline.models.loading import load_model

    result = sightline(
        "evaluate",
        "--data",
        data,
        *model,
        "--limit",
        6,
        "--resamples",
        20,
        "--json",
        "--out",
        tmp_path / "out",
    )
    assert (result.code, result.err) == (0, "")
    printed = json.loads(result.out)
    assert printed == json.loads((tmp_path / "out" / "results.json").read_text())
    names = ["000 box", "001 disc", "002 box", "003 disc"]
    loaded = load_model("squeezenet1_1", weights=model[3], categories=names)  # type: ignore[arg-type]
    same = evaluate(loaded, load_dataset(data), ["cam"], input_size=64, limit=6, resamples=20)
    assert printed["rows"][0]["scores"] == same.as_dict()["rows"][0]["scores"]


def test_saved_maps_alone(sightline: Run, tmp_path: Path) -> None:
    """Maps that are the drawn boxes themselves find every box; one is missing and is skipped, with exit code 3."""
    write_folder_fixture(tmp_path / "data", classes=3, per_class=2)
    dataset = load_dataset(tmp_path / "data", "folder")
    maps = tmp_path / "maps"
    for sample in dataset.samples:
        values = np.zeros((48, 60), np.float32)
        x0, y0, x1, y1 = (int(edge) for edge in sample.boxes_xyxy[0].tolist())
        values[y0:y1, x0:x1] = 1
        (maps / sample.id).parent.mkdir(parents=True, exist_ok=True)
        np.save(maps / f"{sample.id}.npy", values)
    command = [
        "evaluate",
        "--data",
        tmp_path / "data",
        "--dataset",
        "folder",
        "--heatmaps",
        maps,
        "--resamples",
        9,
    ]
    result = sightline(*command, "--out", tmp_path / "out")
    assert (result.code, result.err) == (0, "")
    assert "100.0 at τ=0.2" in result.out
    (maps / f"{dataset[0].id}.npy").unlink()
    refused = sightline(*command, "--out", tmp_path / "refused")
    assert refused.code == 2
    assert refused.err.startswith(f"sightline: 1 image cannot be scored: {dataset[0].id}: no map in")
    assert not (tmp_path / "refused").exists()
    skipped = sightline(*command, "--out", tmp_path / "out", "--on-bad", "skip")
    assert skipped.code == 3
    assert f"skipped {dataset[0].id}: " in skipped.err
    sized = sightline(*command, "--out", tmp_path / "out", "--heatmap-size", "48x48", "--on-bad", "refuse")
    assert sized.code == 2
    assert "48×60" in sized.err
    assert "48×48" in sized.err


def test_pxap_on_the_masks_of_wsolevaluation(sightline: Run, model: list[object], tmp_path: Path) -> None:
    write_wsol_fixture(tmp_path, name="OpenImages", masks=True, classes=4, per_class=1)
    names = tmp_path / "numbers.txt"
    names.write_text("0\n1\n2\n3\n")
    changed = [names if str(part).endswith("names.txt") else part for part in model]
    result = sightline(
        "evaluate", "--data", tmp_path / "metadata" / "OpenImages", "--split", "test", *changed,
        "--protocol", "pxap", "--resamples", 9, "--out", tmp_path / "out",
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert "PxAP" in result.out
    score = json.loads((tmp_path / "out" / "results.json").read_text())["rows"][0]["scores"]["pxap"]
    assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "test"], "unknown split 'test'"),
        (["--dataset", "tiny-imagnet"], "unknown dataset 'tiny-imagnet'; did you mean 'tiny-imagenet'"),
        (["--choose-threshold-on", "val"], "chosen on val and reported on val"),
        (["--method", "gradcan"], "unknown method 'gradcan'; did you mean 'gradcam'"),
        (["--option", "nvc=true"], "unknown option of cam: 'nvc'; did you mean 'nwc'"),
        (["--standard", "maximum"], "unknown relative_to 'maximum'"),
        (["--threshold", "0.1234"], "not on the grid"),
        (["--heatmap-size", "big"], "--heatmap-size 'big'; expected photo, or HEIGHTxWIDTH"),
        (["--data-option", "x"], "data option 'x'; expected NAME=VALUE"),
        (["--data-option", "x=1"], "unknown option of dataset 'tiny-imagenet'"),
        (["--weights", "another"], "2 --weights for 1 --model"),
        (["--layer", "nowhere"], "unknown layer 'nowhere'"),
    ],
)
def test_one_line_for_every_mistake(
    sightline: Run, data: Path, model: list[object], tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = sightline("evaluate", "--data", data, *model, *arguments, "--out", tmp_path / "out")
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert result.err.startswith("sightline: ")


def test_a_model_of_other_classes(
    sightline: Run, data: Path, weights: Path, names: Path, tmp_path: Path
) -> None:
    result = sightline(
        "evaluate", "--data", data, "-m", "squeezenet1_1", "--weights", weights, "--categories", names,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.code == 2
    assert (
        "squeezenet1_1 has 4 classes and the data set 4, of which 4 are not among the model's" in result.err
    )


def test_a_published_network_on_real_photos_without_boxes(
    sightline: Run, shared: Path, tmp_path: Path
) -> None:
    """SqueezeNet on ImageNet photos filed under their WordNet ids: classification only."""
    photos = sorted((shared / "data" / "imagenet-sample").glob("*.JPEG"))[::10]
    if not photos:
        pytest.skip("no ImageNet photos in the shared folder")
    for photo in photos:
        folder = tmp_path / "photos" / "val" / photo.name.split("_")[0]
        folder.mkdir(parents=True)
        (folder / photo.name).symlink_to(photo.resolve())
    result = sightline(
        "evaluate", "--data", tmp_path / "photos", "-m", "squeezenet1_1", "--view", "crop",
        "--weights", shared / "weights" / "squeezenet1_1.safetensors", "--out", tmp_path / "out",
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert "classification only" in result.out
    scores = json.loads((tmp_path / "out" / "results.json").read_text())["rows"][0]["scores"]
    assert scores["top5_cls_error"]["value"] <= 0.5
