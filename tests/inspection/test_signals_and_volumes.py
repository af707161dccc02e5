"""Networks of 1-D and 3-D convolutions: maps (N, K, *grid), linear and trilinear upsampling, slices as pictures."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import sightline
from sightline.errors import InputError, UnsupportedError
from sightline.heatmap import make_heatmaps, upsample
from sightline.inspection.naming import describe_layers
from sightline.methods.registry import list_methods
from sightline.methods.rise import make_masks
from sightline.pictures.slices import as_picture, curve
from toynets import TokenToy

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
GAP = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
SIZES = {1: (24,), 2: (12, 10), 3: (4, 8, 6)}
# What a picture of height 1 and a signal have in common: all of them but those that draw or slide in two directions.
PICTURES_ONLY = {"attention_rollout", "chefer", "fullgrad", "gradient_rollout", "legrad"}
SAME = sorted(
    set(list_methods()) - PICTURES_ONLY - {"occlusion", "rise"}
)  # those two have loops of their own below
FAST: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 2}, "smoothgrad": {"samples": 2}, "smoothgradcam_pp": {"samples": 2},
    "sscam": {"samples": 2},
}  # fmt: skip


def network(axes: int, pool: bool = True) -> nn.Sequential:
    torch.manual_seed(axes)
    middle = [POOL[axes](2)] if pool else []
    return nn.Sequential(
        CONV[axes](2, 5, 3, padding=1), nn.ReLU(), *middle, CONV[axes](5, 6, 3, padding=1), nn.ReLU(),
        GAP[axes](1), nn.Flatten(), nn.Linear(6, 4),
    ).double().eval()  # fmt: skip


def batch(axes: int, n: int = 2) -> Tensor:
    return torch.randn(n, 2, *SIZES[axes], generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def slow(net: nn.Sequential, x: Tensor, method: str, label: int) -> Tensor:
    """The equations position by position, in plain Python, of one input (1, C, *grid): (*grid)."""
    last = len(net) - 4
    a = net[: last + 1](x).detach().requires_grad_()
    net[last + 1 :](a)[0, label].backward()
    assert a.grad is not None
    weight = net[-1].weight[label]
    out = torch.zeros(a.shape[2:], dtype=x.dtype)
    places = list(itertools.product(*(range(side) for side in a.shape[2:])))
    for place in places:
        for k in range(a.shape[1]):
            here = a[(0, k, *place)].item()
            if method == "cam":
                factor = weight[k].item()
            elif method == "gradcam":
                factor = sum(a.grad[(0, k, *p)].item() for p in places) / len(places)
            else:  # layercam
                factor = max(a.grad[(0, k, *place)].item(), 0.0)
            out[place] += factor * here
    return out if method == "cam" else out.clamp(min=0)


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("method", ["cam", "gradcam", "layercam"])
def test_the_equations_position_by_position(axes: int, method: str) -> None:
    net, x = network(axes), batch(axes)
    found = sightline.explain(net, x, method, torch.tensor([[2, 0], [1, 3]]))
    assert found.layers == ["4"]
    for i, k in itertools.product(range(2), range(2)):
        expected = slow(net, x[i : i + 1], method, int(found.classes[i, k]))
        torch.testing.assert_close(found.maps[i, k], expected, rtol=1e-10, atol=1e-12)
    if method == "cam":  # its mean is the score
        means = found.maps.flatten(2).mean(2) + net[-1].bias[found.classes]
        torch.testing.assert_close(means, found.logits.gather(1, found.classes))


@pytest.mark.parametrize("method", SAME)
def test_a_signal_is_a_picture_of_height_one(method: str) -> None:
    line, x = network(1, pool=False), batch(1)
    flat = network(2, pool=False)
    with torch.no_grad():
        for one, two in zip(line, flat, strict=True):
            if isinstance(one, nn.Conv1d):
                two.weight.zero_()[:, :, 1] = one.weight  # the rows above and below are padding
                two.bias.copy_(one.bias)
            elif isinstance(one, nn.Linear):
                two.load_state_dict(one.state_dict())
    found = sightline.explain(line, x, method, "top2", **FAST.get(method, {}))
    wanted = sightline.explain(flat, x[:, :, None], method, "top2", **FAST.get(method, {}))
    assert found.maps.shape == (2, 2, 24)
    torch.testing.assert_close(found.maps, wanted.maps[:, :, 0], rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(found.heatmaps(), wanted.heatmaps()[:, :, 0], rtol=1e-7, atol=1e-9)


def test_slices_that_do_not_touch_are_pictures_of_their_own() -> None:
    """With kernels of depth 1 a volume's CAM is the CAM of each slice."""
    volume, picture = network(3, pool=False), network(2, pool=False)
    with torch.no_grad():
        for one, two in zip(volume, picture, strict=True):
            if isinstance(one, nn.Conv3d):
                one.weight.zero_()[:, :, 1] = two.weight
                one.bias.copy_(two.bias)
            elif isinstance(one, nn.Linear):
                one.load_state_dict(two.state_dict())
    x = batch(3)
    for method in ("cam", "layercam", "fem", "scorecam"):
        maps = sightline.explain(volume, x, method, 1).maps
        if method in ("cam", "layercam"):
            for depth in range(4):
                own = sightline.explain(picture, x[:, :, depth], method, 1).maps
                torch.testing.assert_close(
                    maps[:, :, depth], own / (4 if method == "layercam" else 1), rtol=1e-9, atol=1e-12
                )
        assert maps.shape == (2, 1, 4, 8, 6)


