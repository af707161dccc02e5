"""Values that a change of one operation once left unnoticed by every other test; each worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.errors import InputError, UnsupportedError
from sightline.heatmap import normalise
from sightline.methods.eigencam import first_component
from sightline.methods.saliency import gaussian
from sightline.metrics.calibration import calibration
from sightline.metrics.components import EVERYWHERE, hole_lives, inside_holes
from sightline.metrics.pointing import box_mask
from sightline.metrics.protocols import contour_ious, wsol_true_boxes
from sightline.metrics.sweep import count_in_bins, levels_at_least
from sightline.targets import Detection, OutputTarget, Segmentation
from sightline.targets.classes import find_category, logits_of, resolve_classes
from sightline.types import Geometry
from toynets import HandFlat, HandGap, build, flat_weight, image, make_images


class Through(nn.Module):
    """y = Σ f(x)."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x).flatten(1).sum(1, keepdim=True)


def test_integrated_gradients_from_another_baseline() -> None:
    # y = (w · x)², w = (1, 2, -1), x = (1, 3, 2), b = 2 in every place: w · x = 5, w · b = 4. Along the line the mean
    # gradient is 2 w (5 + 4) / 2 = 9 w, times x - b = (-1, 1, 0): (-9, 18, 0), which sums to 25 - 16.
    squared = Through(
        lambda x: (x * torch.tensor([1.0, 2, -1]).view(1, 3, 1, 1)).sum((1, 2, 3), keepdim=True) ** 2
    )
    x = image([[[1]], [[3]], [[2]]])
    signed = sightline.explain(squared, x, method="integrated_gradients", classes=0, baseline=2.0).signed
    assert signed.flatten().tolist() == pytest.approx([-9, 18, 0])


def test_occlusion_takes_height_before_width() -> None:
    # A linear score: the drop of a window is the sum of its pixels. Windows of height 1 and width 2, side by side.
    net = HandFlat([[1.0] * 24], [0.0], body=nn.Identity())
    x = torch.arange(24.0, dtype=torch.float64).view(1, 3, 2, 4)
    options = {"window": (1, 2), "stride": (1, 2)}
    maps = sightline.explain(net, x, method="occlusion", classes=0, **options).maps
    column = x.sum(1)[0]
    pairs = column[:, 0::2] + column[:, 1::2]
    assert maps[0, 0].tolist() == pairs.repeat_interleave(2, 1).tolist()


def test_the_default_window_is_a_seventh_of_each_side_and_its_stride_half_of_that() -> None:
    net = HandFlat([[1.0] * (3 * 28 * 14)], [0.0], body=nn.Identity())
    x = torch.rand(1, 3, 28, 14, dtype=torch.float64)
    found = sightline.explain(net, x, method="occlusion", classes=0)
    same = sightline.explain(net, x, method="occlusion", classes=0, window=(4, 2), stride=(2, 1))
    assert torch.equal(found.maps, same.maps)


def test_saliency_is_smoothed_by_a_share_of_the_longer_side_and_up_to_four_sigma() -> None:
    bright = torch.zeros(1, 1, 21, 61, dtype=torch.float64)
    bright[..., 10, 30] = 1
    weight = bright.expand(1, 3, 21, 61).flatten().tolist()
    net = HandFlat([weight], [0.0])
    x = torch.ones(1, 3, 21, 61, dtype=torch.float64)
    bump = sightline.explain(net, x, method="saliency", classes=0, smooth=2 / 61).maps[0, 0]
    assert torch.equal(bump, gaussian(bright, 2.0)[0, 0])
    line = gaussian(bright, 2.0)[0, 0, 10]
    assert (line > 0).nonzero()[:, 0].tolist() == list(range(22, 39))  # 8 = 4 σ on both sides
    assert float(line[38] / line[30]) == pytest.approx(np.exp(-0.5 * 16))


