"""Networks of tokens: the layer that is found, and every map against autograd with a reshaping written by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import sightline
from sightline.errors import InputError, UnsupportedError
from sightline.inspection.structure import inspect_network
from toynets import CLASSES, TokenToy, make_images, prepare

PICKED = torch.tensor([2, 1])


def vit(depth: int = 12, seed: int = 0, **options: object) -> VisionTransformer:
    torch.manual_seed(seed)
    given = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 16,
        "num_heads": 2,
        "num_classes": CLASSES,
        **options,
    }
    net = VisionTransformer(depth=depth, **given).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn_like(p)
    return net


def by_hand(
    net: nn.Module, x: Tensor, layer: str, prefix: int, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The map and its gradient at a layer of tokens: (N, C, h, w) each."""
    kept: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, args, out: kept.append(out))
    score = net(x).gather(1, PICKED[:, None]).sum()
    handle.remove()
    (g,) = torch.autograd.grad(score, kept[0])

    def reshape(tokens: Tensor) -> Tensor:
        n, _, c = tokens.shape
        maps = torch.zeros(n, c, *grid, dtype=tokens.dtype)
        for i in range(grid[0] * grid[1]):
            maps[:, :, i // grid[1], i % grid[1]] = tokens[:, prefix + i]
        return maps

    return reshape(kept[0].detach()), reshape(g)


@pytest.mark.parametrize("layer", ["blocks.11.norm1", None])
def test_gradcam_of_a_vit_is_that_of_autograd(layer: str | None) -> None:
    net, x = vit(), make_images(size=32)
    a, g = by_hand(net, x, "blocks.11.norm1", 1, (4, 4))
    expected = (g.mean((2, 3), keepdim=True) * a).sum(1).relu()
    found = sightline.explain(net, x, classes=PICKED, layer=layer)
    assert found.layers == ["blocks.11.norm1"]
    assert expected.max() > 0
    torch.testing.assert_close(found.maps[:, 0], expected, rtol=1e-5, atol=1e-5 * float(expected.max()))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("hirescam", lambda a, g: (g * a).sum(1).relu()),
        ("layercam", lambda a, g: (g.relu() * a).sum(1).relu()),
        ("gradcam_elementwise", lambda a, g: (g * a).relu().sum(1)),
    ],
)
def test_other_methods_on_wide_images(method: str, expected: object) -> None:
    net = vit(2, img_size=(32, 48), class_token=True, reg_tokens=3)
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    a, g = by_hand(net, x, "blocks.1.norm1", 4, (4, 6))
    wanted = expected(a, g)
    maps = sightline.explain(net, x, method, classes=PICKED).maps[:, 0]
    torch.testing.assert_close(maps, wanted, rtol=1e-9, atol=1e-9 * float(wanted.max()))


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({}, "blocks.1.norm1 ntc:1+4x4"),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, "norm ntc:4x4"),
        ({"class_token": False, "global_pool": "avg"}, "blocks ntc:4x4"),  # the norm is behind the mean
        ({"class_token": False, "global_pool": "map"}, "norm ntc:4x4"),  # attention pooling
        ({"reg_tokens": 4}, "blocks.1.norm1 ntc:5+4x4"),
        ({"class_token": False, "global_pool": "avg", "reg_tokens": 4}, "blocks ntc:4+4x4"),
        ({"img_size": (32, 16)}, "blocks.1.norm1 ntc:1+4x2"),
    ],
)
def test_the_layer_is_found_by_what_is_pooled(options: dict[str, object], target: str) -> None:
    net = vit(2, **options)
    height, width = options.get("img_size", (32, 32))  # type: ignore[misc]
    found = inspect_network(net, torch.zeros(1, 3, height, width, dtype=torch.float64)).target
    assert f"{found} {found.layout}" == target


def test_a_head_of_zeros_does_not_hide_the_layer() -> None:
    net = vit(2)
    nn.init.zeros_(net.head.weight)
    assert str(inspect_network(net, make_images(size=32)).target) == "blocks.1.norm1"


