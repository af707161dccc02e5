"""Networks that crop, pad, resize or turn the image inside: each map lies where its cells look, or is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import CenterCrop

import sightline
from sightline.errors import UnsupportedError
from sightline.heatmap import place, upsample
from sightline.inspection.layers import Spans
from sightline.inspection.structure import inspect_network
from toynets import GapToy, make_images, prepare

HEIGHT, WIDTH = 40, 56


class Before(nn.Module):
    """Something is done to the image, or to the maps in the middle, of a network."""

    def __init__(
        self, image: Callable[[Tensor], Tensor], maps: Callable[[Tensor], Tensor] = lambda a: a
    ) -> None:
        super().__init__()
        self.image, self.maps, self.net = image, maps, prepare(GapToy())

    def forward(self, x: Tensor) -> Tensor:
        a = self.maps(self.net.features[:3](self.image(x)))
        return self.net.fc(self.net.pool(self.net.features[3:](a)).flatten(1))


def photo() -> Tensor:
    return make_images(1, size=HEIGHT + WIDTH)[:, :, :HEIGHT, :WIDTH]


def letterboxed(x: Tensor) -> Tensor:
    scaled = F.interpolate(x, size=(20, 28), mode="bilinear", align_corners=False)
    return F.pad(scaled, (0, 4, 6, 6))


def on_canvas(x: Tensor) -> Tensor:
    canvas = x.new_zeros(len(x), 3, 64, 64)
    canvas[:, :, 4 : 4 + HEIGHT, 8 : 8 + WIDTH] = x
    return canvas


def normalised(x: Tensor) -> Tensor:
    return (x - x.mean()) / x.std()


STEPS = {
    "crop": (lambda x: x[:, :, 8:32, 12:40], ((8, 32), (12, 40))),
    "centre crop": (CenterCrop(32), ((4, 36), (12, 44))),
    "crop after normalising": (lambda x: normalised(CenterCrop(32)(x)), ((4, 36), (12, 44))),
    "zeros": (lambda x: F.pad(x, (20, 20, 20, 20)), ((-20, 60), (-20, 76))),
    "zeros on one side": (lambda x: F.pad(x, (0, 24)), ((0, 40), (0, 80))),
    "reflection": (nn.ReflectionPad2d(20), ((-20, 60), (-20, 76))),
    "letterbox": (letterboxed, ((-12, 52), (0, 64))),
    "canvas": (on_canvas, ((-4, 60), (-8, 56))),
    "crop, then resize": (
        lambda x: F.interpolate(x[:, :, :20], size=(32, 32), mode="bilinear", align_corners=False),
        ((0, 20), (0, 56)),
    ),
    "sampled": (
        lambda x: F.grid_sample(
            x,
            F.affine_grid(
                torch.tensor([[[0.5, 0, 0.25], [0, 0.5, 0]]]).to(x), [1, 3, 40, 56], align_corners=False
            ),
            align_corners=False,
        ),
        ((10, 30), (21, 49)),
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_where_the_grid_lies(name: str) -> None:
    step, expected = STEPS[name]
    covers = inspect_network(Before(step), photo()).target.covers  # type: ignore[union-attr]
    for found, wanted in zip(covers, expected, strict=True):  # type: ignore[arg-type]
        assert found == pytest.approx(wanted, abs=0.1)


@pytest.mark.parametrize("method", ["cam", "gradcam", "layercam"])
@pytest.mark.parametrize("name", STEPS)
def test_the_map_is_the_inner_network_s_laid_where_it_looks(name: str, method: str) -> None:
    step, covers = STEPS[name]
    net, x = Before(step), photo()
    inner = sightline.explain(net.net, step(x), method, classes=1)
    outer = sightline.explain(net, x, method, classes=1)
    assert outer.maps.shape == (1, 1, HEIGHT, WIDTH)
    torch.testing.assert_close(outer.maps, place(inner.maps, covers, (HEIGHT, WIDTH)), rtol=0, atol=1e-2)
    torch.testing.assert_close(outer.logits, inner.logits)


def test_by_hand_of_a_crop_and_of_zeros() -> None:
    net, x = prepare(GapToy()), photo()
    inner = sightline.explain(net, x[:, :, 8:32, 12:40], "cam", classes=2).maps
    outer = sightline.explain(Before(lambda x: x[:, :, 8:32, 12:40]), x, "cam", classes=2).maps
    torch.testing.assert_close(outer[:, :, 8:32, 12:40], upsample(inner, (24, 28)))
    assert torch.equal(outer[0, 0, :8], inner.min().expand(8, WIDTH))  # below 0: minmax makes it no evidence
    wide = sightline.explain(net, F.pad(x, (0, 24)), "gradcam", classes=2).maps
    outer = sightline.explain(Before(lambda x: F.pad(x, (0, 24))), x, "gradcam", classes=2).maps
    torch.testing.assert_close(outer, upsample(wide, (HEIGHT, WIDTH + 24))[..., :WIDTH])


def test_a_box_lies_in_the_part_that_was_seen() -> None:
    net = Before(lambda x: x[:, :, 8:32, 12:40])
    x0, y0, x1, y1 = (
        sightline.explain(net, photo(), "layercam", classes=1).boxes(threshold=0.01)[0][0][0].tolist()
    )
    assert 12 <= x0 < x1 <= 40
    assert 8 <= y0 < y1 <= 32


@pytest.mark.parametrize(
    "method",
    [
        "scorecam",
        "guided_gradcam",
        "fullycam",
        "fullgrad",
        "layercam:flip",
        "cam:affinity",
        "cam:scales=1,1.5",
    ],
)
def test_every_method_sees_nothing_outside_of_a_crop(method: str) -> None:
    net = Before(CenterCrop(32))
    heatmap = sightline.explain(net, photo(), method, classes=1).heatmaps(normalise="max")[0, 0]
    inside = heatmap[4:36, 12:44].clone()
    heatmap[4:36, 12:44] = 0
    assert inside.max() == 1
    assert heatmap.max() <= (0.05 if "scales" in method else 1e-9)


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x,
        lambda x: (x - 0.4) / 0.2,
        normalised,
        nn.InstanceNorm2d(3),
        lambda x: x.flip(1),
        lambda x: x[:, [2, 1, 0]],
        lambda x: F.interpolate(x, size=(48, 48), mode="bilinear"),
        lambda x: F.pad(x, (1, 1, 1, 1)),
        lambda x: x[:, :, ::2, ::2],
        lambda x: torch.cat([x[:, :1], x[:, 1:]], 1),
    ],
)
def test_what_keeps_the_whole_image_changes_nothing(step: Callable[[Tensor], Tensor]) -> None:
    net, x = Before(step), photo()
    maps = sightline.explain(net, x, "cam", classes=1).maps
    assert torch.equal(maps, sightline.explain(net.net, step(x), "cam", classes=1).maps)


@pytest.mark.parametrize(
    ("step", "word"),
    [
        (lambda x: x.flip(3), "mirrors"),
        (lambda x: x[:, :, torch.arange(HEIGHT - 1, -1, -1)], "mirrors"),
        (lambda x: torch.rot90(x, 1, (2, 3)), "rotates"),
        (lambda x: x.transpose(2, 3), "rotates"),
        (lambda x: torch.roll(x, 12, 3), "rolls"),
    ],
)
@pytest.mark.parametrize("method", ["gradcam", "cam", "fullycam", "layercam:layer=net.features.4"])
def test_what_turns_the_image_is_refused(step: Callable[[Tensor], Tensor], word: str, method: str) -> None:
    with pytest.raises(
        UnsupportedError, match=f"the network .*{word}.* the image before 'net.features.0'.*saliency"
    ):
        sightline.explain(Before(step), photo(), method, classes=1)
    assert sightline.explain(Before(step), photo(), "saliency", classes=1).maps.shape == (1, 1, HEIGHT, WIDTH)


def brightest_columns(x: Tensor) -> Tensor:
    """The 16 columns from the brightest one: another place of every image."""
    start = min(int(x[0].mean((0, 1)).argmax()), x.shape[3] - 16)
    return x[..., start : start + 16]


def test_a_crop_by_the_image_s_content_is_refused() -> None:
    x = torch.rand(1, 3, HEIGHT, WIDTH, dtype=torch.float64)
    x[..., 20:24] += 3  # the ramps' brightest column is another
    with pytest.raises(UnsupportedError, match="crops or shifts, depending on its content, the image before"):
        sightline.explain(Before(brightest_columns), x, method="gradcam")


def transformed(x: Tensor) -> Tensor:
    """A spatial transformer: half of the image, from a place that depends on its contrast."""
    shift = x.std((1, 2, 3)).clamp(max=0.4)
    theta = torch.zeros(len(x), 2, 3, dtype=x.dtype)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, 0, 2], theta[:, 1, 2] = 0.5, 0.5, shift, -shift
    grid = nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, align_corners=False)


def from_the_spread(x: Tensor) -> Tensor:
    """A crop of one size: the ramps, rising or falling, are all as far spread."""
    start = int(80 * float(x.std()))
    return x[..., start : start + 16, start : start + 16]


def from_the_mean(x: Tensor) -> Tensor:
    """A crop of as many columns as the image is bright; the ramps are all as bright."""
    return x[..., : 16 + int(20 * float(x.mean()))]


@pytest.mark.parametrize("step", [transformed, from_the_spread, from_the_mean])
def test_a_crop_that_is_the_same_for_all_ramps_is_refused_too(step: Callable[[Tensor], Tensor]) -> None:
    x = torch.rand(1, 3, HEIGHT, WIDTH, dtype=torch.float64) / 8
    with pytest.raises(UnsupportedError, match="crops or shifts, depending on its content, the image before"):
        sightline.explain(Before(step), x, method="gradcam")


class Unshuffled(nn.Module):
    """Squares of four pixels become twelve channels: pixel_unshuffle, or YOLO's Focus by slices."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.net = how, prepare(GapToy())
        self.net.features[0] = nn.Conv2d(12, self.net.features[0].out_channels, 3, padding=1).double()

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "pixel_unshuffle":
            return self.net(nn.functional.pixel_unshuffle(x, 2))
        parts = [x[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]
        joined = torch.stack(parts, 2).flatten(1, 2) if self.how == "stacked" else torch.cat(parts, 1)
        return self.net(joined)


@pytest.mark.parametrize("how", ["pixel_unshuffle", "stacked", "joined"])
def test_a_pixel_unshuffle_keeps_positions(how: str) -> None:
    torch.manual_seed(0)
    net, x = Unshuffled(how), photo()
    found = sightline.explain(net, x, "hirescam", classes=1)
    assert inspect_network(net, x).target.covers is None
    kept: list[Tensor] = []
    handle = net.net.features.register_forward_hook(lambda m, args, out: kept.append(out))
    score = net(x)[:, 1].sum()
    handle.remove()
    (g,) = torch.autograd.grad(score, kept[0])
    torch.testing.assert_close(found.maps[:, 0], (g * kept[0]).sum(1).relu().detach())
    spot = torch.zeros_like(x)
    spot[:, :, 4:8, 40:44] = 3  # one corner of the image, and the same corner of the layer
    moved = (net.net.features(_joined(net, x + spot)) - kept[0]).norm(dim=1)[0]
    row, column = divmod(int(moved.flatten().argmax()), moved.shape[1])
    assert abs((row + 0.5) / moved.shape[0] - 6 / HEIGHT) < 1.5 / moved.shape[0]
    assert abs((column + 0.5) / moved.shape[1] - 42 / WIDTH) < 1.5 / moved.shape[1]


def _joined(net: Unshuffled, x: Tensor) -> Tensor:
    given: list[Tensor] = []
    handle = net.net.register_forward_pre_hook(lambda m, args: given.append(args[0]))
    net(x)
    handle.remove()
    return given[0]


def test_a_mirrored_second_look_does_not_refuse_the_first() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = prepare(GapToy())

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) + self.net(x.flip(3))

    net, x = Twice(), photo()
    assert sightline.explain(net, x, "gradcam", classes=1, layer="net.features#0").maps.shape == (
        1,
        1,
        20,
        28,
    )
    with pytest.raises(UnsupportedError, match="mirrors"):
        sightline.explain(net, x, "gradcam", classes=1, layer="net.features#1")