def test_smoothed_saliency_of_a_batch_is_that_of_its_images() -> None:
    net, x = build("gap"), make_images(3)
    every = sightline.explain(net, x, method="saliency", classes=1, smooth=0.1).maps
    for i in range(3):
        one = sightline.explain(net, x[i : i + 1], method="saliency", classes=1, smooth=0.1).maps
        torch.testing.assert_close(every[i : i + 1], one, rtol=0, atol=1e-12)


def test_ablationcam_where_the_score_is_exactly_0() -> None:
    # y = mean A¹ - mean A² = 2 - 2 = 0: nothing to divide by, so w = (2, -2) and L = ReLU(2 (A¹ - A²)).
    x = image([[[1, 3], [2, 2]], [[2, 2], [4, 0]], [[0, 0], [0, 0]]])
    maps = sightline.explain(
        HandGap([[1, -1, 5]], [0]), x, method="ablationcam", classes=0, layer="body"
    ).maps
    assert maps[0, 0].tolist() == [[0, 2], [0, 4]]


def test_eigencam_is_scaled_by_the_root_of_the_eigenvalue() -> None:
    # Two positions, three channels: the Gram matrix's way. Centred, A = ±(3, 4, 12): its length is 13.
    maps = torch.tensor([[[[0.0, 6.0]], [[0.0, 8.0]], [[0.0, 24.0]]]])
    assert first_component(maps)[0, 0].tolist() == pytest.approx([-13, 13])
    assert first_component(maps, centre=False)[0, 0].tolist() == pytest.approx([0, 26])


def test_guided_gradcam_is_the_coarse_map_times_guided_backpropagation() -> None:
    net, x = build("gap"), make_images(1)
    coarse = sightline.explain(net, x, method="gradcam", classes=[0, 2])
    fine = sightline.explain(net, x, method="guided_backprop", classes=[0, 2])
    both = sightline.explain(net, x, method="guided_gradcam", classes=[0, 2])
    up = nn.functional.interpolate(coarse.maps, (16, 16), mode="bilinear", align_corners=False)
    assert up.amax() > 0
    torch.testing.assert_close(both.signed, up[:, :, None] * fine.signed, rtol=0, atol=1e-12)


def test_a_clamp_without_a_minimum_is_no_relu() -> None:
    # y = Σ ReLU(10 - min(x, 5)): what comes to the clamp is -1, and guided backpropagation lets it pass.
    net = Through(lambda x: (10 - x.clamp(max=5)).relu())
    x = image([[[1, 7]], [[2, 3]], [[4, 9]]])
    signed = sightline.explain(net, x, method="guided_backprop", classes=0).signed
    assert signed[0, 0].tolist() == [[[-1, 0]], [[-1, -1]], [[-1, 0]]]


def test_a_clamp_from_0_is_a_relu() -> None:
    net = Through(lambda x: (10 - x.clamp(0, 5)).relu())
    x = image([[[1, 7]], [[2, 3]], [[4, 9]]])
    assert sightline.explain(net, x, method="guided_backprop", classes=0).signed.abs().max() == 0


def test_hard_tanh_is_refused_and_relu6_is_not() -> None:
    x = make_images(1)
    hard = Through(lambda x: nn.functional.hardtanh(x.relu(), -1.0, 1.0))
    with pytest.raises(UnsupportedError, match="this network has hard tanh"):
        sightline.explain(hard, x, method="guided_backprop", classes=0)
    six = sightline.explain(Through(nn.functional.relu6), x, method="guided_backprop", classes=0)
    assert torch.equal(six.signed[0, 0], ((x > 0) & (x < 6)).double()[0])


@pytest.mark.parametrize("method", ["cam", "gradcam", "saliency", "fullycam", "occlusion"])
def test_images_made_in_inference_mode_give_the_same_maps(method: str) -> None:
    net, x = build("in-place, functional mean"), make_images(1)
    with torch.inference_mode():
        frozen = make_images(1)
    assert frozen.is_inference()
    expected = sightline.explain(net, x, method=method, classes=[0, 1]).maps
    assert torch.equal(sightline.explain(net, frozen, method=method, classes=[0, 1]).maps, expected)


