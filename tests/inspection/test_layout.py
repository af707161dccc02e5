"""How a tensor is a map: there and back, what does not fit, and how it is written."""

from __future__ import annotations

import pytest
import torch

from sightline.errors import InputError
from sightline.inspection.layout import Layout
from sightline.inspection.probes import changed_patches, fitting_layouts, moves_in_place, probe_image

CASES = {
    "nchw": (2, 5, 3, 4),
    "nhwc": (2, 3, 4, 5),
    "ntc:3x4": (2, 12, 5),
    "ntc:2+3x4": (2, 14, 5),
    "nct:1+3x4": (2, 5, 13),
    "ncl": (2, 5, 7),
    "ncdhw": (2, 5, 2, 3, 4),
}


@pytest.mark.parametrize("written", CASES)
def test_there_and_back(written: str) -> None:
    layout, tensor = Layout.parse(written), torch.randn(*CASES[written])
    assert str(layout) == written
    assert layout.mismatch(tensor) == ""
    maps = layout.to_map(tensor)
    assert maps.shape[:2] == (2, 5)
    assert torch.equal(layout.from_map(maps, tensor), tensor)


def test_tokens_lie_row_by_row_and_the_prefix_is_left_alone() -> None:
    layout = Layout("ntc", 1, (2, 3))
    tokens = torch.arange(7.0).view(1, 7, 1)
    assert layout.to_map(tokens)[0, 0].tolist() == [[1, 2, 3], [4, 5, 6]]
    back = layout.from_map(torch.zeros(1, 1, 2, 3), tokens)
    assert back.flatten().tolist() == [0, 0, 0, 0, 0, 0, 0]
    back = layout.from_map(torch.ones(1, 1, 2, 3), tokens + 8)
    assert back.flatten().tolist() == [8, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("written", "shape", "why"),
    [
        ("nchw", (2, 5, 12), "3 axes and not 4"),
        ("ntc:1+3x4", (2, 12, 5), "12 tokens are not 1 + 3 × 4"),
        ("nct:3x4", (2, 12, 5), "5 tokens are not 3 × 4"),
        ("nhwc:3x4", (2, 4, 3, 5), "sides are 4 × 3 and not 3 × 4"),
    ],
)
def test_what_does_not_fit_is_said(written: str, shape: tuple[int, ...], why: str) -> None:
    assert why in Layout.parse(written).mismatch(torch.zeros(shape))


@pytest.mark.parametrize("written", ["nwhc", "ntc", "ntc:2x2x2x2", "ntc:17+2x2", "nchw:1+2x2", "ntc:ax b"])
def test_layouts_that_are_none(written: str) -> None:
    with pytest.raises(InputError, match="layout"):
        Layout.parse(written)


def test_fits_are_only_those_of_the_grids() -> None:
    grids = [(10, 10), (5, 5)]
    fits = [str(one) for one in fitting_layouts(torch.zeros(1, 101, 25), grids, 1)]
    assert fits == ["ntc:1+10x10", "nct:5x5"]
    assert fitting_layouts(torch.zeros(1, 118, 64), grids, 1) == []  # 18 tokens too many
    assert fitting_layouts(torch.zeros(4, 100, 64), grids, 1) == []  # the first axis is not the batch
    assert [str(one) for one in fitting_layouts(torch.zeros(1, 5, 5, 5), grids, 1)] == ["nchw", "nhwc"]


def test_the_changed_patches_are_where_the_cells_move() -> None:
    batch = changed_patches(probe_image(torch.zeros(1, 3, 56, 56)))
    cells = torch.nn.functional.avg_pool2d(batch, 8)
    assert moves_in_place(cells)
    assert not moves_in_place(cells.flip(3))
    assert not moves_in_place(cells.transpose(2, 3))
    assert not moves_in_place(cells[:1].repeat(5, 1, 1, 1))
    shuffled = cells.flatten(2)[:, :, torch.randperm(49, generator=torch.Generator().manual_seed(0))]
    assert not moves_in_place(shuffled.view_as(cells))
