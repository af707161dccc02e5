"""Networks of which a wrong picture was once drawn: each map is compared with autograd by hand, or refused."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

import sightline
from sightline.errors import InputError, UnsupportedError
from sightline.inspection.naming import describe_layers
from sightline.inspection.structure import inspect_network
from toynets import CLASSES, GapToy, make_images, prepare

PICKED = torch.tensor([2, 1])


def gradcam_by_hand(maps: Tensor, score: Tensor) -> Tensor:
    """Grad-CAM from a map (N, C, h, w) in the graph of the scores (N,): (N, h, w)."""
    (g,) = torch.autograd.grad(score.sum(), maps, retain_graph=True)
    return (g.mean((2, 3), keepdim=True) * maps).sum(1).relu().detach()


def picked(logits: Tensor) -> Tensor:
    return logits.gather(1, PICKED[:, None])[:, 0]


def agree(given: Tensor, expected: Tensor) -> None:
    assert expected.max() > 1e-6
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-10 * float(expected.max()))


# Channels last


class Permute(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize("channels", [16, 4])  # 4 = h = w, too
def test_channels_last_before_a_flattening(channels: int) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, channels, 4, 4), nn.ReLU(), Permute(), nn.LayerNorm(channels), nn.Flatten(),
        nn.Linear(16 * channels, CLASSES),
    )  # fmt: skip
    x = make_images()
    prepare(net)
    last = net[:4](x)
    maps = last.permute(0, 3, 1, 2)
    found = sightline.explain(net, x, classes=PICKED)
    agree(found.maps[:, 0], gradcam_by_hand(maps, picked(net[4:](maps.permute(0, 2, 3, 1)))))
    assert found.layers == ["3"]


def small_swin() -> tuple[SwinTransformer, Tensor]:
    torch.manual_seed(0)
    net = SwinTransformer(
        img_size=32,
        patch_size=2,
        embed_dim=8,
        depths=(2, 2),
        num_heads=(2, 2),
        window_size=4,
        num_classes=CLASSES,
    )
    return net.double().eval(), make_images(size=32)


@pytest.mark.parametrize("layer", ["layers.1", "norm", "layers.0", None])
def test_swin_is_read_channels_last(layer: str | None) -> None:
    net, x = small_swin()
    kept: list[Tensor] = []
    module = net.get_submodule(layer or "norm")
    handle = module.register_forward_hook(lambda m, args, out: kept.append(out))
    score = picked(net(x))
    handle.remove()
    (g,) = torch.autograd.grad(score.sum(), kept[0])
    expected = (g.mean((1, 2), keepdim=True) * kept[0]).sum(3).relu().detach()
    agree(sightline.explain(net, x, classes=PICKED, layer=layer).maps[:, 0], expected)


def test_only_layers_that_can_be_explained_are_listed_and_each_with_its_layout() -> None:
    net, x = small_swin()
    rows = {row.name: row for row in describe_layers(net, x)}
    assert rows["layers.1"].shape == (16, 8, 8)
    assert str(rows["layers.1"].layout) == "nhwc"
    assert str(rows["patch_embed.proj"].layout) == "nchw"
    for name in rows:
        maps = sightline.explain(net, x, "layercam", layer=name).maps
        assert maps.shape[2:] in ((16, 16), (8, 8)), name


class MeanOfTokens(nn.Module):
    """A norm over the channels before a mean over the positions, the channels as many as rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 4, 4), nn.LayerNorm(4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2)))


