"""A map is drawn where it was found to lie only if the pass went the same way: else it is looked for anew, or refused.

The network sees a red dot and nothing else; the box must be round the dot.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import sightline
from sightline.errors import InputError, UnsupportedError


class Dot(nn.Module):
    """A score that is the mean of what is red, 8 × 8 pixels a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.fc = nn.Conv2d(3, 1, 1, bias=False), nn.AvgPool2d(8), nn.Linear(1, 2)
        self.act, self.mirror, self.calls = nn.ReLU(), False, 0
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -0.6, -0.6]).view(1, 3, 1, 1))
            self.fc.weight.copy_(torch.tensor([[600.0], [0.0]]))
            self.fc.bias.zero_()

    def look(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.act(self.conv(x))).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.look(x.flip(-1) if self.mirror else x)


def scene(row: int, column: int, light: float = 0.3, size: int = 96) -> Tensor:
    image = torch.full((1, 3, size, size), light)
    place = (..., slice(row - 3, row + 4), slice(column - 3, column + 4))
    image[place] = 0
    image[:, 0][place] = 1
    return image


def box_round_the_dot(found: sightline.Explanation, row: int, column: int, image: int = 0) -> bool:
    x0, y0, x1, y1 = found.boxes(threshold=0.5)[image][0][0].tolist()
    return x0 <= column <= x1 and y0 <= row <= y1 and x1 - x0 < 30 and y1 - y0 < 30


def mirrored(network: nn.Module) -> None:
    network.mirror = True


def hooked(network: nn.Module) -> None:
    network.conv.register_forward_pre_hook(lambda module, args: (args[0].flip(-1),))


def patched(network: nn.Module) -> None:
    network.conv.forward = lambda x, before=network.conv.forward: before(x.flip(-1))


class Other(Dot):
    def forward(self, x: Tensor) -> Tensor:
        return self.look(x.flip(-1))


def of_another_class(network: nn.Module) -> None:
    network.__class__ = Other


@pytest.mark.parametrize("change", [mirrored, hooked, patched, of_another_class])
@pytest.mark.parametrize("method", ["gradcam", "cam", "fullycam", "layercam", "recipro_cam"])
def test_a_network_that_was_changed_is_looked_at_again(
    change: Callable[[nn.Module], None], method: str
) -> None:
    network = Dot().eval()
    assert box_round_the_dot(sightline.explain(network, scene(16, 16), method, classes=0), 16, 16)
    change(network)
    with pytest.raises(UnsupportedError, match="mirrors the image before 'conv'"):
        sightline.explain(network, scene(16, 16), method, classes=0)


def test_what_a_mode_a_hook_of_our_own_and_a_counter_change_is_not_looked_at_again() -> None:
    class Counts(Dot):
        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.look(x)

    for network in (Dot(), Counts()):
        passes: list[int] = []
        network.conv.register_forward_hook(
            lambda module, args, output, passes=passes: passes.append(len(output))
        )
        sightline.explain(network, scene(16, 16), "gradcam", classes=0)
        for _ in range(2):
            passes.clear()
            network.train(not network.training)
            sightline.explain(network, scene(16, 16), "gradcam:affinity", classes=0)
        assert passes == [1]


