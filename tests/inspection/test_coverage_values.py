"""Which part of the image a tensor covers: each operation before and behind the first convolution, edge by edge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.inspection.coverage import Coverage
from sightline.inspection.reading import Reader
from sightline.inspection.recording import key_of, record
from toynets import Through

Function = Callable[[Tensor], Any]
H, W = 24, 32
WHOLE = ((0, H), (0, W))
KERNEL = torch.rand(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)) + 0.1


def conv(x: Tensor, padding: Any = 1) -> Tensor:
    """A convolution that keeps the size."""
    return F.conv2d(x, KERNEL.to(x), padding=padding)


def ones(*shape: int) -> Tensor:
    return torch.ones(1, 4, *shape)


def covered(
    function: Function, sides: tuple[int, ...] = (H, W), image: Tensor | None = None
) -> tuple[Coverage, Any]:
    """What was found of a network that is a function, and the key of its output."""
    net, x = Through(function), torch.rand(1, 3, *sides) if image is None else image
    seen = record(net, x)
    return Coverage(Reader(net, seen), net), key_of(seen.output)


def spans(function: Function, sides: tuple[int, ...] = (H, W)) -> Any:
    coverage, key = covered(function, sides)
    return coverage.spans.get(key)


def wrong(function: Function) -> str:
    coverage, key = covered(function)
    assert key not in coverage.spans
    return coverage.why_wrong(key)


def resized(x: Tensor, *size: int) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", antialias=True)


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
        (lambda x: (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True).clamp(min=1e-3), WHOLE),
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
        (lambda x: F.avg_pool2d(x, 2), WHOLE),
        (lambda x: x[:, :, ::2, ::2], ((0, H), (0, W))),  # half a pixel further up and left
        (lambda x: F.pad(x.mean((2, 3), keepdim=True), (0, 9, 0, 9)), None),  # no ramp is seen of it
        (lambda x: x * torch.zeros(3, 1, 1), WHOLE),  # a number times the image
        (lambda x: F.adaptive_avg_pool2d(x, (1, W)), WHOLE),
        (lambda x: F.adaptive_avg_pool2d(x, (H, 1)), WHOLE),
    ],
)
def test_what_is_done_to_the_image(step: Function, expected: Any) -> None:
    found = spans(lambda x: conv(step(x)))
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
        (lambda x: x.roll(8, 2) if x.mean() > 0.45 else x.roll(4, 2), "rotates, rolls or distorts"),
        (lambda x: x[:, :, : 16 if x.mean() > 0.45 else 20], "crops or shifts, depending on its content,"),
        (lambda x: x[:, :, 8:] if falls(x) else x[:, :, :-8], "crops or shifts, depending on its content,"),
        (lambda x: x[..., 8:] if falls(x) else x[..., :-8], "crops or shifts, depending on its content,"),
    ],
)  # fmt: skip
def test_what_no_rectangle_describes_is_named(step: Function, reason: str) -> None:
    assert wrong(lambda x: conv(step(x))) == f"{reason} the image before 'conv2d'"
    assert wrong(lambda x: conv(step(x)).relu() * 2) == f"{reason} the image before 'conv2d'"


def test_the_module_that_comes_behind_it_is_named() -> None:
    net = nn.Sequential(Through(lambda x: x.flip(3)), nn.Conv2d(3, 4, 3))
    seen = record(net, torch.rand(1, 3, H, W))
    coverage = Coverage(Reader(net, seen), net)
    assert coverage.why_wrong(key_of(seen.output)) == "mirrors the image before '1'"
    assert coverage.why_wrong(key_of(seen.images)) == ""


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


# Behind it: followed


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        # slices
        (lambda m: m[:, :, 2:], ((2, H), (0, W))),
        (lambda m: m[:, :, 1:], WHOLE),  # below two positions nothing moves
        (lambda m: m[:, :, :-1], WHOLE),
        (lambda m: m[:, :, :-2], ((0, H - 2), (0, W))),
        (lambda m: m[..., :-4], ((0, H), (0, W - 4))),
        (lambda m: m[..., 4:], ((0, H), (4, W))),
        (lambda m: m[:, ..., 4:], ((0, H), (4, W))),
        (lambda m: m[:, :, 4:, ...], ((4, H), (0, W))),
        (lambda m: m[:, :, 3:21, 5:30], ((3, 21), (5, 30))),
        (lambda m: m[:, :, ::2], WHOLE),
        (lambda m: m[:, :, 1::2], WHOLE),
        (lambda m: m[:, :, 4::2], ((4, H), (0, W))),
        (lambda m: m[:, :, 2::2], ((2, H), (0, W))),
        (lambda m: m[:, :, :20:2], ((0, 20), (0, W))),
        (lambda m: m[:, 1:], WHOLE),
        (lambda m: m[1:] if len(m) > 1 else m[:1], WHOLE),
        (lambda m: m[:, :, 3], None),
        (lambda m: m[:, [0, 1]], None),
        (lambda m: m[:, :, torch.arange(H)], None),
        (lambda m: m[None], None),
        (lambda m: m.narrow(2, 3, 10), ((3, 13), (0, W))),
        (lambda m: torch.narrow(m, dim=-2, start=-21, length=10), ((3, 13), (0, W))),
        (lambda m: m.narrow(-1, 0, 20), ((0, H), (0, 20))),
        (lambda m: F.max_pool2d(m, 2)[:, :, 2:], ((4, H), (0, W))),  # positions of two pixels
        (lambda m: m.permute(0, 2, 3, 1)[:, 4:], ((4, H), (0, W))),
        (lambda m: m.permute(0, 2, 3, 1)[:, :, 4:, 1:], ((0, H), (4, W))),
        (lambda m: torch.cat([torch.zeros(1, 1, 4), m.flatten(2).transpose(1, 2)], 1)[:, 1:], WHOLE),
        (lambda m: m.flatten(2).transpose(1, 2)[:, 5:], None),
        # padding
        (lambda m: F.pad(m, (4, 0)), ((0, H), (-4, W))),
        (lambda m: F.pad(m, (0, 0, 2, 3)), ((-2, H + 3), (0, W))),
        (lambda m: F.pad(m, (1, 1, 1, 1)), WHOLE),
        (lambda m: F.pad(m, (-3, 0)), ((0, H), (3, W))),
        (lambda m: F.pad(m.permute(0, 2, 3, 1), (0, 0, 4, 0)), ((0, H), (-4, W))),
        (lambda m: F.conv2d(F.pad(m, (2, 2, 2, 2)), ones(5, 5)), WHOLE),
        (lambda m: F.conv2d(F.pad(m, (2, 2, 2, 2)), ones(3, 3)), WHOLE),
        (lambda m: F.conv2d(F.pad(m, (2, 0, 0, 0)), ones(3, 3)), WHOLE),
        (lambda m: F.conv2d(F.pad(m, (3, 3, 3, 3)), ones(3, 3)), ((-3, H + 3), (-3, W + 3))),
        (lambda m: F.conv2d(F.pad(m, (0, 3, 0, 0)), ones(3, 3)), ((0, H), (0, W + 3))),
        (lambda m: F.conv2d(F.pad(m, (2, 2, 2, 2)), ones(1, 1)), ((-2, H + 2), (-2, W + 2))),
        (lambda m: F.conv2d(F.pad(m, (2, 2, 0, 0)), ones(1, 3)), WHOLE),
        (lambda m: F.conv2d(F.pad(m, (2, 2, 2, 2)), ones(1, 3)), ((-2, H + 2), (-2, W + 2))),
        (lambda m: F.max_pool2d(F.pad(m, (1, 2, 1, 2)), 3, 2), WHOLE),
        # a convolution's own padding
        (lambda m: F.conv2d(m, ones(3, 3), padding=1), WHOLE),
        (lambda m: F.conv2d(m, ones(3, 3), padding=2), WHOLE),
        (lambda m: F.conv2d(m, ones(3, 3), padding=3), ((-2, H + 2), (-2, W + 2))),
        (lambda m: F.conv2d(m, ones(3, 3), padding=5), ((-4, H + 4), (-4, W + 4))),
        (lambda m: F.conv2d(m, ones(3, 3), None, 1, (4, 0)), ((-3, H + 3), (0, W))),
        (lambda m: F.conv2d(m, ones(3, 3), None, 1, (0, 4)), ((0, H), (-3, W + 3))),
        (lambda m: F.conv2d(m, ones(1, 1), padding=(2, 0)), ((-2, H + 2), (0, W))),
        (lambda m: F.conv2d(m, ones(1, 1), padding=1), WHOLE),
        (lambda m: F.conv2d(m, ones(4, 4), padding=4), ((-3, H + 3), (-3, W + 3))),
        (lambda m: F.conv2d(m, ones(3, 3), padding=4, dilation=3), WHOLE),
        (lambda m: F.conv2d(m, ones(3, 3), padding="same"), WHOLE),
        (lambda m: F.conv2d(m, ones(3, 3)), WHOLE),
        (lambda m: F.max_pool2d(m, 4, padding=2), WHOLE),
        # what keeps positions
        (lambda m: m.relu() + 1, WHOLE),
        (lambda m: m * m.mean((2, 3), keepdim=True), WHOLE),
        (lambda m: m[:, :, 4:] + m[:, :, 4:].relu(), ((4, H), (0, W))),
        (lambda m: m[:, :, 4:] + m[:, :, :-4], None),  # two places at once
        (lambda m: m[:, :, 1:] + m[:, :, :-1], WHOLE),
        (lambda m: m + m[:, :, :1], None),
        (lambda m: m.mean((2, 3), keepdim=True), None),
        (lambda m: m.mean((2, 3)), None),
        (lambda m: m.mean(1), WHOLE),
        (lambda m: m.sum(1), WHOLE),
        (lambda m: m.sum(1, keepdim=True), WHOLE),
        (lambda m: m.sum(2), None),
        (lambda m: m.view(1, 2, 2, H, W), WHOLE),
        (lambda m: m.view(1, 2, 2, H, W).permute(0, 2, 1, 3, 4), WHOLE),
        (lambda m: m.view(1, 2, 2, H, W).transpose(1, 2).reshape(1, 4, H, W), WHOLE),
        (lambda m: m.view(1, 2, 2, H, W).permute(0, 1, 2, 4, 3), None),
        (lambda m: m.view(1, 2, 2, H, W).movedim(3, 1), None),
        (lambda m: m.view(1, 4, W, H), None),
        (lambda m: m.flatten(0, 1), None),
        (lambda m: m.unflatten(1, (2, 2)), WHOLE),
        (lambda m: m.chunk(2, 1)[0], WHOLE),
        (lambda m: m.split(2, 1)[1], WHOLE),
        (lambda m: m.tensor_split(2, 1)[1], WHOLE),
        (lambda m: m.unbind(1)[3], WHOLE),
        (lambda m: m.chunk(2, 2)[0], None),
        (lambda m: torch.stack([m, m], 1), WHOLE),
        (lambda m: torch.stack([m, m], 4), None),
        (lambda m: torch.cat([m, m], 1), WHOLE),
        (lambda m: torch.cat([m[:, :, 4:], m[:, :, 4:]], 1), None),  # of a slice the axes are not followed
        (lambda m: m.roll(3, 2), None),
        (lambda m: m.flip(3), None),
        (lambda m: m.permute(0, 1, 3, 2), None),
        (lambda m: m.flatten(2), WHOLE),
        (lambda m: F.interpolate(m, scale_factor=2), WHOLE),
    ],
)
def test_what_is_done_to_a_map(function: Function, expected: Any) -> None:
    assert spans(lambda x: function(conv(x))) == expected


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: conv(x, 0), ((1, H - 1), (1, W - 1))),
        (lambda x: conv(conv(x, 0), 0) if x.shape[1] == 4 else conv(x, (1, 0)), ((0, H), (1, W - 1))),
        (lambda x: F.max_pool2d(conv(x), 2), WHOLE),
        (lambda x: F.pad(conv(x), (2, 1)), ((0, H), (-2, W + 1))),
        (lambda x: F.pad(conv(x, 0), (2, 2, 2, 2)), ((-1, H + 1), (-1, W + 1))),
        (lambda x: conv(x, 0).relu() + 1, ((1, H - 1), (1, W - 1))),
        (lambda x: (c := conv(x))[:, :, 1:-1, 1:-1] + conv(x, 0) + 0 * c.sum(), ((0, H), (0, W))),
        (lambda x: conv(x[:, :, 4:]), ((4, H), (0, W))),
        (lambda x: conv(x[:, :, 4:], 0), ((5, H - 1), (1, W - 1))),
        (lambda x: conv(x)[:, :, 4:], None),  # what a slice leaves is not told by arithmetic on cells
        (lambda x: conv(x).narrow(2, 0, 8), None),
        (lambda x: F.pad(conv(x)[:, :, 4:], (1, 1)), None),
        (lambda x: F.pad(conv(x).flatten(2), (1, 1)), None),
        (lambda x: conv(x).chunk(2, 1)[1], WHOLE),
        (lambda x: torch.cat([conv(x), F.pad(conv(x, 0), (1, 1, 1, 1))], 1), WHOLE),
    ],
)
def test_where_the_cells_look_exactly(function: Function, expected: Any) -> None:
    coverage, key = covered(function)
    assert coverage.exact.get(key) == expected


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: F.conv2d(conv(x), ones(17, 17)), ((8, H - 8), (8, W - 8))),
        (lambda x: F.conv2d(conv(x), ones(17, 17)).relu(), ((8, H - 8), (8, W - 8))),
        (lambda x: F.conv2d(conv(x), ones(17, 17), padding=8), None),
        (lambda x: F.conv2d(conv(x), ones(3, 3)), None),
        (lambda x: F.conv2d(conv(x), ones(1, 9)), ((0, H), (4, W - 4))),
        (lambda x: F.conv2d(conv(x), ones(17, 17)).flatten(2), None),  # not channels first any more
        (lambda x: F.conv2d(conv(x), ones(17, 17)).permute(0, 2, 3, 1), None),
        (lambda x: F.conv2d(conv(x), ones(17, 17)).sum(1), None),
        (lambda x: F.conv2d(conv(x)[:, :, 8:], ones(9, 9)), None),
        (lambda x: conv(x[:, :, 8:], 0), None),  # it covers a part of the image anyway
        (lambda x: x, None),
    ],
)
def test_a_grid_whose_cells_look_at_the_middle_only(function: Function, expected: Any) -> None:
    coverage, key = covered(function)
    assert coverage.unpadded(key) == expected


def test_the_whole_image_is_whole_to_a_pixel() -> None:
    coverage, _ = covered(conv)
    assert coverage.whole == WHOLE
    for edges, whole in [
        (((0, H), (0, W)), True), (((1, H), (-1, W)), True), (((0, H - 1), (0, W + 1)), True),
        (((1.1, H), (0, W)), False), (((0, H), (0, W - 1.1)), False), (((0, H), (-1.1, W)), False),
    ]:  # fmt: skip
        assert coverage.is_whole(edges) == whole
