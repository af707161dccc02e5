"""What a notebook shows: the panel, one short text, a table, and the explorer's widgets, set without a browser."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import PIL.Image
import pytest
import torch

import sightline
from sightline.errors import InputError
from sightline.explanation import example
from sightline.explanation.explorer import Explorer
from test_explanation import loaded, scene


@pytest.fixture
def found(tmp_path):
    path = tmp_path / "scene.png"
    scene().save(path)
    return sightline.explain(loaded(), [path, scene()], method="cam", classes=["red", "azure"])


def test_an_explanation_prints_two_short_lines(found) -> None:
    lines = repr(found).splitlines()
    assert lines[0] == "<Explanation: cam of ColourNet, 2 images × 2 classes, maps 40×40 at relu"
    assert lines[1].startswith("  scene.png: red ")
    assert max(map(len, lines)) < 120
    assert "tensor" not in repr(example()) + repr(found)


def test_a_notebook_shows_the_panels(found) -> None:
    picture = PIL.Image.open(io.BytesIO(found._repr_png_()))
    assert picture.size == found.panel().size
    page = found._repr_html_()
    assert page.count("<img ") == 2
    assert 'alt="scene.png: where the network looks for red' in page
    many = sightline.explain(loaded(), [scene()] * 6, method="cam")
    assert many._repr_html_().endswith("<p>… and 2 more images: <code>panel(i)</code></p>")


def test_without_a_photo_a_notebook_shows_the_text() -> None:
    bare = example()
    bare.images = None
    assert (bare._repr_png_(), bare._repr_html_()) == (None, None)


def test_the_panel_of_an_image_is_that_image(found) -> None:
    assert found[1].name(0) == "image 0"
    assert found.name(0) == "scene.png"
    assert found.panel(1).tobytes() == found[1].panel().tobytes()
    with pytest.raises(IndexError):
        found.panel(2)
    with pytest.raises(InputError, match="unknown colour map"):
        found.panel(0, colormap="turbid")


def test_pixel_methods_are_drawn_without_a_box() -> None:
    found = sightline.explain(loaded(), scene(), method="guided_backprop", classes=["red"])
    assert found.panel().mode == "RGB"


def test_show_opens_the_picture_outside_a_notebook(found, monkeypatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(PIL.Image.Image, "show", lambda picture, title: opened.append(title))
    found.show()
    found.show(1)
    assert opened == ["scene.png", "image 1", "image 1"]


def test_one_row_per_box(found) -> None:
    table = found.to_dataframe()
    assert list(table["category"]) == ["red", "blue, azure"] * 2
    assert table.loc[0, ["x0", "y0", "x1", "y1"]].tolist() == [8, 8, 24, 20]
    assert (table.loc[0, "photo"], table.loc[0, "photo_width"]) == ("scene.png", 80)
    nothing = sightline.explain(loaded(), PIL.Image.new("RGB", (40, 40)), method="cam").to_dataframe()
    assert len(nothing) == 1
    assert nothing[["x0", "y1"]].isna().all(axis=None)


def test_the_same_photos_by_another_method(found) -> None:
    other = found.with_method("layercam")
    assert torch.equal(other.classes, found.classes)
    expected = sightline.explain(loaded(), scene(), method="layercam", classes=["red", "azure"])
    assert torch.allclose(other.maps[1:], expected.maps)
    target = sightline.explain(loaded(), scene(), target=lambda output: output[:, 0] - output[:, 1])
    assert target.with_method("gradcam_pp").classes.tolist() == [[-1]]
    with pytest.raises(InputError, match=r"expected one of sightline\.explain"):
        example().with_method("cam")


@pytest.fixture
def counted(found, monkeypatch) -> tuple[Explorer, Callable[[], int]]:
    calls: list[Any] = []
    inner = found._explain

    def explain(*arguments: Any, **keywords: Any) -> Any:
        calls.append(arguments)
        return inner(*arguments, **keywords)

    found._explain = explain
    return found.explore(["layercam", "scorecam"]), lambda: len(calls)


def test_the_threshold_moves_the_box_and_computes_nothing(counted) -> None:
    explorer, calls = counted
    before, box = explorer.picture.value, explorer.boxes_xyxy.tolist()
    assert box == [[8, 8, 24, 20]]
    explorer.threshold.value = 0.0
    assert explorer.boxes_xyxy.tolist() == box  # on these flat maps, every positive value is the maximum
    explorer.opacity.value = 0.9
    assert explorer.picture.value != before
    assert calls() == 0


def test_another_class_and_method_are_computed_once(counted) -> None:
    explorer, calls = counted
    explorer.category.value = 1
    assert explorer.boxes_xyxy.tolist() == [[48, 16, 72, 36]]
    assert calls() == 0  # it was explained from the start
    for _ in range(2):
        explorer.method.value = "layercam"
        assert calls() == 1
        explorer.method.value = "cam"
    explorer.photo.value = 1
    assert explorer.boxes_xyxy.tolist() == [[48, 16, 72, 36]]
    assert explorer.category.value == 1


def test_a_wider_threshold_gives_a_smaller_box() -> None:
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    explorer = sightline.explain(loaded(8), x, method="gradcam", classes=[0]).explore([])
    areas = []
    for explorer.threshold.value in (0.1, 0.5, 0.9):
        x0, y0, x1, y1 = explorer.boxes_xyxy[0].tolist()
        areas.append((x1 - x0) * (y1 - y0))
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > areas[-1]


def test_a_method_that_does_not_work_leaves_the_picture(found) -> None:
    explorer = found.explore(["attention_rollout"])
    before = explorer.picture.value
    explorer.method.value = "attention_rollout"
    assert explorer.picture.value == before
    assert "attention" in explorer.note.value