class Aside(nn.Module):
    """A layer whose output is thrown away, beside the one that leads to the score."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.aside, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.aside(x)
        return self.fc(self.used(x).relu().mean((2, 3)))


def test_a_layer_that_does_not_reach_the_score_is_refused() -> None:
    with pytest.raises(InputError, match="aside"):
        sightline.explain(Aside(), torch.rand(1, 3, 4, 4), method="gradcam", classes=0, layer="aside")


def test_a_name_that_two_classes_have_is_refused_and_a_whole_name_comes_before_a_synonym() -> None:
    with pytest.raises(InputError, match=r"class 'crane' matches 2 classes: \[0, 2\]; give an index"):
        find_category("crane", ["crane", "heron", "crane"])
    with pytest.raises(InputError, match=r"matches 2 classes: \[0, 1\]"):
        find_category("cat", ["tabby, cat", "lynx, cat"])
    assert find_category("cat", ["tabby, cat", "cat", "lynx, cat"]) == 1


def test_a_tensor_of_booleans_names_no_classes() -> None:
    for wrong in (torch.tensor([True]), torch.tensor([1.0])):
        with pytest.raises(InputError, match="expected integers"):
            resolve_classes(wrong, torch.zeros(1, 3))
    assert resolve_classes(torch.tensor([2], dtype=torch.uint8), torch.zeros(1, 3)).tolist() == [[2]]


@pytest.mark.parametrize("shape", [(2,), (2, 3, 1), (2, 3, 4, 4)])
def test_only_n_by_c_are_scores(shape: tuple[int, ...]) -> None:
    assert logits_of(torch.zeros(shape)) is None
    assert logits_of(torch.zeros(2, 3)) is not None


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ({"logits": torch.ones(2, 3), "features": torch.zeros(2, 9)}, True),
        ({"last_hidden_state": torch.ones(2, 3)}, True),  # PP-LCNet's, in transformers
        ({"scores": torch.ones(2, 3), "loss": None}, True),
        ({"out": torch.ones(2, 3), "aux": torch.zeros(2, 3)}, False),
        ({"out": torch.ones(2, 3, 4, 4)}, False),
        ({}, False),
    ],
)
def test_the_scores_of_a_dictionary_are_its_logits_or_its_only_tensor(
    output: dict[str, Tensor | None], found: bool
) -> None:
    logits = logits_of(output)
    assert (logits is not None) == found
    if logits is not None:
        assert torch.equal(logits, torch.ones(2, 3))


@pytest.mark.parametrize("how", ["minmax", "max", "percentile", "ivr"])
def test_a_constant_map_points_nowhere_whatever_its_value(how: str) -> None:
    for value in (3.0, 0.0, -3.0):
        assert normalise(torch.full((1, 4, 4), value), how).abs().max() == 0
    nearly = torch.full((1, 4, 4), 3.0)
    nearly[0, 0, 0] = 4
    assert normalise(nearly, how).max() == 1


def test_a_pixel_whose_centre_is_on_an_edge_belongs_to_the_box_that_begins_there() -> None:
    found = [
        box_mask(torch.tensor([[*box]]), (1, 4))[0].tolist() for box in ((0.5, 0, 2.5, 1), (2.5, 0, 3.5, 1))
    ]
    assert found == [[True, True, False, False], [False, False, True, False]]
    rows = box_mask(torch.tensor([[0, 0.5, 1, 2.5]]), (4, 1))[:, 0].tolist()
    assert rows == [True, True, False, False]


def test_a_score_on_a_bin_s_edge() -> None:
    found = calibration(
        torch.tensor([0.0, 0.5, 0.500001, 1.0]), torch.tensor([False, True, True, True]), bins=2
    )
    assert found.counts.tolist() == [2, 2]  # each bin has its upper edge
    # 0.7 is below its nearest number in double precision and above that in single precision.
    tenths = calibration(torch.tensor([0.7], dtype=torch.float64), torch.tensor([True]), bins=10)
    assert tenths.counts.tolist() == [0] * 6 + [1] + [0] * 3
    assert len(calibration(torch.tensor([0.7]), torch.tensor([True])).counts) == 15
    edges = np.array([0, 0.25, 0.5, 0.75, 1.0])
    counted = count_in_bins(np.array([[0.25, 0.5], [0.75, 1.0]]), np.array([[0, 1], [1, 2]], np.uint8), edges)
    assert counted.tolist() == [[0, 1, 0, 0], [0, 0, 1, 1]]  # a bin begins with its edge; 2 is ignored
    levels = levels_at_least(np.array([[0.0, 0.1, 0.2, 0.3]]), np.array([0.1, 0.2, 0.3]))
    assert levels.tolist() == [[0, 1, 2, 3]]


def test_true_boxes_are_clipped_to_the_part_that_was_shown() -> None:
    # The middle 224 × 224 of a photo of 224 × 448: x from 112 to 336, so the box's 0 … 400 becomes -112 … 287.
    middle = Geometry((224, 448), (224, 224), (112.0, 0.0, 336.0, 224.0))
    boxes = np.array([[0.0, 10.0, 401.0, 101.0]])
    assert wsol_true_boxes(boxes, middle).tolist() == [[0, 10, 223, 100]]
    # Nothing is clipped where all was shown, as in wsolevaluation.
    assert wsol_true_boxes(np.array([[-9.0, 0, 301, 101]]), Geometry.identity((224, 224))).tolist() == [
        [-9, 0, 300, 100]
    ]


def test_an_island_lies_in_a_hole_of_three_by_three_and_in_no_smaller_one() -> None:
    level = np.full((7, 7), 200, np.int32)
    level[2:5, 2:5] = 0
    level[3, 3] = 100
    holes, _ = hole_lives(level, 200)
    where = inside_holes(holes, 7, 7)
    assert np.argwhere(where == EVERYWHERE).tolist() == [[3, 3]]
    two = np.full((6, 6), 200, np.int32)
    two[2:4, 2:4] = 0
    assert inside_holes(hole_lives(two, 200)[0], 6, 6).max() == 0
    # V2 finds the island's own contour, a point whose box is one pixel and its right and lower neighbour.
    _, v2 = contour_ious(level.astype(np.uint8), np.array([[3.0, 3.0, 4.0, 4.0]]))
    assert v2[400] == 1
    level[3, 3] = 0
    assert contour_ious(level.astype(np.uint8), np.array([[3.0, 3.0, 4.0, 4.0]]))[1][400] < 0.2


def test_weights_that_are_written_out_are_read_in_their_order() -> None:
    assert flat_weight([[[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]]]) == [[1, 2, 3, 4, 5, 6]]


def test_a_segmentation_shows_its_mask_by_its_shape() -> None:
    assert repr(Segmentation("cat", mask=torch.ones(2, 3))) == "Segmentation('cat', mask=a mask (2, 3))"
    assert repr(Segmentation(1)) == "Segmentation(1, mask='predicted')"


def test_a_target_without_a_score_cannot_be_called() -> None:
    with pytest.raises(NotImplementedError):
        OutputTarget()(torch.zeros(2, 3))


def test_a_box_without_area_is_not_chosen_however_sure_the_network_is_of_it() -> None:
    boxes = torch.tensor([[3.0, 0, 3, 9], [0, 2, 9, 2], [1, 1, 2, 2]])
    found = [{"boxes": boxes, "labels": torch.tensor([1, 1, 1]), "scores": torch.tensor([0.9, 0.8, 0.3])}]
    assert Detection(None, 1).settled(found).box.tolist() == [[1, 1, 2, 2]]
    assert repr(Detection([0, 0, 4, 4.56], 1)) == "Detection([0.0, 0.0, 4.0, 4.6], 1)"