# In the middle


@pytest.mark.parametrize(
    "turn", [lambda a: a.flip(3), lambda a: torch.roll(a, 14, 3), lambda a: torch.rot90(a, 1, (2, 3))]
)
def test_maps_that_are_turned_in_the_middle_are_refused(turn: Callable[[Tensor], Tensor]) -> None:
    net, x = Before(lambda x: x, turn), photo()
    with pytest.raises(UnsupportedError, match=r"layer 'net\.features\.4' does not follow the patch"):
        sightline.explain(net, x, "gradcam", classes=1)
    assert sightline.explain(net, x, "gradcam", classes=1, layer="net.features.1").maps.shape == (
        1,
        1,
        40,
        56,
    )


@pytest.mark.parametrize("turn", [lambda a: a.flip(3), lambda a: a.transpose(2, 3).flip(2)])
def test_a_hook_of_the_user_s_that_turns_the_last_map_is_refused(turn: Callable[[Tensor], Tensor]) -> None:
    net, x = prepare(GapToy()), photo()
    net.features[-1].register_forward_hook(lambda module, args, out: turn(out))
    with pytest.raises(UnsupportedError, match=r"layer 'features' does not follow the patch"):
        sightline.explain(net, x, "gradcam", classes=1)


def test_maps_that_are_cut_in_the_middle_lie_where_they_were_cut() -> None:
    net, x = Before(lambda x: x, lambda a: a[:, :, 4:16, 6:20]), photo()
    structure = inspect_network(net, x)
    assert structure.target is not None
    assert structure.target.covers == ((8, 32), (12, 40))
    assert structure.covers == {
        ("net.features.3", 0): ((8, 32), (12, 40)),
        ("net.features.4", 0): ((8, 32), (12, 40)),
    }


