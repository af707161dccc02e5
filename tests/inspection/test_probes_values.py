"""The images that a network is looked at with, pixel by pixel, and what is told by what moves in its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from looks import Takes, box, patches
from sightline.inspection import probes
from sightline.inspection.layout import Layout
from sightline.inspection.probes import (
    changed_patches,
    fitting_layouts,
    moves_in_place,
    noisy_copies,
    placed,
    probe_image,
)

# Images


def stands_row_by_row(*arguments: Any) -> bool:
    return probes.stands_row_by_row(*arguments)[0]


def test_the_first_image_with_noise_as_strong_as_itself() -> None:
    images = 5 * torch.rand(3, 3, 40, 40) + 7
    noise = probe_image(images) - images[:1]
    assert noise.shape == (1, 3, 40, 40)
    assert float(noise.std()) == pytest.approx(float(images[0].std()), rel=0.03)
    assert float(noise.mean()) == pytest.approx(0, abs=0.1)
    torch.testing.assert_close(probe_image(images[:1]), probe_image(images))
    torch.testing.assert_close(probe_image(10 * images), 10 * probe_image(images))


@pytest.mark.parametrize(
    "image", [torch.zeros(1, 3, 40, 40), torch.full((1, 3, 40, 40), torch.nan), torch.ones(1, 3, 40, 40) / 0]
)
def test_a_black_image_or_one_that_holds_no_numbers_is_noise(image: Tensor) -> None:
    assert float(probe_image(image).std()) == pytest.approx(1, rel=0.05)
    torch.testing.assert_close(probe_image(image), probe_image(torch.zeros(1, 3, 40, 40)))


def test_one_pixel_that_is_no_number_makes_all_of_it_noise() -> None:
    image = 9 + torch.rand(1, 3, 40, 40)
    image[0, 1, 2, 3] = torch.inf
    torch.testing.assert_close(probe_image(image), probe_image(torch.zeros(1, 3, 40, 40)))


def test_an_image_of_one_number_has_noise_too() -> None:
    assert float(probe_image(torch.full((1, 1), 5.0))) == pytest.approx(5 + 1.5410, abs=0.001)
    assert probe_image(torch.zeros(1, 1, dtype=torch.float64)).dtype == torch.float64
    two = torch.tensor([[3.0, 5.0]])
    torch.testing.assert_close(probe_image(two) - two, 2**0.5 * probe_image(torch.zeros(1, 2)))


def test_the_noise_is_the_same_whatever_precision_is_usual() -> None:
    image, place = torch.rand(1, 3, 30, 40), [(slice(0, 10), slice(5, 25))]
    expected = probe_image(image), noisy_copies(image, place)
    torch.set_default_dtype(torch.float64)
    try:
        found = probe_image(image), noisy_copies(image, place)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_copies_have_noise_in_their_place_and_nowhere_else() -> None:
    image = 3 * torch.rand(1, 3, 30, 40)
    places = [(slice(0, 10), slice(5, 25)), (slice(10, 30), slice(0, 40))]
    batch = noisy_copies(image, places)
    assert torch.equal(batch[:1], image)
    for copy, place in zip(batch[1:], places, strict=True):
        difference = copy - image[0]
        (rows, columns) = place
        assert box(difference.ne(0).all(0)) == (rows.start, rows.stop, columns.start, columns.stop)
        assert float(difference[(..., *place)].std()) == pytest.approx(2 * float(image.std()), rel=0.1)
    assert torch.equal(batch, noisy_copies(image, places))
    assert float(noisy_copies(torch.zeros(1, 3, 30, 40), places)[2].std()) == pytest.approx(2 * 0.8, rel=0.1)


@pytest.mark.parametrize(
    ("sides", "boxes"),
    [
        ((96, 96), [(6, 18, 50, 62), (50, 62, 6, 18), (78, 90, 34, 46), (34, 46, 78, 90)]),
        ((48, 96), [(3, 9, 50, 62), (25, 31, 6, 18), (39, 45, 34, 46), (17, 23, 78, 90)]),
        ((160, 160), [(10, 30, 83, 103), (83, 103, 10, 30), (130, 150, 57, 77), (57, 77, 130, 150)]),
        ((4, 4), [(0, 1, 2, 3), (2, 3, 0, 1), (3, 4, 1, 2), (1, 2, 3, 4)]),
        ((3, 3), [(0, 1, 2, 3), (2, 3, 0, 1), (2, 3, 1, 2), (1, 2, 2, 3)]),
    ],
)
def test_where_the_patches_are_that_are_changed(sides: tuple[int, int], boxes: list[Any]) -> None:
    batch = changed_patches(torch.rand(1, 3, *sides))
    assert [box((copy - batch[0]).ne(0).all(0)) for copy in batch[1:]] == boxes


# Layouts


@pytest.mark.parametrize(
    ("shape", "grids", "n", "expected"),
    [
        ((1, 8, 7, 7), [(7, 7)], 1, ["nchw"]),
        ((1, 7, 7, 8), [(7, 7)], 1, ["nhwc"]),
        ((1, 7, 7, 7), [(7, 7)], 1, ["nchw", "nhwc"]),
        ((1, 8, 7, 6), [(7, 7)], 1, []),
        ((2, 8, 7, 7), [(7, 7)], 1, []),
        ((2, 8, 7, 7), [(7, 7)], 2, ["nchw"]),
        ((1, 49, 8), [(7, 7)], 1, ["ntc:7x7"]),
        ((1, 8, 49), [(7, 7)], 1, ["nct:7x7"]),
        ((1, 65, 8), [(7, 7)], 1, ["ntc:16+7x7"]),
        ((1, 66, 8), [(7, 7)], 1, []),
        ((1, 48, 8), [(7, 7)], 1, []),
        ((1, 7, 8), [(2, 2)], 1, ["ntc:3+2x2"]),  # fewer special tokens than patches
        ((1, 8, 9), [(2, 2)], 1, []),
        ((1, 8, 3), [(2, 2)], 1, []),
        ((1, 50, 50), [(7, 7), (10, 5)], 1, ["ntc:10x5", "ntc:1+7x7", "nct:10x5", "nct:1+7x7"]),
        ((1, 50), [(7, 7)], 1, []),
        ((1, 1, 8, 7, 7), [(7, 7)], 1, []),
    ],
)
def test_how_a_tensor_could_be_a_map(shape: tuple[int, ...], grids: Any, n: int, expected: list[str]) -> None:
    assert [str(layout) for layout in fitting_layouts(torch.zeros(shape), grids, n)] == expected
    assert fitting_layouts(torch.zeros(shape, dtype=torch.long), grids, n) == []


CENTRES = ((0.125, 0.583), (0.583, 0.125), (0.875, 0.417), (0.417, 0.875))


def maps_with(cells: list[tuple[int, int] | None], height: int, width: int) -> Tensor:
    """Maps (5, 2, h, w) of which each copy moved most in one cell, and a little everywhere."""
    maps = torch.zeros(5, 2, height, width)
    for copy, cell in zip(maps[1:], cells, strict=True):
        if cell is not None:
            copy += 0.1
            copy[:, cell[0], cell[1]] = -3
    return maps


@pytest.mark.parametrize(
    ("height", "width", "near", "far"),
    [
        (2, 2, [(0, 1)], [(0, 0), (1, 1)]),
        (3, 3, [(0, 1)], [(0, 0), (0, 2), (1, 1)]),
        (4, 4, [(0, 2)], [(0, 1), (0, 3), (1, 2)]),
        (5, 5, [(0, 2), (1, 2), (0, 3)], [(2, 2), (0, 4), (0, 1)]),
        (8, 8, [(2, 4), (0, 4)], [(3, 4), (0, 6), (0, 2)]),
        (16, 16, [(0, 9), (3, 9), (1, 7), (1, 10)], [(4, 9), (1, 6), (1, 11)]),
        (32, 32, [(1, 18), (6, 18), (3, 16), (3, 21)], [(0, 18), (7, 18), (3, 15), (3, 22)]),
        (2, 16, [(0, 9), (0, 7)], [(1, 9), (0, 6)]),
    ],
)
def test_three_of_four_cells_must_move_where_their_patches_were_changed(
    height: int, width: int, near: list[Any], far: list[Any]
) -> None:
    right = [(int(y * height), int(x * width)) for y, x in CENTRES]
    assert moves_in_place(maps_with([*right], height, width))
    assert moves_in_place(100 + maps_with([*right], height, width))
    assert not moves_in_place(maps_with([*right[:2], None, None], height, width))
    assert not moves_in_place(torch.zeros(5, 2, height, width))
    for cells, moves in ((near, True), (far, False)):
        for cell in cells:
            assert moves_in_place(maps_with([cell, *right[1:3], None], height, width)) == moves


def test_one_cell_or_three_axes_of_positions_tell_nothing() -> None:
    assert not moves_in_place(torch.rand(5, 2, 1, 1))
    assert not moves_in_place(torch.rand(5, 2, 2, 4, 4))
    assert moves_in_place(maps_with([(0, 1), (0, 0), (0, 0), (0, 1)], 1, 2))
    assert not moves_in_place(
        maps_with([None, (1, 0), None, None], 2, 1)
    )  # the first cell of nothing is no hit


def with_special(x: Tensor, count: int, side: int = 8) -> Tensor:
    return torch.cat([x.mean((2, 3))[:, None].expand(-1, count, -1), patches(x, side)], 1)


TOKENS, ONE_MORE, CHANNELS = Layout("ntc", 0, (6, 6)), Layout("ntc", 1, (6, 6)), Layout("nct", 0, (6, 6))


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize(
    ("function", "candidates", "expected"),
    [
        (patches, [TOKENS], TOKENS),
        (patches, [CHANNELS, TOKENS], TOKENS),
        (patches, [ONE_MORE, TOKENS], TOKENS),
        (patches, [ONE_MORE], None),
        (lambda x: with_special(x, 1), [TOKENS, ONE_MORE], ONE_MORE),
        (lambda x: (patches(x), None), [TOKENS], TOKENS),
        (lambda x: patches(x).mT.contiguous(), [CHANNELS], CHANNELS),
        (lambda x: patches(x).flip(1), [TOKENS], None),
        (lambda x: patches(x).roll(1, 1), [TOKENS], TOKENS),  # a cell further is near enough
        (lambda x: patches(x).roll(18, 1), [TOKENS], None),
        (lambda x: {"tokens": patches(x)}, [TOKENS], None),
    ],
)
def test_the_first_layout_under_which_the_right_cells_move(
    function: Callable[[Tensor], Any], candidates: list[Layout], expected: Layout | None, single: bool
) -> None:
    net, place = Takes(function, single), ("layer", 0)
    found = placed(net, torch.rand(1, 3, 48, 48), {place: candidates})
    assert found == ({} if expected is None else {place: expected})
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("single", [False, True])
def test_calls_are_placed_by_their_numbers(single: bool) -> None:
    net = Takes(patches, single, calls=3)
    assert placed(net, torch.rand(1, 3, 48, 48), {("layer", 1): [TOKENS]}) == {("layer", 1): TOKENS}
    found = placed(net, torch.rand(1, 3, 48, 48), {("layer", 0): [TOKENS], ("layer", 3): [TOKENS]})
    assert found == {("layer", 0): TOKENS}


def test_a_network_that_fails_with_one_image_too_fails() -> None:
    def fails(x: Tensor) -> Tensor:
        raise ValueError("never")

    with pytest.raises(ValueError, match="never"):
        placed(Takes(fails), torch.rand(1, 3, 48, 48), {("layer", 0): [TOKENS]})


def reordered(order: Callable[[Tensor], Tensor], special: int = 0) -> Callable[[Tensor], Tensor]:
    """Tokens of a grid of 6 × 6 in another order: of a grid of their numbers."""
    numbers = order(torch.arange(36).view(6, 6)).flatten()
    return lambda x: torch.cat([(t := with_special(x, special))[:, :special], t[:, special:][:, numbers]], 1)


@pytest.mark.parametrize(
    ("function", "prefix", "stands"),
    [
        (patches, 0, True),
        (lambda x: with_special(x, 2), 2, True),
        (reordered(lambda grid: grid, 1), 1, True),
        (reordered(lambda grid: grid.T), 0, False),  # column by column
        (
            reordered(lambda grid: torch.cat([row.flip(0) if i % 2 else row for i, row in enumerate(grid)])),
            0,
            False,
        ),
        (reordered(lambda grid: grid.flip(0)), 0, False),
        (reordered(lambda grid: grid.flip(1)), 0, False),
        (reordered(lambda grid: grid.roll(1, 1)), 0, False),
        (reordered(lambda grid: grid.roll(2, 0)), 0, False),
        (
            lambda x: torch.cat([patches(x), x.mean((2, 3))[:, None]], 1),
            1,
            False,
        ),  # the special one comes last
        (lambda x: torch.cat([patches(x)[:, :18], x.mean((2, 3))[:, None], patches(x)[:, 18:]], 1), 1, False),
        (lambda x: 0 * patches(x), 0, True),  # nothing moves
        (lambda x: (patches(x), None), 0, True),
        (lambda x: patches(x)[:, 1:], 0, True),  # of another number: nothing is known
    ],
)
def test_tokens_that_stand_row_by_row(function: Callable[[Tensor], Any], prefix: int, stands: bool) -> None:
    net, layout = Takes(function), Layout("ntc", prefix, (6, 6))
    assert stands_row_by_row(net, torch.rand(1, 3, 48, 48), ("layer", 0), layout) == stands
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("grid", [(2, 2), (3, 3), (3, 6), (6, 3), (1, 6), (6, 1)])
def test_small_grids_and_lines_of_tokens(grid: tuple[int, int]) -> None:
    image, layout = torch.rand(1, 3, 8 * grid[0], 8 * grid[1]), Layout("ntc", 0, grid)
    assert stands_row_by_row(Takes(patches), image, ("layer", 0), layout)
    assert not stands_row_by_row(Takes(lambda x: patches(x).flip(1)), image, ("layer", 0), layout)


def swapped(grid: Tensor) -> Tensor:
    """The first two cells of each row in each other's place."""
    return grid[:, [1, 0, *range(2, grid.shape[1])]]


