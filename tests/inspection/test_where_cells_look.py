"""Where the cells of a layer's grid look, in networks and transforms that were worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sightline.errors import InputError
from sightline.inspection.structure import inspect_network
from sightline.inspection.transform import measure
from toynets import Through


class Columns(nn.Module):
    """Two branches, each of which is shown other columns of the image: picked, so that no slice tells which."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        left = self.left(x.index_select(3, torch.arange(16)))
        right = self.right(x.index_select(3, torch.arange(16, 32)))
        return left.mean((2, 3)) + right.mean((2, 3))


def test_each_of_two_branches_lies_where_it_was_measured() -> None:
    covers = inspect_network(Columns().eval(), torch.rand(1, 3, 16, 32)).covers
    for name, columns in (("left", (0, 16)), ("right", (16, 32))):
        for found, expected in zip(covers[name, 0], ((0, 16), columns), strict=True):
            assert found == pytest.approx(expected, abs=0.5)


def test_an_image_of_one_column_that_is_rolled_inside_is_refused() -> None:
    net = nn.Sequential(
        Through(lambda x: x.roll(16, 2)), nn.Conv2d(3, 4, (3, 1), padding=(1, 0)), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    ).eval()  # fmt: skip
    found = inspect_network(net, torch.rand(1, 3, 40, 1))
    assert found.target is None
    assert "rotates, rolls or distorts the image before '1'" in found.displaced


def unpadded(count: int) -> list[nn.Module]:
    return [nn.Conv2d(1, 1, 3) for _ in range(count)]


class Offset(nn.Module):
    """Something learned, and the map second."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.ones(1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.offset, x)


@pytest.mark.parametrize(
    ("steps", "covers"),
    [
        # 12 kernels of 3 lose a pixel each at either edge; what is padded in between comes back.
        ([*unpadded(4), *unpadded(8)], (12, 52)),
        ([*unpadded(4), nn.ZeroPad2d(2), *unpadded(8)], (10, 54)),
        ([*unpadded(4), Offset(), *unpadded(8)], (12, 52)),
        ([*unpadded(12), Offset()], (12, 52)),
    ],
)
def test_cells_that_look_at_the_middle(steps: list[nn.Module], covers: tuple[int, int]) -> None:
    net = nn.Sequential(*steps, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).eval()
    target = inspect_network(net, torch.rand(1, 1, 64, 64)).target
    assert target is not None
    assert (target.covers, target.unpadded) == ((covers, covers), True)


class Sum(nn.Module):
    """A branch whose cells look at the middle, and one whose cells look everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.middle, self.whole = nn.Sequential(*unpadded(12)), nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.middle(x) + F.interpolate(self.whole(x), (40, 40))).relu().mean((2, 3))


def test_a_sum_looks_wherever_one_of_its_terms_looks() -> None:
    structure = inspect_network(Sum().eval(), torch.rand(1, 1, 64, 64))
    assert structure.covers["middle", 0] == ((12, 52), (12, 52))
    assert structure.target is not None
    assert (structure.target.covers, structure.target.unpadded) == (None, False)


def grey(photo: Image.Image, size: tuple[int, int], pad: int = 0) -> Tensor:
    """A photo at a size (h, w), with a border of 0.5 around it."""
    values = torch.tensor(np.array(photo)).movedim(2, 0)[None].float() / 255
    values = F.interpolate(values, size, mode="nearest")[0]
    return F.pad(values, [pad] * 4, value=0.5)


def test_the_geometry_of_a_photo_too_small_for_a_ramp() -> None:
    # 2 × 3 pixels become 8 × 12, four for each, with a border of 4: one pixel more on every side.
    found = measure(lambda photo: grey(photo, (8, 12), pad=4), (2, 3)).geometry
    assert found.input_hw == (16, 20)
    assert found.shown_xyxy == (-1, -1, 4, 3)


def own_values(values: Tensor) -> Tensor:
    return (values - values.mean()) / (values.std() + 1e-6)


def test_the_geometry_of_a_photo_that_is_scaled_by_its_own_values() -> None:
    found = measure(lambda photo: own_values(grey(photo, (40, 60))), (80, 120))
    assert found.per_image
    assert (found.mean, found.std) == ((0, 0, 0), (1, 1, 1))
    assert found.geometry.shown_xyxy == pytest.approx((0, 0, 120, 80), abs=0.5)


def test_a_photo_that_is_bent_and_scaled_by_its_own_values_is_refused() -> None:
    bent = (torch.linspace(0, 1, 60) ** 2 * 59).long()
    with pytest.raises(InputError, match="the transform mirrors, rotates or distorts the photo"):
        measure(lambda photo: own_values(grey(photo, (40, 60))[:, :, bent]), (80, 120))


def test_a_crop_that_moves_from_call_to_call_is_refused() -> None:
    calls = iter(range(100))

    def moving(photo: Image.Image) -> Tensor:
        left = 10 * next(calls)
        return grey(photo.crop((left, 0, left + 64, 64)), (64, 64))

    with pytest.raises(InputError, match="the transform's crop changes between calls"):
        measure(moving, (64, 400))


def test_the_geometry_of_a_crop_within_a_border() -> None:
    # The middle 100 × 200 of 160 × 240, enlarged by 2, with a border of 40 = 20 of the photo's pixels.
    found = measure(lambda photo: grey(photo.crop((20, 30, 220, 130)), (200, 400), pad=40), (160, 240))
    assert found.geometry.input_hw == (280, 480)
    assert found.geometry.shown_xyxy == pytest.approx((0, 10, 240, 150), abs=0.1)