@pytest.mark.parametrize("axes", [1, 3])
def test_occlusion_and_rise_by_loops(axes: int) -> None:
    net, x = network(axes), batch(axes, 1)
    window, stride = {1: (6, 3), 3: (4, 2)}[axes]
    found = sightline.explain(net, x, "occlusion", 1, window=window, stride=stride).maps[0, 0]
    total, times = torch.zeros(SIZES[axes]).double(), torch.zeros(SIZES[axes])
    starts = [range(0, side - window + 1, stride) for side in SIZES[axes]]
    for place in itertools.product(*starts):
        cut = tuple(slice(at, at + window) for at in place)
        masked = x.clone()
        masked[(0, slice(None), *cut)] = 0
        total[cut] += (net(x) - net(masked))[0, 1].item()
        times[cut] += 1
    torch.testing.assert_close(found, total / times)

    masks = make_masks(5, 3, 0.5, SIZES[axes], torch.Generator().manual_seed(4), dtype=torch.float64)
    assert masks.shape == (5, 1, *SIZES[axes])
    wanted = sum(net(x * m)[0].softmax(0)[1].item() * m[0] for m in masks) / (5 * 0.5)
    seen = sightline.explain(net, x, "rise", 1, masks=5, grid=3, seed=4, chunk=2).maps[0, 0]
    torch.testing.assert_close(seen, wanted)


def test_by_hand() -> None:
    """A = x, y = 2 · mean of channel 0 − mean of channel 1."""
    net = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2, 1, bias=False))
    convolution = nn.Conv1d(2, 2, 1, bias=False)
    with torch.no_grad():
        convolution.weight.copy_(torch.eye(2)[:, :, None])
        net[3].weight.copy_(torch.tensor([[2.0, -1.0]]))
    x = torch.tensor([[[0.0, 1.0, 3.0], [1.0, 0.0, 2.0]]])
    found = sightline.explain(nn.Sequential(convolution, *net), x, "cam", 0)
    assert found.maps.tolist() == [[[-1.0, 2.0, 4.0]]]
    assert found.heatmaps().tolist() == [[[0.0, pytest.approx(0.6), 1.0]]]


def test_upsampling_is_linear_and_trilinear() -> None:
    assert upsample(torch.tensor([0.0, 4.0]), (4,)).tolist() == [0, 1, 3, 4]
    ramp = torch.tensor([0.0, 4.0])
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = 2
        size = [1, 1, 1]
        size[axis] = 4
        assert upsample(ramp.view(shape), size).flatten().tolist() == [0, 1, 3, 4]
    maps = torch.rand(2, 3, 2, 3, 4)
    assert make_heatmaps(maps, (4, 6, 8)).flatten(2).amax(2).tolist() == [[1.0] * 3] * 2
    assert not make_heatmaps(torch.ones(1, 2, 2, 2), (4, 4, 4)).any()
    with pytest.raises(InputError, match="bicubic"):
        upsample(maps, (4, 6, 8), "bicubic")


def test_a_video_network_and_its_layers() -> None:
    torch.manual_seed(0)
    video = torchvision.models.video.resnet  # r3d_18 with half its blocks
    stem = video.VideoResNet(video.BasicBlock, [video.Conv3DSimple] * 4, [1, 1, 1, 1], video.BasicStem, 5)
    clip = torch.rand(1, 3, 4, 32, 48)
    found = sightline.explain(stem, clip, "cam", "top2")
    assert found.layers == ["layer4"]
    assert found.maps.shape == (1, 2, 1, 2, 3)
    early = sightline.explain(stem, clip, "layercam", layer="layer2")
    assert early.maps.shape == (1, 1, 2, 8, 12)
    assert early.heatmaps().shape == (1, 1, 4, 32, 48)
    rows = {row.name: row for row in describe_layers(stem, clip)}
    assert rows["layer4"].chosen
    assert (rows["layer1"].shape, str(rows["layer1"].layout)) == ((64, 4, 16, 24), "ncdhw")
    assert "maps 2×8×12 at layer2" in repr(early)


