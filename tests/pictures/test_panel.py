"""The panel: where things stand, and that odd photos and long lists stay legible and small."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch

from sightline.errors import InputError
from sightline.pictures.panel import MAX_PIXELS, Cell, _layout, panel
from sightline.scores import percent_text

PHOTO = PIL.Image.new("RGB", (400, 300), (0, 128, 0))


def _row(count: int, value: float = 1.0) -> list[Cell]:
    return [Cell(torch.full((7, 7), value), f"class {k}", 1 / (k + 1)) for k in range(count)]


def test_one_column_a_class_and_one_row_a_method() -> None:
    layout = _layout((400, 300), columns=3, rows=2, cell=288)
    picture = panel(PHOTO, [("cam", _row(3)), ("gradcam", _row(3, 0.5))], colormap="gray", alpha=1.0)
    assert picture.size == layout.size
    wide, high = layout.picture
    assert (wide, high) == (288, 216)
    middles = [
        [picture.getpixel((layout.x(k) + wide // 2, layout.y(m) + high // 2)) for k in range(3)]
        for m in range(2)
    ]
    assert middles == [[(255, 255, 255)] * 3, [(128, 128, 128)] * 3]
    assert picture.getpixel((layout.px(20) + 5, layout.grid_top + 5)) == (0, 128, 0)


def test_score_bar_is_as_long_as_the_score() -> None:
    layout = _layout(PHOTO.size, columns=1, rows=1, cell=288)
    lengths = {}
    for score in (0.25, 0.75):
        picture = np.asarray(panel(PHOTO, [("cam", [Cell(torch.rand(7, 7), "", score)])]))
        bar = picture[layout.px(47), layout.x(0) : layout.x(0) + layout.column - layout.px(64)]
        lengths[score] = int((bar < 50).all(-1).sum()) / len(bar)
    assert lengths[0.25] == pytest.approx(0.25, abs=0.01)
    assert lengths[0.75] == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("score", "text"), [(1.0, "100.0 %"), (0.9999, ">99.9 %"), (0.0005, "0.1 %"), (0.00049, "<0.1 %")]
)
def test_percent(score: float, text: str) -> None:
    assert percent_text(score) == text


def test_colour_bar_runs_from_one_at_the_top_to_zero() -> None:
    layout = _layout(PHOTO.size, columns=1, rows=1, cell=288)
    picture = panel(PHOTO, [("cam", _row(1))], colormap="gray", alpha=1.0, threshold=0.2)
    x = layout.bar_left + 2
    assert picture.getpixel((x, layout.grid_top)) == (255, 255, 255)
    assert picture.getpixel((x, layout.grid_bottom - 1)) == (0, 0, 0)


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (10000, 1), (1, 10000), (3000, 2000)])
def test_any_photo_gives_a_panel_of_a_readable_size(size: tuple[int, int]) -> None:
    picture = panel(PIL.Image.new("RGB", size), [("cam", _row(2))], title="x" * 300, caption="y" * 999)
    assert 500 < picture.width < 1200
    assert 150 < picture.height < 450


def test_many_classes_and_methods_stay_within_bounds() -> None:
    picture = panel(PHOTO, [(f"method {m}", _row(30)) for m in range(19)])
    assert picture.width * picture.height < 1.1 * MAX_PIXELS


def test_rows_of_different_classes_are_refused() -> None:
    with pytest.raises(InputError, match="have different classes"):
        panel(PHOTO, [("cam", _row(2)), ("gradcam", _row(3))])
    with pytest.raises(InputError, match="at least one method"):
        panel(PHOTO, [])
