"""The gradient methods at one layer: Grad-CAM and its kin, against the loops, by hand, and by identities."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sightline
from references import gradcam as reference
from references.cam import cam
from references.plain import each
from sightline.errors import InputError
from sightline.models.pooling import GlobalAveragePool, GlobalMaxPool, ThresholdedAveragePool
from toynets import (
    ALL_TOYS,
    POOLING_HEADS,
    ActivationToy,
    HandFlat,
    build,
    flat_weight,
    image,
    make_images,
    prepare,
)

PICKED = torch.tensor([[2, 0], [1, 3]])
METHODS: dict[str, Callable[..., Tensor]] = {
    "gradcam": reference.gradcam,
    "gradcam_pp": reference.gradcam_pp,
    "xgradcam": reference.xgradcam,
    "hirescam": reference.hirescam,
    "gradcam_elementwise": reference.gradcam_elementwise,
    "layercam": reference.layercam,
}
WEIGHTED = ["gradcam", "gradcam_pp", "xgradcam"]
may_have_a_pole = pytest.mark.filterwarnings("ignore:.*denominator")


@may_have_a_pole
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ALL_TOYS)
def test_equals_the_reference_at_the_layer_found_by_itself(name: str, method: str) -> None:
    net, x = build(name), make_images()
    maps = sightline.explain(net, x, method=method, classes=PICKED).maps
    expected = each(METHODS[method], net, x, PICKED)
    assert expected.max() > 1e-3
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-10)


@may_have_a_pole
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("gap", "features.4"),
        ("gap", "features.1"),
        ("gap", "features.3"),  # a convolution's own output: negative values too
        ("in-place, functional mean", "features.0"),  # overwritten by the in-place ReLU behind it
        ("in-place, functional mean", "features.3"),
        ("batch norm, functional relu", "body.0.norm"),
        ("batch norm, functional relu", "body.0.conv"),
        ("densenet end", "features.4"),
        ("squeezenet end", "classifier.1"),
        ("vgg end", "features.5"),
        ("vgg end", "features.3"),
        ("residual", "maxpool"),  # its output is added to in place, further on
        ("branches", "stem.2"),
    ],
)
def test_equals_the_reference_at_a_named_layer(name: str, layer: str, method: str) -> None:
    net, x = build(name), make_images()
    maps = sightline.explain(net, x, method=method, classes=PICKED, layer=layer).maps
    expected = each(METHODS[method], net, x, PICKED, layer=layer)
    assert expected.max() > 1e-4
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-10)
    same = sightline.explain(net, x, method=method, classes=PICKED, layer=net.get_submodule(layer)).maps
    assert torch.equal(same, maps)


@may_have_a_pole
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("activation", [nn.GELU, nn.LeakyReLU])
def test_equals_the_reference_with_other_activations(
    activation: Callable[[], nn.Module], method: str
) -> None:
    net, x = prepare(ActivationToy(activation)), make_images()
    maps = sightline.explain(net, x, method=method, classes=PICKED).maps
    torch.testing.assert_close(maps, each(METHODS[method], net, x, PICKED), rtol=0, atol=1e-10)


@may_have_a_pole
@pytest.mark.parametrize("method", WEIGHTED)
@pytest.mark.parametrize("name", ["gap", "vgg end", "squeezenet end"])
def test_nwc_clamps_the_weights(name: str, method: str) -> None:
    net, x = build(name), make_images()
    plain = sightline.explain(net, x, method=method, classes=PICKED)
    clamped = sightline.explain(net, x, method=method, classes=PICKED, nwc=True)
    expected = each(METHODS[method], net, x, PICKED, nwc=True)
    torch.testing.assert_close(clamped.maps, expected, rtol=0, atol=1e-10)
    assert torch.equal(clamped.logits, plain.logits)
    if method == "gradcam":  # dropping negative weights adds to a map of activations ≥ 0
        assert (clamped.maps >= plain.maps - 1e-12).all()
        assert (clamped.maps - plain.maps).max() > 1e-3


@pytest.mark.parametrize("method", ["hirescam", "gradcam_elementwise", "layercam"])
def test_nwc_is_refused_where_no_channel_has_a_weight(method: str) -> None:
    with pytest.raises(InputError, match="nwc"):
        sightline.explain(build("gap"), make_images(), method=method, nwc=True)


@pytest.mark.parametrize("pool", [GlobalAveragePool, GlobalMaxPool, ThresholdedAveragePool])
@pytest.mark.parametrize("nwc", [False, True])
def test_gradcam_is_relu_of_cam_over_z(pool: Callable[[], nn.Module], nwc: bool) -> None:
    from toynets import PooledToy

    net, x = prepare(PooledToy(pool())), make_images()
    maps = sightline.explain(net, x, method="gradcam", classes=PICKED, nwc=nwc).maps
    z = maps.shape[2] * maps.shape[3]
    torch.testing.assert_close(maps, each(cam, net, x, PICKED, nwc=nwc).relu() / z, rtol=0, atol=1e-10)
    ours = sightline.explain(net, x, method="cam", classes=PICKED, nwc=nwc).maps
    torch.testing.assert_close(maps, ours.relu() / z, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", POOLING_HEADS)
def test_gradcam_is_relu_of_cam_over_z_on_every_pooling_head(name: str) -> None:
    net, x = build(name), make_images()
    maps = sightline.explain(net, x, method="gradcam", classes=PICKED).maps
    torch.testing.assert_close(
        maps, sightline.explain(net, x, method="cam", classes=PICKED).maps.relu() / maps[0, 0].numel(),
        rtol=0, atol=1e-10,
    )  # fmt: skip


@may_have_a_pole
def test_on_an_averaging_head_the_whole_family_is_one_map() -> None:
    # g^k_ij = w_k / Z everywhere: Σ g A / Σ A = w_k / Z and Σ_k g^k A^k = Σ_k (w_k / Z) A^k.
    net, x = build("gap"), make_images()
    maps = {m: sightline.explain(net, x, method=m, classes=PICKED).maps for m in METHODS}
    torch.testing.assert_close(maps["xgradcam"], maps["gradcam"], rtol=0, atol=1e-10)
    torch.testing.assert_close(maps["hirescam"], maps["gradcam"], rtol=0, atol=1e-10)
    # with A ≥ 0 the elementwise ReLU keeps the channels of positive weight: LayerCAM, and Grad-CAM with NWC
    torch.testing.assert_close(maps["gradcam_elementwise"], maps["layercam"], rtol=0, atol=1e-10)
    clamped = sightline.explain(net, x, method="gradcam", classes=PICKED, nwc=True).maps
    torch.testing.assert_close(maps["layercam"], clamped, rtol=0, atol=1e-10)


@may_have_a_pole
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layer", ["features.3", "features.4"])
def test_maps_are_not_negative(method: str, layer: str) -> None:
    maps = sightline.explain(
        build("vgg end"), make_images(4), method=method, classes=PICKED.repeat(2, 1), layer=layer
    )
    assert (maps.maps >= 0).all()
    assert maps.maps.max() > 0


# One image, A1 = [[1, 2], [3, 4]], A2 = [[2, 0], [0, 2]], A3 = 0, and a flat linear head, so that g = its
# weights:
#   g1 = [[1, 1], [1, -1]]   g2 = [[-1, 0], [3, 1]]   g3 = 5 everywhere   (class 0; class 1 is the negative of
# it)
G = [[[1, 1], [1, -1]], [[-1, 0], [3, 1]], [[5, 5], [5, 5]]]
MINUS_G = [[[-v for v in row] for row in channel] for channel in G]
HAND_IMAGE = [[[1, 2], [3, 4]], [[2, 0], [0, 2]], [[0, 0], [0, 0]]]


def by_hand(method: str, **options: object) -> list[list[list[float]]]:
    net = HandFlat(flat_weight([G, MINUS_G]), [0.0, 0.0])
    both = torch.tensor([[0, 1]])
    explanation = sightline.explain(
        net, image(HAND_IMAGE), method=method, classes=both, layer="body", **options
    )
    return explanation.maps[0].tolist()


def test_gradcam_by_hand() -> None:
    # α1 = (1 + 1 + 1 - 1)/4 = 0.5, α2 = (-1 + 0 + 3 + 1)/4 = 0.75, A3 = 0.
    # 0.5 A1 + 0.75 A2 = [[0.5 + 1.5, 1], [1.5, 2 + 1.5]]; class 1 is its negative, so zero.
    assert by_hand("gradcam") == [[[2.0, 1.0], [1.5, 3.5]], [[0, 0], [0, 0]]]
    assert by_hand("gradcam", nwc=True) == [[[2.0, 1.0], [1.5, 3.5]], [[0, 0], [0, 0]]]


def test_xgradcam_by_hand() -> None:
    # α1 = (1·1 + 1·2 + 1·3 - 1·4)/10 = 0.2; α2 = (-1·2 + 0 + 0 + 1·2)/4 = 0; channel 3 sums to zero: no
    # weight. 0.2 A1 = [[0.2, 0.4], [0.6, 0.8]]
    maps = torch.tensor(by_hand("xgradcam"), dtype=torch.float64)
    expected = torch.tensor([[[0.2, 0.4], [0.6, 0.8]], [[0, 0], [0, 0]]], dtype=torch.float64)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-12)


def test_xgradcam_gives_no_weight_to_a_channel_that_sums_to_zero() -> None:
    # Before a ReLU: A1 = [[1, -1], [2, -2]] sums to 0, although Σ g A1 = 1·1 - 1·0 + 2·3 = 7. Left: A2 of ones
    # with g = 2: α2 = 8/4 = 2.
    g1, g2, none = [[1, 0], [3, 0]], [[2, 2], [2, 2]], [[0, 0], [0, 0]]
    net = HandFlat(flat_weight([[g1, g2, none]]), [0.0], body=nn.Identity())
    x = image([[[1, -1], [2, -2]], [[1, 1], [1, 1]], none])
    maps = sightline.explain(net, x, method="xgradcam", classes=0, layer="body").maps
    assert maps.tolist() == [[[[2, 2], [2, 2]]]]


def test_hirescam_by_hand() -> None:
    # g1 A1 = [[1, 2], [3, -4]], g2 A2 = [[-2, 0], [0, 2]]; the sum [[-1, 2], [3, -2]]; class 1 is its
    # negative.
    assert by_hand("hirescam") == [[[0, 2], [3, 0]], [[1, 0], [0, 2]]]


def test_gradcam_elementwise_by_hand() -> None:
    # ReLU of each of g1 A1 and g2 A2 above, then the sum: [[1 + 0, 2], [3, 0 + 2]]; class 1: [[0 + 2, 0], [0,
    # 4]].
    assert by_hand("gradcam_elementwise") == [[[1, 2], [3, 2]], [[2, 0], [0, 4]]]


def test_layercam_by_hand() -> None:
    # ReLU(g1) A1 = [[1, 2], [3, 0]], ReLU(g2) A2 = [[0, 0], [0, 2]]; class 1: [[0, 0], [0, 4]] + [[2, 0], [0,
    # 0]].
    assert by_hand("layercam") == [[[1, 2], [3, 2]], [[2, 0], [0, 4]]]


@may_have_a_pole
def test_gradcam_pp_by_hand() -> None:
    # Class 0. ΣA1 = 10: a = 1/(2 + 10·1) = 1/12 at the three places where g1 = 1; g1 = -1 has no ReLU(g).
    #   w1 = 3/12 = 0.25.   ΣA2 = 4: g2 = 3 gives 1/(2 + 12) = 1/14, times 3; g2 = 1 gives 1/(2 + 4) = 1/6;
    #   g2 = 0 gives nothing.   w2 = 3/14 + 1/6 = 8/21.   A3 = 0.
    #   0.25 A1 + (8/21) A2 = [[0.25 + 16/21, 0.5], [0.75, 1 + 16/21]]
    # Class 1. g1 = 1 only at the last place: w1 = 1/12. g2 = 1 only at the first: w2 = 1/(2 + 4) = 1/6.
    #   A1/12 + A2/6 = [[1/12 + 1/3, 1/6], [1/4, 1/3 + 1/3]]
    maps = torch.tensor(by_hand("gradcam_pp"), dtype=torch.float64)
    expected = torch.tensor(
        [[[0.25 + 16 / 21, 0.5], [0.75, 1 + 16 / 21]], [[1 / 12 + 1 / 3, 1 / 6], [1 / 4, 2 / 3]]],
        dtype=torch.float64,
    )
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-12)


def test_gradcam_pp_keeps_its_denominator() -> None:
    # Without it, a = g², the map would grow with the cube of the gradient; with it, for large ΣA·g, w_k tends
    # to (number of positive slopes)/ΣA and a tenfold slope changes next to nothing.
    x = image([[[100, 200], [300, 400]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]])
    ones, zeros = [[1, 1], [1, 1]], [[0, 0], [0, 0]]
    maps = []
    for scale in (1.0, 10.0):
        weight = [[[scale * v for v in row] for row in ones], zeros, zeros]
        net = HandFlat(flat_weight([weight]), [0.0])
        maps.append(sightline.explain(net, x, method="gradcam_pp", classes=0, layer="body").maps)
    # w = 4 g/(2 + 1000 g): 4/1002 and 40/10002
    assert maps[0][0, 0, 0, 0].item() == pytest.approx(100 * 4 / 1002, rel=1e-12)
    assert maps[1][0, 0, 0, 0].item() == pytest.approx(100 * 40 / 10002, rel=1e-12)


def test_gradcam_pp_warns_of_a_pole_and_leaves_it_out() -> None:
    # A (before a ReLU) sums to -8; g = 1 everywhere: 2 - 8 < 0, so the channel has no weight and the map is
    # the second channel's: ΣA2 = 4, w2 = 4/(2 + 4) = 2/3.
    x = image([[[-5, 1], [-5, 1]], [[1, 1], [1, 1]], [[0, 0], [0, 0]]])
    ones = [[1, 1], [1, 1]]
    net = HandFlat(flat_weight([[ones, ones, ones]]), [0.0], body=nn.Identity())
    with pytest.warns(match="denominator"):
        maps = sightline.explain(net, x, method="gradcam_pp", classes=0, layer="body").maps
    torch.testing.assert_close(maps[0, 0], torch.full((2, 2), 2 / 3, dtype=torch.float64), rtol=0, atol=1e-12)


@may_have_a_pole
@pytest.mark.parametrize("method", METHODS)
def test_a_callable_target_equals_its_class(method: str) -> None:
    net, x = build("vgg end"), make_images(3)
    by_class = sightline.explain(net, x, method=method, classes=3).maps
    by_target = sightline.explain(net, x, method=method, target=lambda out: out[:, 3]).maps
    assert by_target.shape == (3, 1, 8, 8)
    torch.testing.assert_close(by_target, by_class, rtol=0, atol=1e-12)


def test_a_contrast_of_classes_is_linear_before_the_relu() -> None:
    # HiResCAM of y_2 - y_0 is the ReLU of the difference of the two unclamped sums of g ⊙ A.
    from references.plain import layer_and_gradient

    net, x = build("vgg end"), make_images(1)
    a, g2 = layer_and_gradient(net, x, 2)
    _, g0 = layer_and_gradient(net, x, 0)
    maps = sightline.explain(net, x, method="hirescam", target=lambda out: out[:, 2] - out[:, 0]).maps
    torch.testing.assert_close(maps[0, 0], ((g2 - g0) * a).sum(0).relu(), rtol=0, atol=1e-10)