class PatchTokens(nn.Module):
    """Patches of a signal or of a clip as tokens, one block, their mean."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.patch = CONV[axes](2, 8, 2, 2)
        self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 8)
        self.last, self.fc = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        given = self.norm(tokens)
        tokens = tokens + nn.functional.scaled_dot_product_attention(given, given, given)
        return self.fc(self.last(tokens + self.mix(tokens)).mean(1))


@pytest.mark.parametrize(("axes", "grid"), [(1, (12,)), (3, (2, 4, 3))])
def test_tokens_of_signals_and_clips(axes: int, grid: tuple[int, ...]) -> None:
    found = sightline.explain(PatchTokens(axes).eval(), batch(axes).float(), "gradcam")
    assert found.layers == ["last"]
    assert found.maps.shape == (2, 1, *grid)


def test_pictures_of_signals_and_volumes(tmp_path: Any) -> None:
    slices = as_picture(torch.arange(5.0).view(5, 1, 1).expand(5, 2, 3), 3)
    assert slices[::2, ::3].tolist() == [[0, 1, 2], [3, 4, 0]]
    assert as_picture(torch.zeros(30, 4, 4), 3).shape == (12, 16)
    dark = [
        sum(1 for y in range(192) if curve(torch.tensor([[0.0, 1.0]])).getpixel((x, y))[0] < 100)
        for x in (150, 400)
    ]
    assert all(dark)
    for axes in (1, 3):
        found = sightline.explain(network(axes), batch(axes), classes="top2")
        assert found.panel(1).mode == found.overlay(0, 1).mode == "RGB"
        assert found.predictions()[0][0].boxes_xyxy.shape == (0, 4)
        assert (found.save(tmp_path / str(axes)) / "manifest.json").exists()
        assert len(found[1].with_method("cam").maps) == 1


def test_what_is_for_pictures_only_says_so() -> None:
    for axes, kind in ((1, "signals of 24"), (3, "volumes of 4 × 8 × 6")):
        net, x = network(axes), batch(axes)
        found = sightline.explain(net, x)
        for ask, what in ((found.boxes, "a box"), (found.masks, "a mask"), (found.labels, "a label")):
            with pytest.raises(UnsupportedError, match=f"{what} is of pictures, and these are {kind}"):
                ask()
        for method in (*sorted(PICTURES_ONLY), "saliency:smooth=0.02"):
            with pytest.raises(UnsupportedError, match="picture"):
                sightline.explain(net, x, method)
        for method in ("cam:flip", "cam:scales=2", "cam:affinity", "layercam:layer=1,4"):
            with pytest.raises(InputError, match="is for pictures"):
                sightline.explain(net, x, method)
        assert sightline.explain(net, x, "gradcam:smooth.samples=2").maps.shape == found.maps.shape
    with pytest.raises(UnsupportedError, match="recipro_cam:gaussian=false"):
        sightline.explain(network(3), batch(3), "recipro_cam")
    assert sightline.explain(network(3), batch(3), "recipro_cam", gaussian=False).maps.shape == (
        2,
        1,
        2,
        4,
        3,
    )
    with pytest.raises(InputError, match=r"\(2, 2\) is a size \(h, w\), and the input has 3 sides"):
        sightline.explain(network(3), batch(3), "occlusion", window=(2, 2))


class Fold(nn.Module):
    """Frames or rows, made into something else before the 2-D convolutions of `network(2)`."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.net = how, network(2)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "frames as images":
            n = len(x)
            return self.net(x.transpose(1, 2).flatten(0, 1)).view(n, -1, 4).mean(1)
        if self.how == "frames as channels":
            return self.net(x[:, 0, :2])
        return self.net(x.view(len(x), 2, 4, 6))  # a signal made a picture, as a spectrogram is


@pytest.mark.parametrize(
    ("how", "axes", "words"),
    [
        ("frames as images", 3, "the first axis is not the batch"),
        ("frames as channels", 3, "has 2 axes of positions, and the input has 3"),
        ("a signal as a picture", 1, "expected \\(N, 3, H, W\\)"),
    ],
)
def test_a_network_that_folds_its_input_is_refused(how: str, axes: int, words: str) -> None:
    for layer in (None, "net.4") if axes == 3 else (None,):
        with pytest.raises(InputError, match=words if layer is None else "batch|axes of positions"):
            sightline.explain(Fold(how), batch(axes), layer=layer)


def test_a_batch_of_the_wrong_kind() -> None:
    with pytest.raises(UnsupportedError, match="has 1 axes of positions, and the input has 2"):
        sightline.explain(TokenToy().eval(), torch.rand(1, 3, 16, 16), layer="norm", layout="ntc:1+16")
    with pytest.raises(InputError, match=r"\(3, 8, 8\); expected \(N, 3, H, W\); add the batch dimension"):
        sightline.explain(network(2), torch.rand(3, 8, 8))
    with pytest.raises(InputError, match="fails on a batch of 1 × 2 × 4 × 8 × 8"):
        sightline.explain(network(2), torch.rand(1, 2, 4, 8, 8).double())