@pytest.mark.parametrize(
    ("height", "width", "stands"), [(3, 6, False), (6, 3, False), (4, 4, True), (4, 6, True)]
)
def test_a_neighbour_may_move_instead_where_the_grid_has_four_cells_a_side(
    height: int, width: int, stands: bool
) -> None:
    numbers = swapped(torch.arange(height * width).view(height, width)).flatten()
    net, image = Takes(lambda x: patches(x)[:, numbers]), torch.rand(1, 3, 8 * height, 8 * width)
    assert stands_row_by_row(net, image, ("layer", 0), Layout("ntc", 0, (height, width))) == stands


def test_one_cell_may_move_another_one_s_token() -> None:
    def leaning(*cells: int) -> Callable[[Tensor], Tensor]:
        """Token 8 leans on other cells five times as much as their own tokens do."""

        def function(x: Tensor) -> Tensor:
            tokens = patches(x).clone()
            tokens[:, 8] += 5 * tokens[:, list(cells)].sum(1)
            return tokens

        return function

    image = torch.rand(1, 3, 48, 48)
    assert stands_row_by_row(Takes(leaning(35)), image, ("layer", 0), TOKENS)
    assert not stands_row_by_row(Takes(leaning(35, 30)), image, ("layer", 0), TOKENS)