def test_a_mean_over_positions_is_not_one_over_channels() -> None:
    net, x = prepare(MeanOfTokens()), make_images()
    maps = net.norm(net.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    expected = torch.einsum("nc,nchw->nhw", net.fc.weight[PICKED], maps).detach()
    agree(sightline.explain(net, x, "cam", classes=PICKED).maps[:, 0], expected)


# The last tensor in time is not the image's


class Siamese(GapToy):
    """A query is compared with a fixed reference, which runs through the trunk afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("reference", make_images(1, seed=9))

    def forward(self, x: Tensor) -> Tensor:
        query = self.pool(self.features(x)).flatten(1)
        reference = self.pool(self.features(self.reference)).flatten(1)
        return self.fc(query * reference)


def test_the_query_is_explained_and_not_the_reference() -> None:
    net, x = prepare(Siamese()), make_images()
    first = net.features(x)
    reference = net.pool(net.features(net.reference)).flatten(1)
    expected = gradcam_by_hand(first, picked(net.fc(net.pool(first).flatten(1) * reference)))
    found = sightline.explain(net, x, classes=PICKED)
    agree(found.maps[:, 0], expected)
    assert found.layers == ["features#0"]
    assert not torch.allclose(expected[0], expected[1])


class TwoStreams(nn.Module):
    """Colour and depth, each with a trunk; ``share`` is the depth's part of the score."""

    def __init__(self, share: float, depth_last: bool) -> None:
        super().__init__()
        self.colour, self.depth = GapToy().features, GapToy().features
        self.depth[0] = nn.Conv2d(1, 5, 3, padding=1)
        self.fc, self.share, self.depth_last = nn.Linear(12, CLASSES), share, depth_last

    def forward(self, x: Tensor) -> Tensor:
        streams = [(self.colour, x[:, :3]), (self.depth, x[:, 3:])]
        order = [0, 1] if self.depth_last else [1, 0]
        seen = {i: streams[i][0](streams[i][1]).mean((2, 3)) for i in order}
        return self.fc(torch.cat([seen[0], seen[1] * self.share], 1))


def four_channels() -> Tensor:
    return torch.cat([make_images(), make_images(seed=5)[:, :1]], 1)


@pytest.mark.parametrize("depth_last", [True, False])
def test_a_stream_of_no_weight_is_not_taken(depth_last: bool) -> None:
    net, x = prepare(TwoStreams(0.0, depth_last)), four_channels()
    found = sightline.explain(net, x, classes=PICKED)
    a = net.colour(x[:, :3])
    expected = gradcam_by_hand(a, picked(net.fc(torch.cat([a.mean((2, 3)), torch.zeros(2, 6).double()], 1))))
    agree(found.maps[:, 0], expected)
    assert found.layers == ["colour"]


def test_two_streams_that_both_count_are_named_and_neither_is_drawn() -> None:
    net, x = prepare(TwoStreams(1.0, True)), four_channels()
    with pytest.raises(InputError, match=r"'depth'.*'colour'.*name one"):
        sightline.explain(net, x, classes=PICKED)
    assert sightline.explain(net, x, classes=PICKED, layer="colour").maps.shape == (2, 1, 8, 8)


class WithDecoder(GapToy):
    """Scores, and the image painted again from the same maps, later."""

    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.decoder, self.wrap = nn.Conv2d(6, 3, 3, padding=1), wrap

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        a = self.features(x)
        logits = self.fc(self.pool(a).flatten(1))
        painted = self.decoder(F.interpolate(a, scale_factor=2)).sigmoid()
        return self.wrap(logits, F.avg_pool2d(painted, 2))


@pytest.mark.parametrize("how", ["logits", "tuple"])
def test_a_decoder_behind_the_scores_is_not_explained(how: str) -> None:
    def wrap(logits: Tensor, painted: Tensor) -> Any:
        return SimpleNamespace(logits=logits, painted=painted) if how == "logits" else (logits, painted)

    net, x = prepare(WithDecoder(wrap)), make_images()
    asked: dict[str, Any] = {"classes": 3} if how == "logits" else {"target": lambda out: out[0][:, 3]}
    a = net.features(x)
    expected = gradcam_by_hand(a, net.fc(net.pool(a).flatten(1))[:, 3])
    agree(sightline.explain(net, x, **asked).maps[:, 0], expected)


# The first axis is not the batch


class Video(GapToy):
    """Four frames of each clip, (N, 12, h, w), are folded into the batch; their scores are averaged."""

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        frames = x.reshape(n * 4, 3, *x.shape[2:])
        return self.fc(self.pool(self.features(frames)).flatten(1)).view(n, 4, -1).mean(1)


class Regions(GapToy):
    """Two regions of each image are cut out and classified."""

    def __init__(self) -> None:
        super().__init__()
        self.crop = Crop()

    def forward(self, x: Tensor) -> Tensor:
        a = self.features(x)
        return self.fc(self.pool(self.crop(a)).flatten(1)).view(len(x), 2, -1).amax(1)


class Crop(nn.Module):
    def forward(self, a: Tensor) -> Tensor:
        return torch.stack([a[:, :, :4], a[:, :, 4:]], 1).flatten(0, 1)


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "eigencam"])
@pytest.mark.parametrize("layer", [None, "features.4"])
def test_frames_in_the_batch_are_refused(method: str, layer: str | None) -> None:
    net, x = prepare(Video()), torch.cat([make_images(2, seed=s) for s in range(4)], 1)
    with pytest.raises(InputError, match="first axis is not the batch"):
        sightline.explain(net, x, method, classes=PICKED, layer=layer)


def test_regions_in_the_batch_are_refused_and_the_trunk_is_offered() -> None:
    net, x = prepare(Regions()), make_images()
    with pytest.raises(InputError, match=r"'crop'.*first axis is not the batch.*'features'"):
        sightline.explain(net, x, classes=PICKED, layer="crop")
    a = net.features(x)
    crops = torch.stack([a[:, :, :4], a[:, :, 4:]], 1)
    expected = gradcam_by_hand(a, picked(net.fc(crops.mean((3, 4))).amax(1)))
    agree(sightline.explain(net, x, classes=PICKED, layer="features").maps[:, 0], expected)