class Zoom(Dot):
    """Cuts out the hottest place, as networks for fine-grained classes do."""

    def forward(self, x: Tensor) -> Tensor:
        hot, cut = self.pool(self.conv(x).relu()).flatten(1).argmax(1).tolist(), []
        for i, k in enumerate(hot):
            y, c = min(max(0, k // 12 * 8 - 20), 48), min(max(0, k % 12 * 8 - 20), 48)
            cut.append(x[i : i + 1, :, y : y + 48, c : c + 48])
        return self.look(torch.cat(cut))


class Canonical(Dot):
    """Mirrors what is red to the right."""

    def forward(self, x: Tensor) -> Tensor:
        left = x[:, 0, :, :48].amax((1, 2)) > x[:, 0, :, 48:].amax((1, 2))
        return self.look(torch.where(left[:, None, None, None], x, x.flip(-1)))


class Bright(Dot):
    def forward(self, x: Tensor) -> Tensor:
        return self.look(x.flip(-1) if x.mean() > 0.4 else x)


@pytest.mark.parametrize("network", [Zoom, Canonical, Bright])
@pytest.mark.parametrize("method", ["gradcam", "cam", "fullycam"])
def test_what_the_content_decides_is_refused_for_the_photo_that_it_moves(
    network: type[Dot], method: str
) -> None:
    net, first = network().eval(), (16, 16)
    with contextlib.suppress(UnsupportedError):  # where it does as it did when it was looked at, it is right
        assert box_round_the_dot(sightline.explain(net, scene(*first), method, classes=0), *first)
    light = 0.6 if network is Bright else 0.3
    with pytest.raises(InputError, match=r"content|otherwise than others"):
        sightline.explain(net, scene(80, 80, light), method, classes=0)


class ByFlag(Dot):
    """Mirrors by a buffer's value."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("flag", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.look(x.flip(-1) if self.flag else x)


class ByChance(Dot):
    def forward(self, x: Tensor) -> Tensor:
        return self.look(x.flip(-1) if torch.rand(()) < 0.5 else x)


def test_a_flag_in_a_buffer_is_seen() -> None:
    network = ByFlag().eval()
    assert box_round_the_dot(sightline.explain(network, scene(16, 16), "gradcam", classes=0), 16, 16)
    network.flag.fill_(1)
    with pytest.raises(UnsupportedError, match="mirrors the image before 'conv'"):
        sightline.explain(network, scene(16, 16), "gradcam", classes=0)


@pytest.mark.parametrize("seed", range(8))
def test_a_network_that_mirrors_by_chance_is_right_or_refused(seed: int) -> None:
    network = ByChance().eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(4):
            with contextlib.suppress(InputError):
                assert box_round_the_dot(
                    sightline.explain(network, scene(16, 16), "gradcam", classes=0), 16, 16
                )


def test_a_way_that_depends_on_the_number_of_images_is_refused_or_right() -> None:
    class Several(Dot):
        def forward(self, x: Tensor) -> Tensor:
            return self.look(x.flip(-1) if len(x) > 1 else x)

    network = Several().eval()
    assert box_round_the_dot(sightline.explain(network, scene(16, 16), "gradcam", classes=0), 16, 16)
    with pytest.raises(
        InputError, match=r"turns these images otherwise than others.*or explain one image at a time"
    ):
        sightline.explain(network, scene(16, 16).repeat(2, 1, 1, 1), "gradcam", classes=0)


class Regions(Dot):
    """Classifies what is inside a box of the image."""

    def forward(self, image: Tensor, box: Tensor) -> Tensor:
        rois = torch.cat([torch.arange(len(image))[:, None].float(), box.expand(len(image), -1)], 1)
        return self.look(torchvision.ops.roi_align(image, rois, (64, 64), aligned=True))


def test_where_an_input_puts_the_map_is_found_for_each_of_its_values() -> None:
    network, image = Regions().eval(), scene(30, 60)
    boxes = torch.tensor([[0.0, 0, 96, 96], [40, 8, 88, 56], [20, 20, 84, 84]])
    for box in (*boxes, boxes[0]):
        found = sightline.explain(network, image, "gradcam", classes=0, inputs={"box": box[None]})
        assert box_round_the_dot(found, 30, 60)
    with pytest.raises(
        UnsupportedError, match=r"depends on its inputs \['box'\], which differ from image to image"
    ):
        sightline.explain(network, image.repeat(3, 1, 1, 1), "gradcam", classes=0, inputs={"box": boxes})
    same = sightline.explain(
        network,
        torch.cat([image, scene(40, 70)]),
        "gradcam",
        classes=0,
        inputs={"box": boxes[1:2].repeat(2, 1)},
    )
    assert box_round_the_dot(same, 30, 60)
    assert box_round_the_dot(same, 40, 70, 1)


class Warps(Dot):
    """A learnt zoom before the first convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]]]))

    def forward(self, x: Tensor) -> Tensor:
        grid = F.affine_grid(self.theta.expand(len(x), -1, -1), [len(x), 3, 96, 96], align_corners=False)
        return self.look(F.grid_sample(x, grid, align_corners=False))