def test_cam_of_a_mean_of_tokens() -> None:
    net, x = vit(2, class_token=False, global_pool="avg", fc_norm=False), make_images(size=32)
    tokens = net.forward_features(x)
    found = sightline.explain(net, x, "cam", classes=PICKED)
    expected = torch.einsum("ntc,nc->nt", tokens, net.head.weight[PICKED]).view(2, 4, 4).detach()
    torch.testing.assert_close(found.maps[:, 0], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("layer", ["blocks.1", "blocks.1.attn", "blocks.1.norm2", "norm"])
@pytest.mark.parametrize("method", ["gradcam", "scorecam", "ablationcam"])
def test_a_layer_whose_patches_have_no_gradient_names_the_one_that_has(layer: str, method: str) -> None:
    with pytest.raises(InputError, match=rf"'{layer}'.*class token.*'blocks.1.norm1'"):
        sightline.explain(vit(2), make_images(size=32), method, layer=layer)


def test_the_projections_inside_attention_are_no_maps() -> None:
    with pytest.raises(InputError, match="q_norm"):
        sightline.explain(vit(2, qk_norm=True), make_images(size=32), layer="blocks.1.attn.q_norm")


def test_a_layout_may_be_given() -> None:
    net, x = vit(2), make_images(size=32)
    expected = sightline.explain(net, x, layer="blocks.1.norm1").maps
    given = sightline.explain(net, x, layer="blocks.1.norm1", layout="ntc:1+4x4").maps
    assert torch.equal(given, expected)
    with pytest.raises(InputError, match="17 tokens are not 2 × 8"):
        sightline.explain(net, x, layer="blocks.1.norm1", layout="ntc:2x8")
    with pytest.raises(InputError, match="name the layer"):
        sightline.explain(net, x, layout="nhwc")


def test_ablation_leaves_the_class_token_alone() -> None:
    net, x = vit(1), make_images(1, size=32)
    maps = sightline.explain(net, x, "ablationcam", classes=2).maps[0, 0]
    kept: list[Tensor] = []
    norm = net.blocks[0].norm1
    handle = norm.register_forward_hook(lambda m, args, out: kept.append(out))
    whole = net(x)[0, 2].detach()
    handle.remove()
    weights = []
    for k in range(16):
        ablated = kept[0].clone()
        ablated[:, 1:, k] = 0
        handle = norm.register_forward_hook(lambda m, args, out, ablated=ablated: ablated)
        weights.append((whole - net(x)[0, 2].detach()) / whole.abs())
        handle.remove()
    expected = torch.einsum("c,tc->t", torch.stack(weights), kept[0][0, 1:]).relu().view(4, 4).detach()
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-10)


def test_fullycam_does_not_fuse_the_patch_embedding_alone() -> None:
    net, x = vit(2), make_images(size=32)
    with pytest.raises(UnsupportedError, match="cutting the image into patches"):
        sightline.explain(net, x, "fullycam")
    named = sightline.explain(net, x, "fullycam", layers=["blocks.0", "blocks.1.norm1"])
    assert named.maps.shape == (2, 1, 32, 32)


class Queries(nn.Module):
    """As DETR: 16 queries look at the 4 × 4 tokens of the image; 16 is a grid of 4 × 4, and they are none."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.queries = nn.Parameter(torch.randn(1, 16, 8))
        self.decoder, self.fc = Decoder(), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.patch(x).flatten(2).transpose(1, 2))
        return self.fc(self.decoder(self.queries.expand(len(x), -1, -1), tokens).mean(1))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        return self.norm(queries + F.scaled_dot_product_attention(queries, tokens, tokens))


def test_queries_that_fit_a_grid_are_no_map() -> None:
    torch.manual_seed(0)
    found = inspect_network(Queries().double(), make_images(size=16)).target
    assert f"{found} {found.layout}" == "norm ntc:4x4"


class Scales(nn.Module):
    """Two scales of tokens side by side, whose means are scored together; of one trunk, or each of its own patches."""

    def __init__(self, trunk: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 2, 2) if trunk else nn.Identity()
        first = 6 if trunk else 3
        self.fine, self.coarse = nn.Conv2d(first, 6, 2, 2), nn.Conv2d(first, 6, 4, 4)
        self.norm_fine, self.norm_coarse, self.fc = nn.LayerNorm(6), nn.LayerNorm(6), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        fine = self.norm_fine(self.fine(x).flatten(2).transpose(1, 2))
        coarse = self.norm_coarse(self.coarse(x).flatten(2).transpose(1, 2))
        return self.fc(torch.cat([fine.mean(1), coarse.mean(1)], 1))


def test_of_two_scales_of_one_trunk_the_last_is_explained() -> None:
    torch.manual_seed(0)
    found = inspect_network(Scales(True).double().eval(), make_images(size=32))
    assert f"{found.target} {found.target.layout}" == "norm_coarse ntc:4x4"


def test_two_streams_of_tokens_are_named_and_neither_is_drawn() -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match=r"'norm_coarse', 'norm_fine'; name one"):
        sightline.explain(Scales(False).double().eval(), make_images(size=32))


class Subsampled(nn.Module):
    """As LeViT goes down: every second row and column asks, all are asked, and nothing is added to what they answer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.q, self.kv, self.out = (
            nn.Conv2d(3, 8, 4, 4),
            nn.Linear(8, 8),
            nn.Linear(8, 16),
            Last(),
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = self.patch(x)
        tokens = maps.flatten(2).transpose(1, 2)
        n, _, c = tokens.shape
        some = tokens.view(n, *maps.shape[2:], c)[:, ::2, ::2].reshape(n, -1, c)
        q = self.q(some).view(n, -1, 2, 4).permute(0, 2, 1, 3)
        k, v = (t.view(n, -1, 2, 4).permute(0, 2, 1, 3) for t in self.kv(tokens).chunk(2, -1))
        seen = ((q @ k.transpose(2, 3)) / 2).softmax(-1) @ v
        return self.out(seen.transpose(1, 2).reshape(n, -1, c))


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.norm(tokens).mean(1))


