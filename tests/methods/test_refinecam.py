"""RefineCAM against one map at a time, by hand, and with one layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sightline
from references import gradcam as reference
from references.more_methods import refinecam
from references.plain import each
from sightline.errors import UnsupportedError
from sightline.heatmap import normalise, upsample
from toynets import HandGap, TokenToy, build, image, make_images, prepare

PICKED = torch.tensor([[2, 0], [1, 3]])
LAYERS = {
    "gap": ["features.1", "features.4"],
    "vgg end": ["features.1", "features.4"],
    "batch norm, functional relu": ["body.0", "body.1"],
}
pytestmark = pytest.mark.filterwarnings("ignore:.*denominator")


@pytest.mark.parametrize("base", ["gradcam_pp", "gradcam", "layercam"])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_reference(name: str, base: str) -> None:
    net, x = build(name), make_images()
    maps = sightline.explain(net, x, "refinecam", PICKED, layers=LAYERS[name], base=base).maps
    expected = each(refinecam, net, x, PICKED, layers=LAYERS[name], base=getattr(reference, base))
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-9)


def test_the_stages_are_found() -> None:
    net, x = build("gap"), make_images()
    found = sightline.explain(net, x, "refinecam", PICKED)
    assert found.layers == ["features.1", "features"]  # the whole of `features` ends in its last ReLU
    named = sightline.explain(net, x, "refinecam:layers=features.1,features.4", PICKED)
    assert torch.equal(found.maps, named.maps)


@pytest.mark.parametrize("base", ["gradcam_pp", "gradcam", "layercam"])
def test_one_layer_is_its_own_map(base: str) -> None:
    net, x = build("gap"), make_images()
    found = sightline.explain(net, x, "refinecam", PICKED, layers=["features.4"], base=base).maps
    alone = sightline.explain(net, x, base, PICKED, layer="features.4").maps
    torch.testing.assert_close(found, normalise(upsample(alone, (16, 16))))


class TwoLayers(HandGap):
    """first = x, body = ReLU(first); y = weight · mean(body)."""

    def __init__(self, weight: list[list[float]], bias: list[float]) -> None:
        super().__init__(weight, bias, nn.ReLU())
        self.first = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.first(x))


def test_by_hand() -> None:
    # LayerCAM with w = (4, 0, 0) on a mean of four: g = 1 where x > 0. first: [[1, 2], [3, 0]] (the -1 has g = 0);
    # body: the same. Min-maxed [[1/3, 2/3], [1, 0]], squared [[1/9, 4/9], [1, 0]].
    x = image([[[1, 2], [3, -1]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]])
    net = TwoLayers([[4, 0, 0]], [0])
    maps = sightline.explain(net, x, "refinecam", 0, layers=["first", "body"], base="layercam").maps
    expected = torch.tensor([[1 / 9, 4 / 9], [1, 0]], dtype=torch.float64)
    torch.testing.assert_close(maps[0, 0], expected, rtol=0, atol=1e-12)


def test_a_layer_that_shows_nothing_leaves_nothing() -> None:
    x = image([[[1, 2], [3, 4]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]])
    maps = sightline.explain(
        TwoLayers([[-4, 0, 0]], [0]), x, "refinecam", 0, layers=["first", "body"], base="layercam"
    ).maps
    assert torch.equal(maps, torch.zeros(1, 1, 2, 2, dtype=torch.float64))


def test_tokens_need_names() -> None:
    net, x = prepare(TokenToy()), make_images(1)
    with pytest.raises(UnsupportedError, match="refinecam fuses convolutions and this network has none"):
        sightline.explain(net, x, "refinecam")
    named = sightline.explain(net, x, "refinecam", 1, layers=["norm", "block.norm1"], base="layercam").maps
    single = [sightline.explain(net, x, "layercam", 1, layer=one).maps for one in ("norm", "block.norm1")]
    product = normalise(upsample(single[0], (16, 16))) * normalise(upsample(single[1], (16, 16)))
    torch.testing.assert_close(named, normalise(product))
