"""Which part of the image a tensor covers: each operation before its first convolution, edge by edge."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from covers import WEAK, WHOLE, Function, H, W, conv, covered, spans
from sightline.inspection.coverage import Coverage
from sightline.inspection.reading import Reader
from sightline.inspection.recording import key_of, record
from toynets import Through


def wrong(function: Function) -> str:
    coverage, key = covered(function)
    assert key not in coverage.spans
    return coverage.why_wrong(key)


def resized(x: Tensor, *size: int) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", antialias=True)


def opaque(x: Tensor) -> Tensor:
    """The same, by a product that no arithmetic on axes follows: what came before can only be measured."""
    return x @ torch.eye(x.shape[3])


def warped(x: Tensor, by: float) -> Tensor:
    """Columns from up to so many pixels further left or right, in a wave."""
    at = (torch.arange(x.shape[3]) + by * torch.sin(torch.arange(x.shape[3]) / 3)).clamp(0, x.shape[3] - 1)
    return x @ (1 - (torch.arange(x.shape[3])[:, None] - at).abs()).clamp(min=0)


def falls(x: Tensor) -> bool:
    """Whether an image is darker at its end than at its beginning."""
    return bool(x[0, 0, 0, 0] > x[0, 0, -1, -1])


# Before the first convolution: measured


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (lambda x: x, WHOLE),
        (lambda x: 2 * x - 1, WHOLE),
        (lambda x: x[:, [2, 1, 0]], WHOLE),
        (lambda x: x[:, :, 4:] - x.mean((2, 3), keepdim=True), None),  # what is black depends on the image
        (lambda x: x[:, :, 4:20, 8:24], ((4, 20), (8, 24))),
        (lambda x: x[:, :, 4:20, 8:24] * torch.tensor([1.0, -0.2, 0.6]).view(3, 1, 1), ((4, 20), (8, 24))),
        (lambda x: 1 - x[:, :, 4:20, 8:24], ((4, 20), (8, 24))),
        (lambda x: x[:, :, 1:], WHOLE),  # a pixel, which the kernel reaches over
        (lambda x: x[:, :, :-1], WHOLE),
        (lambda x: x[:, :, 2:], ((2, H), (0, W))),
        (lambda x: x[:, :, :-2], ((0, H - 2), (0, W))),
        (lambda x: x[..., 2:], ((0, H), (2, W))),
        (lambda x: x[..., 1:-2], ((0, H), (1, W - 2))),
        (lambda x: resized(x, 2 * H, 2 * W), WHOLE),
        (lambda x: resized(x, H // 2, W // 2), WHOLE),
        (lambda x: resized(x[:, :, 4:20], 8, 16), ((4, 20), (0, W))),
        (lambda x: resized(x[:, :, 4:20], 48, 64), ((4, 20), (0, W))),
        (lambda x: F.pad(resized(x, 12, 16), (4, 0, 0, 6)), ((0, 36), (-8, W))),
        (lambda x: F.pad(x, (5, 3, 2, 4)), ((-2, H + 4), (-5, W + 3))),
        (lambda x: F.pad(x, (5, 3, 2, 4), value=0.3), ((-2, H + 4), (-5, W + 3))),
        (lambda x: F.pad(x, (5, 3, 4, 4), mode="reflect"), ((-4, H + 4), (-5, W + 3))),
        (lambda x: F.pad(x, (5, 3, 4, 4), mode="replicate"), ((-4, H + 4), (-5, W + 3))),
        (lambda x: torch.cat([x, torch.zeros(1, 3, 8, W)], 2), ((0, H + 8), (0, W))),
        (
            lambda x: torch.cat([WEAK * x[..., :8].flip(3), x], 3),
            ((0, H), (-8, W)),
        ),  # too weak to be the image
        (lambda x: torch.cat([x, WEAK * x[..., -8:].flip(3)], 3), ((0, H), (0, W + 8))),
        (lambda x: 20 * torch.cat([x, WEAK * x[..., -8:].flip(3)], 3), ((0, H), (0, W + 8))),
        (lambda x: torch.cat([x, WEAK * x[..., -8:].flip(3)], 3) / 20, ((0, H), (0, W + 8))),
        (lambda x: warped(x, 0.5), WHOLE),
        (lambda x: warped(x[:, :, 4:20, 6:30], 0.5), ((4, 20), (6, 30))),
        (lambda x: warped(resized(x[..., 6:30], H, 60), 0.8), ((0, H), (6, 30))),
        (lambda x: x[:, :, :2], ((0, 2), (0, W))),
        (lambda x: x[:, :, 5:8], ((5, 8), (0, W))),
        (lambda x: F.pad(x, (3, 2, 6, 7))[:, :, 2:], ((-4, H + 7), (-3, W + 2))),
        (lambda x: F.avg_pool2d(x, 2), WHOLE),
        (lambda x: x[:, :, ::2, ::2], ((0, H), (0, W))),  # half a pixel further up and left
        (lambda x: F.pad(x.mean((2, 3), keepdim=True), (0, 9, 0, 9)), None),  # no ramp is seen of it
        (lambda x: x * torch.zeros(3, 1, 1), None),
        (lambda x: F.adaptive_avg_pool2d(x, (1, W)), WHOLE),
        (lambda x: F.adaptive_avg_pool2d(x, (H, 1)), WHOLE),
    ],
)
def test_what_is_done_to_the_image(step: Function, expected: Any) -> None:
    found = spans(lambda x: conv(opaque(step(x))))
    if expected is None:
        assert found is None
        return
    assert found is not None
    for (start, stop), (first, last) in zip(found, expected, strict=True):
        assert (start, stop) == pytest.approx((first, last), abs=0.6)


@pytest.mark.parametrize(
    ("pad", "kernel", "expected"),
    [
        (1, 3, WHOLE),
        (2, 3, WHOLE),  # two cells beyond the image see a part of it
        (3, 3, ((-3, H + 3), (-3, W + 3))),
        (1, 1, ((-1, H + 1), (-1, W + 1))),
        (2, 1, ((-2, H + 2), (-2, W + 2))),
        (4, 5, WHOLE),
        (5, 5, ((-5, H + 5), (-5, W + 5))),
    ],
)
def test_a_border_that_the_kernel_reaches_over_belongs_to_the_convolution(
    pad: int, kernel: int, expected: Any
) -> None:
    for sides in ((1, 1, 1, 1), (1, 1, 0, 0), (0, 1, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1)):
        pads = tuple(pad * side for side in sides)
        found = spans(lambda x, p=pads: F.conv2d(F.pad(x, p), torch.ones(1, 3, kernel, kernel)))  # type: ignore[misc]
        left, right, top, bottom = pads
        beyond = WHOLE if expected == WHOLE else ((-top, H + bottom), (-left, W + right))
        assert tuple((round(start), round(stop)) for start, stop in found) == beyond


def test_a_border_half_as_wide_as_the_image_s_pixels() -> None:
    grown = lambda x: F.pad(resized(x, 2 * H, 2 * W), (4, 4, 4, 4))  # noqa: E731
    assert spans(lambda x: F.conv2d(grown(x), torch.ones(1, 3, 5, 5))) == WHOLE
    found = spans(lambda x: F.conv2d(grown(x), torch.ones(1, 3, 3, 3)))
    assert [edge for span in found for edge in span] == pytest.approx([-2, H + 2, -2, W + 2], abs=0.3)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (lambda x: x.flip(3), "mirrors"),
        (lambda x: x.flip(2), "mirrors"),
        (lambda x: x[:, :, 4:20].flip(2), "mirrors"),
        (lambda x: x.rot90(2, (2, 3)), "mirrors"),
        (lambda x: x.rot90(1, (2, 3)), "rotates, rolls or distorts"),
        (lambda x: x.transpose(2, 3), "rotates, rolls or distorts"),
        (lambda x: x.roll(8, 3), "rotates, rolls or distorts"),
        (lambda x: x.roll(8, 2), "rotates, rolls or distorts"),
        (lambda x: torch.cat([x, x.flip(3)], 3), "rotates, rolls or distorts"),
        (lambda x: torch.cat([x[..., :8], x[..., 20:]], 3), "rotates, rolls or distorts"),
        (lambda x: warped(x, 6), "rotates, rolls or distorts"),
        (lambda x: torch.stack([x[0, 0], x[0, 1].roll(9, 1), x[0, 2]])[None], "rotates, rolls or distorts"),
        (lambda x: x.roll(8, 2) if x.mean() > 0.45 else x.roll(4, 2), "crops or shifts, depending on its content,"),
        (lambda x: x[:, :, : 16 if x.mean() > 0.45 else 20], "crops or shifts, depending on its content,"),
        (lambda x: x[:, :, 8:] if falls(x) else x[:, :, :-8], "crops or shifts, depending on its content,"),
        (lambda x: x[..., 8:] if falls(x) else x[..., :-8], "crops or shifts, depending on its content,"),
    ],
)  # fmt: skip
def test_what_no_rectangle_describes_is_named(step: Function, reason: str) -> None:
    assert wrong(lambda x: conv(opaque(step(x)))) == f"{reason} the image before 'conv2d'"
    assert wrong(lambda x: conv(step(x)).relu() * 2) == f"{reason} the image before 'conv2d'"


def test_the_module_that_comes_behind_it_is_named() -> None:
    net = nn.Sequential(Through(lambda x: x.flip(3)), nn.Conv2d(3, 4, 3))
    seen = record(net, torch.rand(1, 3, H, W))
    coverage = Coverage(Reader(net, seen), net)
    assert coverage.why_wrong(key_of(seen.output)) == "mirrors the image before '1'"
    assert coverage.why_wrong(key_of(seen.images)) == ""


def rough(x: Tensor) -> bool:
    """Whether an image has a change from column to column that a ramp does not have, and a patch of noise does."""
    return float(x.diff(dim=3).abs().amax()) > 1.1


@pytest.mark.parametrize(
    ("step", "refused"),
    [
        (lambda x: x[..., :20], False),
        (lambda x: x[..., 20:] if rough(x) else x[..., :20], True),
        (lambda x: x[:, :, 20:] if rough(x) else x[:, :, :20], True),
        (lambda x: x.roll(3 * rough(x), 3), False),  # two positions and a twentieth of 40: 4
        (lambda x: x.roll(-3 * rough(x), 2), False),
        (lambda x: x.roll(6 * rough(x), 3), True),
        (lambda x: x.roll(-6 * rough(x), 2), True),
        (lambda x: F.avg_pool2d(x.roll(2 * rough(x), 3), 2), False),  # of 20: 3, or 6 pixels
        (lambda x: F.avg_pool2d(x.roll(10 * rough(x), 3), 2), True),
        (lambda x: x * (not rough(x)), True),
        (lambda x: x.clamp(0, 1), False),
        (lambda x: F.pad(x, (10, 10, 10, 10), mode="reflect"), False),
        (lambda x: F.pad(x, (20, 0, 0, 0), mode="circular"), False),
    ],
)
def test_what_moves_by_a_patch_that_no_ramp_has_is_refused(step: Function, refused: bool) -> None:
    image = torch.zeros(1, 3, 40, 40)
    coverage, key = covered(lambda x: conv(opaque(step(x))), image=image)
    assert coverage.why_wrong(key).startswith("crops or shifts, depending on its content,") == refused
    assert (key in coverage.spans) != refused
    several, key = covered(lambda x: conv(opaque(step(x))), image=image.repeat(2, 1, 1, 1))
    assert key in several.spans or not refused  # patches are changed in one image alone


@pytest.mark.parametrize(
    ("step", "measured"),
    [
        (lambda x: x, False),
        (lambda x: (2 * x - 1).clamp(0, 1), False),
        (lambda x: x * x.mean(), False),
        (lambda x: x * x.mean((2, 3), keepdim=True), False),
        (lambda x: x.mean((1, 2, 3)) + x, False),
        (lambda x: x + torch.ones(1, 3, H, W), False),  # something learned, say
        (lambda x: torch.ones(1, 3, H, W) + x, False),
        (lambda x: (x - 1) * x, False),
        (lambda x: x * x.roll(1, 3), True),
        (lambda x: x * x.mean((1, 3), keepdim=True), True),
        (lambda x: x * x[:, :, :1], True),
        (lambda x: x[:, :, 4:] + 1, True),
        (lambda x: x.mean((2, 3), keepdim=True) + 1, False),  # no picture enters the convolution
    ],
)
def test_what_changes_values_alone_is_not_measured(step: Function, measured: bool) -> None:
    passes: list[int] = []

    def function(x: Tensor) -> Tensor:
        passes.append(len(x))
        return conv(step(x))

    net = Through(function)
    reader = Reader(net, record(net, torch.rand(1, 3, H, W)))
    passes.clear()
    Coverage(reader, net)
    assert bool(passes) == measured


def test_a_pass_that_measures_ends_behind_the_first_convolutions() -> None:
    behind: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        a, b = conv(x[:, :, 4:]), conv(x[..., 4:])
        behind.append(b)
        return F.pad(a, (0, 0, 4, 0)) + F.pad(b, (4, 0))

    net = Through(function)
    reader = Reader(net, record(net, torch.rand(1, 3, H, W)))
    behind.clear()
    coverage = Coverage(reader, net)
    assert not behind
    first, second = (op for op in reader.ops if op.function == "conv2d")
    assert coverage.spans[first.output_key] == ((4, H), (0, W))
    assert coverage.spans[second.output_key] == ((0, H), (4, W))


def test_a_network_that_makes_no_numbers_of_white_is_measured_by_nothing() -> None:
    assert wrong(lambda x: conv(x.flip(2) / (1 - x.amin()))) == ""


def test_of_two_ways_into_the_network_each_has_its_reason() -> None:
    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return conv(x.flip(3)), conv(x[:, :, 4:])

    net = Through(both)
    seen = record(net, torch.rand(1, 3, H, W))
    coverage = Coverage(Reader(net, seen), net)
    mirrored, cut = map(key_of, seen.output)
    assert coverage.why_wrong(mirrored).startswith("mirrors")
    assert (coverage.why_wrong(cut), coverage.spans[cut]) == ("", ((4, H), (0, W)))


def test_a_network_that_refuses_black_is_followed_as_far_as_arithmetic_goes() -> None:
    def seen(x: Tensor) -> Tensor:
        if not x.any():
            raise ValueError("black")
        return x

    assert spans(lambda x: conv(seen(x)[:, :, 4:])) == ((4, H), (0, W))
    assert wrong(lambda x: conv(seen(x).flip(2))) == ""


@pytest.mark.parametrize(
    ("sides", "step", "expected"),
    [
        ((20,), lambda x: x, ((0, 20),)),
        ((6, 8, 10), lambda x: x + 1, ((0, 6), (0, 8), (0, 10))),
        ((1, W), lambda x: x[..., 4:], ((0, 1), (4, W))),
        ((H, 1), lambda x: x[:, :, 4:], ((4, H), (0, 1))),
    ],
)
def test_signals_volumes_and_lines(sides: tuple[int, ...], step: Function, expected: Any) -> None:
    function = (F.conv1d, F.conv2d, F.conv3d)[len(sides) - 1]
    found = spans(lambda x: function(step(x), torch.ones(1, 3, *[1] * len(sides))), sides)
    assert [edge for span in found for edge in span] == pytest.approx(
        [edge for span in expected for edge in span], abs=0.1
    )


@pytest.mark.parametrize(("sides", "function"), [((20,), F.conv1d), ((6, 8, 10), F.conv3d)])
def test_of_a_signal_or_a_volume_that_is_cropped_nothing_is_known(
    sides: tuple[int, ...], function: Any
) -> None:
    coverage, key = covered(lambda x: function(x[..., 4:], torch.ones(1, 3, *[1] * len(sides))), sides)
    assert (coverage.spans.get(key), coverage.why_wrong(key)) == (None, "")