def test_what_attention_gives_lies_in_the_order_of_its_queries() -> None:
    torch.manual_seed(0)
    found = inspect_network(Subsampled().double(), make_images(size=32)).target
    assert f"{found} {found.layout}" == "out.norm ntc:4x4"


class Branch(nn.Module):
    """x + m(x) with the sum in a block that returns a tuple, or outside of any block."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.inside = inside
        self.patch, self.fc = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 3)
        self.mlp = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.GELU())
        self.block = self.Block(self.mlp)

    class Block(nn.Module):
        def __init__(self, mlp: nn.Module) -> None:
            super().__init__()
            self.branch = mlp

        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return x + 0.5 * self.branch(x), None

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = self.block(x)[0] if self.inside else x + 0.5 * self.mlp(x)
        return self.fc(x.mean(1))


@pytest.mark.parametrize(("inside", "layer"), [(True, "block"), (False, "network:add")])
def test_the_layer_lies_behind_the_residual(inside: bool, layer: str) -> None:
    net, x = Branch(inside).eval(), torch.rand(2, 3, 16, 16)
    found = sightline.explain(net, x, "cam", 1)
    assert found.layers[0].startswith(layer)
    means = found.maps.mean((2, 3))[:, 0] + net.fc.bias[1]
    torch.testing.assert_close(means, found.logits[:, 1])
    for method in ("ablationcam", "recipro_cam", "gradcam"):
        assert sightline.explain(net, x, method, 1).maps.shape == (2, 1, 4, 4)


class Projected(nn.Module):
    """A block whose keys and values are made by modules with a convolution and a norm, of half the grid, as CvT's."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.key, self.value = (
            nn.Sequential(nn.Conv2d(width, width, 2, 2), nn.BatchNorm2d(width)) for _ in range(2)
        )
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.cut(x)
        grid = maps.shape[2:]
        tokens = torch.cat([self.token.expand(len(x), -1, -1), maps.flatten(2).mT], 1)
        normed = self.norm(tokens)
        picture = normed[:, 1:].mT.reshape(*maps.shape[:2], *grid)
        key, value = self.key(picture).flatten(2).mT, self.value(picture).flatten(2).mT
        tokens = tokens + F.scaled_dot_product_attention(normed, key, value)
        return self.head(self.last(tokens)[:, 0])


def test_the_norm_before_keys_and_values_and_not_one_of_these() -> None:
    torch.manual_seed(0)
    net, x = Projected().double().eval(), make_images(size=32)
    a, g = by_hand(net, x, "norm", 1, (8, 8))
    found = sightline.explain(net, x, "hirescam", PICKED)
    assert found.layers == ["norm"]
    expected = (g * a).sum(1).relu()
    torch.testing.assert_close(found.maps[:, 0], expected, rtol=1e-9, atol=1e-9 * float(expected.max()))