@pytest.mark.parametrize(
    ("grid", "sides", "rows", "columns"),
    [
        ((6, 6), (50, 48), [(0, 8), (8, 16), (25, 33), (33, 41), (41, 50)], [(0, 8), (40, 48)]),
        ((7, 2), (70, 40), [(0, 10), (10, 20), (30, 40), (40, 50), (60, 70)], [(0, 20), (20, 40)]),
        ((2, 2), (16, 16), [(0, 8), (8, 16)], [(0, 8), (8, 16)]),
        ((6, 6), (3, 6), [(0, 1), (1, 2), (2, 3)], [(0, 1), (5, 6)]),  # two cells share a row of pixels
    ],
)
def test_the_cells_that_are_tried_lie_at_both_ends_of_five_rows(
    grid: Any, sides: Any, rows: Any, columns: Any
) -> None:
    given: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        given.append(x)
        return torch.zeros(1, grid[0] * grid[1], 3)

    net = Takes(function)
    behind: list[int] = []
    net.behind.register_forward_hook(lambda *_: behind.append(1))
    stands_row_by_row(net, torch.rand(1, 3, *sides), ("layer", 0), Layout("ntc", 0, grid))
    changed = {box((x - given[0])[0].ne(0).all(0)) for x in given[1:]}
    assert changed == {(*row, *column) for row in rows for column in columns}
    assert {len(x) for x in given} == {1}
    assert not behind  # a pass ends where enough is seen


def test_what_is_no_picture_or_is_not_reached_is_not_tried() -> None:
    turned, image = Takes(lambda x: patches(x).flip(1)), torch.rand(1, 3, 48, 48)
    assert not stands_row_by_row(turned, image, ("layer", 0), TOKENS)
    assert not stands_row_by_row(
        Takes(lambda x: patches(x).flip(1), single=True), image, ("layer", 0), TOKENS
    )
    assert stands_row_by_row(turned, image, ("layer", 1), TOKENS)
    assert not stands_row_by_row(Takes(lambda x: patches(x).flip(1), calls=2), image, ("layer", 1), TOKENS)
    assert stands_row_by_row(turned, image, ("layer", 0), Layout("ntc", 0, (36,)))
    assert stands_row_by_row(Takes(lambda x: x.flip(2)), torch.rand(1, 3, 48), ("layer", 0), TOKENS)