def test_weights_that_place_the_map_are_looked_at_again_when_they_change() -> None:
    network = Warps().eval()
    assert box_round_the_dot(sightline.explain(network, scene(30, 60), "gradcam", classes=0), 30, 60)
    with torch.no_grad():
        network.theta.copy_(torch.tensor([[[0.5, 0, 0.25], [0, 0.5, -0.25]]]))
    assert box_round_the_dot(sightline.explain(network, scene(30, 60), "gradcam", classes=0), 30, 60)


class BothWays(Dot):
    """Test-time augmentation inside: the mean of the image's score and its mirror image's."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.look(x) + self.look(x.flip(-1))) / 2


class Halves(Dot):
    def forward(self, x: Tensor) -> Tensor:
        return self.look(x[..., :48]) + self.look(x[..., 48:])


@pytest.mark.parametrize(
    ("network", "method", "message"),
    [
        (BothWays, "fullycam", "mirrors the image before 'conv'"),
        (BothWays, "refinecam", "side by side"),
        (Halves, "refinecam", "side by side"),
    ],
)
def test_layers_that_a_method_chooses_itself_must_lie_on_the_image(
    network: type[Dot], method: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        sightline.explain(network().eval(), scene(16, 16), method, classes=0)


def test_layers_side_by_side_that_lie_on_the_image_are_fused() -> None:
    assert box_round_the_dot(sightline.explain(Halves().eval(), scene(16, 16), "fullycam", classes=0), 16, 16)


class BiasedBothWays(BothWays):
    def __init__(self) -> None:
        super().__init__()
        weight = self.conv.weight
        self.conv = nn.Conv2d(3, 1, 1)
        with torch.no_grad():
            self.conv.weight.copy_(weight)
            self.conv.bias.fill_(0.1)


def test_fullgrad_refuses_biases_of_a_mirrored_view() -> None:
    with pytest.raises(UnsupportedError, match="mirrors the image before 'conv'"):
        sightline.explain(BiasedBothWays().eval(), scene(16, 16), "fullgrad", classes=0)


class Joined(nn.Module):
    """A map, and what it is joined with, before the last layer."""

    def __init__(self, join: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.fc = nn.Conv2d(3, 4, 8, 8), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.join(self.first(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("join", "refused"),
    [
        (lambda f: f + f.flip(-1).flip(-1), False),
        (lambda f: f + F.pad(f, (2, 2, 2, 2))[..., 2:-2, 2:-2], False),
        (lambda f: f + f.flip(-1), True),
        (lambda f: f.flip(-1) + f, True),
        (lambda f: torch.maximum(f, f.flip(-2)), True),
        (lambda f: f.repeat(1, 1, 2, 2), True),
        (lambda f: f.flip(-1), True),
    ],
)
@pytest.mark.parametrize("method", ["gradcam", "cam", "fullycam"])
def test_a_map_that_shows_each_thing_twice_is_refused(
    join: Callable[[Tensor], Tensor], refused: bool, method: str
) -> None:
    torch.manual_seed(0)
    network = Joined(join).eval()
    if refused:
        with pytest.raises(UnsupportedError, match="does not follow the patch of the image that is changed"):
            sightline.explain(network, torch.rand(1, 3, 96, 96), method, classes=0)
    else:
        found = sightline.explain(network, torch.rand(1, 3, 96, 96), method, classes=0)
        assert torch.isfinite(found.maps).all()


class Sorted(Dot):
    """Sorts the images of a batch, and puts the answers back into order: expert routing, buckets of lengths."""

    def forward(self, x: Tensor) -> Tensor:
        order = x.mean((1, 2, 3)).argsort(descending=True)
        return self.look(x[order])[order.argsort()]


@pytest.mark.parametrize("method", ["recipro_cam", "ablationcam"])
def test_copies_of_a_map_are_not_shown_to_a_network_that_sorts_them(method: str) -> None:
    network = Sorted().eval()
    assert box_round_the_dot(sightline.explain(network, scene(72, 32), "gradcam", classes=0), 72, 32)
    with pytest.raises(UnsupportedError, match=r"into another order .*use 'gradcam', on one image at a time"):
        sightline.explain(network, scene(72, 32), method, classes=0)


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v)[:, 0]


class Reorders(nn.Module):
    """Two blocks of attention, between which the tokens may change places."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.patch, self.cls = nn.Conv2d(3, 4, 8, 8), nn.Parameter(torch.zeros(1, 1, 4))
        self.a, self.b, self.fc, self.between = Attends(), Attends(), nn.Linear(4, 2), between

    def forward(self, x: Tensor) -> Tensor:
        t = self.patch(x).flatten(2).transpose(1, 2)
        t = torch.cat([self.cls.expand(len(t), -1, -1), t], 1)
        t = self.between(t + self.a(t))
        return self.fc((t + self.b(t)).mean(1))