@pytest.mark.parametrize("around", ["flip", "smooth:smooth.samples=2", "tencrop"])
def test_a_layout_that_is_given_holds_within_combinators(around: str) -> None:
    net, x = vit(2), make_images(size=32)
    named = {"layer": "blocks.1.norm1", "classes": 1}
    found = sightline.explain(net, x, f"gradcam:{around}", layout="ntc:1+4x4", **named).maps
    torch.testing.assert_close(found, sightline.explain(net, x, f"gradcam:{around}", **named).maps)
    with pytest.raises(InputError, match="not ntc:2x2"):
        sightline.explain(net, x, f"gradcam:{around}", layout="ntc:2x2", **named)
    with pytest.raises(InputError, match="is of one input size, and scales=1,2 shows others"):
        sightline.explain(net, x, "gradcam:scales=1,2", layout="ntc:1+4x4", **named)


class Ordered(TokenToy):
    """The same network on 8 × 8 tokens in another order, and with its class token elsewhere."""

    def __init__(self, order: Tensor | None, at: int, class_token: bool) -> None:
        super().__init__(class_token)
        self.order, self.at = order, at

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.relu(self.patch(x)).flatten(2).transpose(1, 2)
        tokens = tokens if self.order is None else tokens[:, self.order]
        special = self.token.expand(len(x), -1, -1)
        tokens = torch.cat([tokens[:, : self.at], special, tokens[:, self.at :]], 1)
        tokens = self.norm(self.block(tokens))
        rest = torch.cat([tokens[:, : self.at], tokens[:, self.at + 1 :]], 1)
        return self.fc(tokens[:, self.at] if self.class_token else rest.mean(1))


ROWS = torch.arange(64).reshape(8, 8)
WINDING = torch.where(torch.arange(8)[:, None] % 2 == 0, ROWS, ROWS.flip(1))
ORDERS = {
    "class token behind": (None, 64),
    "class token in the middle": (None, 32),
    "in a winding line": (WINDING.flatten(), 0),
    "column by column": (ROWS.t().flatten(), 0),
    "from below": (ROWS.flip(0).flatten(), 0),
    "in windows of 4 x 4": (ROWS.reshape(2, 4, 2, 4).transpose(1, 2).flatten(), 0),
}


@pytest.mark.parametrize("class_token", [True, False], ids=["class token", "mean"])
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_tokens_in_another_order_are_no_map(order: str, class_token: bool) -> None:
    net, x = prepare(Ordered(*ORDERS[order], class_token)), make_images(2, size=32)
    with pytest.raises(InputError, match=r"row by row|no block or norm behind it gives a map of tokens"):
        sightline.explain(net, x, "layercam", 1)
    with pytest.raises(InputError, match=r"row by row|has no spatial map that is known to be one"):
        sightline.explain(net, x, "layercam", 1, layer="block.norm1")


@pytest.mark.parametrize("class_token", [True, False], ids=["class token", "mean"])
def test_tokens_in_rows_behind_the_class_token_are_one(class_token: bool) -> None:
    net, x = prepare(Ordered(None, 0, class_token)), make_images(2, size=32)
    found = sightline.explain(net, x, "layercam", 1)
    assert found.layers == ["block.norm1" if class_token else "norm"]
    expected = sightline.explain(prepare(TokenToy(class_token)), x, "layercam", 1).maps
    assert torch.allclose(found.maps, expected)


class OneByOne(TokenToy):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            raise ValueError("one image at a time")
        return super().forward(x)


class Cut(TokenToy):
    """Its patches are cut by reshaping, so that the layout is found by changing some."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            raise ValueError("one image at a time")
        cut = x.reshape(len(x), 3, 4, 4, 4, 4).permute(0, 2, 4, 1, 3, 5).reshape(len(x), 16, 48)
        tokens = F.relu(cut @ self.patch.weight.flatten(1).T + self.patch.bias)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        tokens = self.norm(self.block(tokens))
        return self.fc(tokens[:, 0] if self.class_token else tokens[:, 1:].mean(1))


@pytest.mark.parametrize("class_token", [True, False], ids=["class token", "mean"])
def test_a_network_that_takes_one_image_at_a_time_is_looked_at_one_by_one(class_token: bool) -> None:
    x = make_images(1)
    expected = sightline.explain(prepare(TokenToy(class_token)), x, "layercam", 1)
    found = sightline.explain(prepare(OneByOne(class_token)), x, "layercam", 1)
    assert found.layers == expected.layers
    assert torch.equal(found.maps, expected.maps)
