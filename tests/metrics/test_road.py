"""ROAD's imputation against a dense solve of the same equations, and its scores against a loop."""

import pytest
import torch

from sightline.errors import InputError
from sightline.metrics.faithfulness import ranks
from sightline.metrics.road import impute, road


def slow_impute(image, removed):
    """(Σ_j w_ij) x_i = Σ_j w_ij x_j for each removed pixel, by one dense linear solve: (C, H, W), (H, W)."""
    channels, height, width = image.shape
    places = [tuple(p) for p in removed.nonzero().tolist()]
    number = {p: i for i, p in enumerate(places)}
    matrix = torch.zeros(len(places), len(places), dtype=torch.float64)
    right = torch.zeros(len(places), channels, dtype=torch.float64)
    for (y, x), i in number.items():
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                ny, nx = y + dy, x + dx
                if (dy, dx) == (0, 0) or not (0 <= ny < height and 0 <= nx < width):
                    continue
                w = 1 / 12 if dy and dx else 1 / 6
                matrix[i, i] += w
                if (ny, nx) in number:
                    matrix[i, number[ny, nx]] -= w
                else:
                    right[i] += w * image[:, ny, nx].double()
    filled = image.double().clone()
    if places:
        solved = torch.linalg.solve(matrix, right)
        for (y, x), i in number.items():
            filled[:, y, x] = solved[i]
    return filled


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("size", [(13, 16), (1, 9), (8, 8)])
def test_impute_equals_the_dense_solve(share, size):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, *size, generator=generator, dtype=torch.float64)
    heat = torch.rand(3, *size, generator=generator)
    removed = (ranks(heat) < share * size[0] * size[1]).view(3, *size)
    removed[:, 0, 0] = False
    found = impute(x, removed, tolerance=1e-12)
    for i in range(3):
        assert torch.allclose(found[i], slow_impute(x[i], removed[i]), atol=1e-9)


def test_impute_of_one_large_hole_is_smooth_and_keeps_what_is_known():
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    removed = torch.zeros(1, 32, 32, dtype=torch.bool)
    removed[:, 4:28, 4:28] = True
    found = impute(x, removed, tolerance=1e-5)
    assert torch.equal(found[:, :, ~removed[0]], x[:, :, ~removed[0]])
    assert torch.allclose(found[0], slow_impute(x[0], removed[0]), atol=1e-3)


@pytest.mark.parametrize("size", [(5, 7), (8, 8), (1, 9)])
def test_impute_starts_from_the_means_of_what_is_known(size):
    # With no iteration at all, what is left is the start: in a constant image, the constant, at odd sides too.
    removed = torch.zeros(1, *size, dtype=torch.bool)
    removed[:, size[0] // 4 :, size[1] // 4 :] = True
    found = impute(torch.full((1, 1, *size), 3.0), removed, most_iterations=0)
    assert torch.allclose(found, torch.full((1, 1, *size), 3.0))


def test_impute_s_start_is_interpolated_between_pixel_centres():
    # A row 0, ?, ?, 6: at half the size 0, 6; back at the full size 0, 1.5, 4.5, 6.
    found = impute(
        torch.tensor([[[[0.0, 9, 9, 6]]]]), torch.tensor([[[False, True, True, False]]]), most_iterations=0
    )
    assert found.flatten().tolist() == [0, 1.5, 4.5, 6]


def test_impute_refuses_an_image_of_which_nothing_is_left():
    with pytest.raises(InputError, match="every pixel of an image is removed"):
        impute(torch.zeros(1, 3, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool))


def test_road_against_a_loop():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    heat = torch.rand(2, 8, 8, generator=generator, dtype=torch.float64)
    score = lambda batch, rows: batch[:, 0, :4].mean((1, 2)).sigmoid()  # noqa: E731
    found = road(score, x, heat, percentiles=(25, 75), noise=0.0)
    for i in range(2):
        order = heat[i].flatten().argsort(descending=True)
        for j, count in enumerate((16, 48)):
            for curve, places in ((found.morf, order[:count]), (found.lerf, order[-count:])):
                removed = torch.zeros(64, dtype=torch.bool)
                removed[places] = True
                filled = slow_impute(x[i], removed.view(8, 8))
                assert float(curve[i, j]) == pytest.approx(float(score(filled[None], None)[0]), abs=1e-3)
    assert torch.allclose(found.combined, ((found.lerf - found.morf) / 2).mean(1))


def test_road_likes_a_map_that_points_at_what_is_used():
    x = torch.zeros(1, 3, 16, 16)
    x[:, :, 4:8, 4:8] = 3.0  # the score reads these pixels and nothing else
    good, bad = torch.zeros(1, 16, 16), torch.ones(1, 16, 16)
    good[:, 4:8, 4:8], bad[:, 4:8, 4:8] = 1.0, 0.0
    score = lambda batch, rows: batch[:, :, 4:8, 4:8].mean((1, 2, 3)).sigmoid()  # noqa: E731
    assert float(road(score, x, good).combined) > 0.1 > -0.1 > float(road(score, x, bad).combined)


def test_bad_percentiles_are_refused():
    with pytest.raises(InputError, match="expected values between 0 and 100"):
        road(
            lambda x, rows: x.mean((1, 2, 3)), torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4), percentiles=(0,)
        )