def _sorted(t: Tensor) -> Tensor:
    place = t[:, 1:].norm(dim=-1).argsort()[..., None].expand(-1, -1, 4)
    return torch.cat([t[:, :1], t[:, 1:].gather(1, place)], 1)


@pytest.mark.parametrize(
    ("between", "refused"),
    [
        (lambda t: t, False),
        (lambda t: torch.cat([t[:, :1], t[:, 1:]], 1), False),
        (lambda t: torch.cat([t[:, 1:], t[:, :1]], 1), True),
        (lambda t: t.flip(1), True),
        (lambda t: t.roll(3, 1), True),
        (lambda t: t[:, torch.randperm(65, generator=torch.Generator().manual_seed(0))], True),
        (_sorted, True),
    ],
)
@pytest.mark.parametrize("method", ["attention_rollout", "gradient_rollout", "chefer"])
def test_attention_is_not_followed_where_tokens_change_places(
    between: Callable[[Tensor], Tensor], refused: bool, method: str
) -> None:
    torch.manual_seed(0)
    network, image = Reorders(between).eval(), torch.rand(1, 3, 64, 64)
    if refused:
        with pytest.raises(UnsupportedError, match="tokens change places between the blocks"):
            sightline.explain(network, image, method, classes=0)
    else:
        assert sightline.explain(network, image, method, classes=0).maps.shape == (1, 1, 8, 8)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_untrained_encoders_of_pytorch_are_taken_whatever_their_weights(norm_first: bool, seed: int) -> None:
    """With the norm behind the addition an untrained class token moves more than the patch that is changed."""
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=norm_first)

    class Vit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.cls = nn.Conv2d(3, 16, 8, 8), nn.Parameter(torch.zeros(1, 1, 16))
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.fc = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            t = self.patch(x).flatten(2).transpose(1, 2)
            return self.fc(self.encoder(torch.cat([self.cls.expand(len(t), -1, -1), t], 1)).mean(1))

    found = sightline.explain(Vit().eval(), torch.rand(1, 3, 64, 64), "gradcam", classes=0)
    assert found.maps.shape == (1, 1, 8, 8)


@pytest.mark.parametrize("method", ["gradcam", "cam", "ablationcam"])
def test_a_spectral_norm_in_training_mode_stays_as_it_is(method: str) -> None:
    norm = nn.utils.parametrizations.spectral_norm
    network = nn.Sequential(
        norm(nn.Conv2d(3, 4, 3)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), norm(nn.Linear(4, 2))
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    sightline.explain(network, torch.rand(1, 3, 16, 16), method, classes=0)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