# What was found is no longer so


class TwoTasks(GapToy):
    """One trunk, or two (``trunks``), and two heads; a flag says which."""

    def __init__(self, trunks: bool = False) -> None:
        super().__init__()
        self.other, self.task = nn.Linear(6, CLASSES), "first"
        self.second = GapToy().features if trunks else self.features

    def forward(self, x: Tensor) -> Tensor:
        if self.task == "first":
            return self.fc(self.pool(self.features(x)).flatten(1))
        return self.other(self.pool(self.second(x)).flatten(1))


@pytest.mark.parametrize("trunks", [False, True])
@pytest.mark.parametrize("method", ["cam", "gradcam"])
def test_another_task_has_another_head(method: str, trunks: bool) -> None:
    net, x = prepare(TwoTasks(trunks)), make_images()
    before = sightline.explain(net, x, method, classes=PICKED).maps
    net.task = "second"
    a, weight = net.second(x), net.other.weight[PICKED]
    cam = torch.einsum("nc,nchw->nhw", weight, a).detach()
    given = sightline.explain(net, x, method, classes=PICKED).maps[:, 0]
    agree(given, cam if method == "cam" else cam.relu() / 64)
    net.task = "first"
    assert torch.equal(sightline.explain(net, x, method, classes=PICKED).maps, before)


def test_checkpointing_may_be_switched_on_at_any_time() -> None:
    net, x = timm.create_model("test_resnet", num_classes=CLASSES).double().eval(), make_images(size=64)
    before = {m: sightline.explain(net, x, m, classes=PICKED).maps for m in ("gradcam", "cam", "saliency")}
    net.set_grad_checkpointing(True)
    for method, maps in before.items():
        assert torch.equal(sightline.explain(net, x, method, classes=PICKED).maps, maps)
    assert net.grad_checkpointing


class NotLinear(nn.Module):
    """Not pooling and one linear layer, which a black image does not show: it has no bias anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3, bias=False), nn.Linear(6, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)).sqrt())


def test_a_head_is_not_recognised_on_a_black_image() -> None:
    net = prepare(NotLinear())
    for x in (torch.zeros(1, 3, 16, 16).double(), make_images(1)):
        with pytest.raises(UnsupportedError, match="cam needs a head"):
            sightline.explain(net, x, "cam", classes=0)


# Other threads


def together(work: list[Callable[[], None]]) -> None:
    """Run at the same time; raise what went wrong in any."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(work))

    def run(one: Callable[[], None]) -> None:
        try:
            start.wait()
            one()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_four_threads_explain_with_one_network() -> None:
    net = torchvision.models.squeezenet1_1(weights=None, num_classes=7).eval()
    images = [torch.randn(1, 3, 48, 48) for _ in range(4)]
    alone = [sightline.explain(copy.deepcopy(net), x, "layercam", classes=3).maps for x in images]

    def work(i: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(15):
                assert torch.equal(sightline.explain(net, images[i], "layercam", classes=3).maps, alone[i])

        return run

    together([work(i) for i in range(4)])


@pytest.mark.parametrize("method", ["gradcam", "ablationcam", "cam"])
def test_others_predict_and_train_meanwhile(method: str) -> None:
    net, x = prepare(GapToy()), make_images(1)
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double().train()
    twin = copy.deepcopy(other)
    with torch.no_grad():
        expected = net(x)
    maps = sightline.explain(copy.deepcopy(net), x, method, classes=1).maps
    done = threading.Event()

    def explains() -> None:
        try:
            for _ in range(12):
                assert torch.equal(sightline.explain(copy.deepcopy(net), x, method, classes=1).maps, maps)
                assert torch.equal(sightline.explain(net, x, method, classes=1).maps, maps)
        finally:
            done.set()

    def predicts() -> None:
        with torch.no_grad():
            while not done.is_set():
                y = net(x)
                assert torch.equal(y, expected)
                assert not y.requires_grad

    trained = 0

    def trains() -> None:
        nonlocal trained
        while not done.is_set():
            other(x)
            trained += 1

    together([explains, predicts, trains])
    for _ in range(trained):
        twin(x)
    assert torch.equal(other[1].running_mean, twin[1].running_mean)
    assert torch.equal(other[1].running_var, twin[1].running_var)
    assert other.training


def test_what_is_found_while_another_thread_predicts_is_right() -> None:
    done = threading.Event()
    nets = [prepare(GapToy(), seed) for seed in range(20)]
    x = make_images(1)

    def finds() -> None:
        try:
            for net in nets:
                assert str(inspect_network(net, x).target) == "features"
        finally:
            done.set()

    def predicts() -> None:
        while not done.is_set():
            for net in nets:
                net(x)

    together([finds, predicts])