def shuffled(a: Tensor) -> Tensor:
    n, c, h, w = a.shape
    return a.view(n, 5, c // 5, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


@pytest.mark.parametrize(
    "harmless",
    [
        shuffled,
        lambda a: F.pad(a, (0, 1, 0, 1)),
        lambda a: a * a.mean((2, 3), keepdim=True).sigmoid(),
        lambda a: F.pad(a, (1, 0, 1, 0))[:, :, 1:, 1:],
        lambda a: torch.cat(a.chunk(5, 1), 1),
        lambda a: F.unfold(a, 1).view_as(a),
    ],
)
def test_what_leaves_positions_alone_is_not_refused(harmless: Callable[[Tensor], Tensor]) -> None:
    target = inspect_network(Before(lambda x: x, harmless), photo()).target
    assert target is not None
    assert target.covers is None


@pytest.mark.parametrize("case", ["zero weights", "one channel", "constant image", "tiny image", "half"])
def test_odd_networks_and_images_are_no_reason_to_refuse(case: str) -> None:
    net, x = Before(CenterCrop(32)), photo()
    if case == "zero weights":
        for parameter in net.parameters():
            parameter.data.zero_()
    if case == "one channel":
        net.net.features[0] = nn.Conv2d(1, 5, 3, padding=1).double()
        x = x[:, :1]
    if case == "constant image":
        x = torch.full_like(x, 0.5)
    if case == "tiny image":
        x = x[:, :, :20, :12]  # the crop pads it
        net.image = CenterCrop((16, 12))
    if case == "half":
        net, x = net.bfloat16(), x.bfloat16()
    maps = sightline.explain(net, x, "gradcam", classes=1).maps
    assert maps.shape == (1, 1, *x.shape[2:])


class Detector(nn.Module):
    """A detector's transform, torchvision's own, before a trunk: it resizes to 160 and pads to a multiple of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = GeneralizedRCNNTransform(160, 320, [0.5] * 3, [0.25] * 3)
        self.net = prepare(GapToy())

    def forward(self, x: Tensor) -> Tensor:
        images, _ = self.transform(list(x))
        return self.net(images.tensors)


@pytest.mark.parametrize(
    ("size", "covers"), [((160, 200), ((0, 160), (0, 224))), ((80, 100), ((0, 80), (0, 112)))]
)
def test_a_detector_that_resizes_and_pads_inside(size: tuple[int, int], covers: Spans) -> None:
    net, x = Detector(), make_images(1, size=200)[:, :, : size[0], : size[1]]
    target = inspect_network(net, x).target
    assert target is not None
    for found, wanted in zip(target.covers or (), covers, strict=True):
        assert found == pytest.approx(wanted, abs=0.1)
    shown = net.transform(list(x))[0].tensors
    inner = sightline.explain(net.net, shown, "gradcam", classes=1).maps
    expected = upsample(inner, (size[0], shown.shape[3] * size[0] // shown.shape[2]))[..., : size[1]]
    outer = sightline.explain(net, x, "gradcam", classes=1).maps
    torch.testing.assert_close(outer, expected, rtol=0, atol=1e-3 * float(expected.max()))
