"""Boxes for training photos: worked by hand on a classifier whose maps are the colours of the photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sightline.boxes import best_ious
from sightline.errors import InputError
from sightline.models.families.gapnet import GapNet
from sightline.models.loading import LoadedModel, load_model
from sightline.models.pooling import make_pooling
from sightline.models.preprocess import Preprocess
from sightline.training.folds import fold_numbers, split_folds
from sightline.training.pseudo_boxes import (
    PseudoBoxes,
    average_heatmaps,
    boxes_at,
    choose_threshold,
    labels_for,
    pseudo_boxes,
    read_pseudo_boxes,
)
from sightline.training.refine_recipe import TeacherOptions
from sightline.types import Dataset, Sample

COLOURS = ("red", "green", "blue")


def colour_model() -> LoadedModel:
    """A network whose class maps are the red, the green and the blue of its input."""
    features = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    net = GapNet(features, make_pooling("gap"), channels=3, num_classes=3)
    with torch.no_grad():
        features[0].weight.copy_(torch.eye(3)[:, :, None, None])
        features[0].bias.zero_()
        net.fc.weight.copy_(2 * torch.eye(3))
        net.fc.bias.zero_()
    plain = Preprocess((8, 8), 8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return load_model(net, categories=COLOURS, transform=plain)


def photo(*rectangles: tuple[int, tuple[int, int, int, int]]) -> Image.Image:
    """8×8, black, with rectangles of one colour each."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    for channel, (x0, y0, x1, y1) in rectangles:
        pixels[y0:y1, x0:x1, channel] = 255
    return Image.fromarray(pixels)


def dataset(*items: tuple[Image.Image, int, list[float] | None], categories=COLOURS) -> Dataset:
    samples = [
        Sample(f"p{i}", image, label, torch.zeros(0, 4) if box is None else torch.tensor([box]))
        for i, (image, label, box) in enumerate(items)
    ]
    return Dataset("squares", "train", samples, categories)


LEFT, RIGHT = (0, 2, 2, 8), (5, 0, 8, 4)


@pytest.mark.parametrize("flip", [False, True])
def test_the_box_is_that_of_the_known_label_not_of_the_prediction(flip):
    both = photo((0, LEFT), (1, RIGHT))
    found = pseudo_boxes(
        colour_model(), dataset((both, 0, None), (both, 1, None)), TeacherOptions(flip=flip), 0.5
    )
    assert (found.boxes * 8).tolist() == [list(LEFT), list(RIGHT)]
    assert found.used.tolist() == [True, True]
    logits = 2 * torch.tensor([12 / 64, 12 / 64, 0.0])
    assert found.confidence.tolist() == pytest.approx([float(logits.softmax(0)[0])] * 2)


def test_maps_in_half_precision_give_nearly_the_same_boxes():
    data = dataset((photo((0, LEFT)), 0, None), (photo((2, RIGHT)), 2, None))
    full, half = (
        pseudo_boxes(colour_model(), data, TeacherOptions(half=half), 0.5) for half in (False, True)
    )
    assert torch.equal(full.boxes, half.boxes)
    assert half.confidence.dtype == torch.float32
    torch.testing.assert_close(full.confidence, half.confidence, atol=4e-3, rtol=0)


def test_labels_go_by_the_name_of_the_class():
    data = dataset((photo((2, LEFT)), 0, None), categories=("blue", "red"))
    assert labels_for(colour_model(), data).tolist() == [2]
    assert (pseudo_boxes(colour_model(), data, TeacherOptions(), 0.5).boxes * 8).tolist() == [list(LEFT)]


def test_a_map_that_shows_nothing_gives_a_box_that_is_not_used():
    found = pseudo_boxes(colour_model(), dataset((photo((1, LEFT)), 0, None)), TeacherOptions(), 0.5)
    assert (found.boxes.tolist(), found.used.tolist()) == ([[0.0, 0.0, 1.0, 1.0]], [False])


@pytest.mark.parametrize(
    ("options", "used"),
    [
        (TeacherOptions(area=[0.1, 0.9]), [True, False]),
        (TeacherOptions(area=[0.0, 0.5]), [True, True]),
        (TeacherOptions(area=[0.0, 1.0], min_confidence=0.4), [True, False]),
    ],
)
def test_boxes_of_odd_size_and_of_photos_that_are_not_recognised_are_left_out(options, used):
    data = dataset((photo((0, LEFT)), 0, None), (photo((0, (0, 0, 2, 2))), 0, None))
    found = pseudo_boxes(colour_model(), data, options, 0.5)
    assert found.used.tolist() == used  # areas 12/64 and 4/64, confidences 0.42 and 0.36


def test_heatmaps_of_methods_and_sizes_are_averaged():
    image = photo((0, LEFT))
    options = TeacherOptions(methods=["cam", "layercam"], sizes=[8, 16], flip=True)
    found, _ = average_heatmaps(colour_model(), [image], torch.tensor([0]), options)
    singles = [
        average_heatmaps(
            colour_model(), [image], torch.tensor([0]), TeacherOptions(methods=[m], sizes=[s], flip=f)
        )[0]
        for m in options.methods
        for s in options.sizes
        for f in (False, True)
    ]
    large = [torch.nn.functional.interpolate(s[None], (16, 16), mode="bilinear")[0] for s in singles]
    torch.testing.assert_close(found, torch.stack(large).mean(0), atol=1e-5, rtol=0)


def test_with_spread_each_edge_is_the_median_of_three_boxes():
    row = torch.tensor([0.0, 0.1, 0.3, 1.0, 0.7, 0.5, 0.2, 0.0])
    options = TeacherOptions(spread=0.5)  # at 0.2, 0.4 and 0.6: [2, 7), [3, 6), [3, 5)
    assert (boxes_at(row.expand(1, 1, 8), 0.4, options) * 8)[0, ::2].tolist() == [3.0, 6.0]
    assert (boxes_at(row.expand(1, 1, 8), 0.4, TeacherOptions()) * 8)[0, ::2].tolist() == [3.0, 6.0]
    assert (boxes_at(row.expand(1, 1, 8), 0.3, options) * 8)[0, ::2].tolist() == [2.0, 6.0]
    assert boxes_at(torch.zeros(1, 4, 4), 0.3, options).isnan().all()


def test_the_threshold_is_the_one_whose_boxes_fit_the_held_out_part():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4, 0], pixels[:, 4:6, 0] = 250, 100  # full to column 4, 40 % to column 6
    image = Image.fromarray(pixels)
    wide, narrow = [0.0, 0.0, 6.0, 8.0], [0.0, 0.0, 3.0, 8.0]
    grid = (0.2, 0.3, 0.6)
    chosen, shares = choose_threshold(
        colour_model(), dataset((image, 0, narrow), (image, 0, narrow)), TeacherOptions(), grid
    )
    assert (chosen, shares) == (0.2, {0.2: 1.0, 0.3: 1.0, 0.6: 1.0})  # 3/6 = 0.5 fits, and the lowest wins
    tight = [0.0, 0.0, 2.5, 8.0]
    chosen, shares = choose_threshold(
        colour_model(), dataset((image, 0, tight), (image, 0, wide)), TeacherOptions(), grid
    )
    assert (chosen, shares) == (0.6, {0.2: 0.5, 0.3: 0.5, 0.6: 1.0})  # 2.5/4 and 4/6 both fit
    with pytest.raises(InputError, match="p0 has no box to choose a threshold by"):
        choose_threshold(colour_model(), dataset((image, 0, None)), TeacherOptions(), grid)


@pytest.mark.parametrize(
    "options", [TeacherOptions(), TeacherOptions(relative_to="percentile"), TeacherOptions(spread=0.5)]
)
def test_the_sweep_gives_what_cutting_at_each_threshold_gives(options):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(12)]
    boxes = [[float(x), float(y), x + 4.0, y + 5.0] for x, y in rng.integers(0, 3, (12, 2))]
    data = dataset(*((image, i % 3, box) for i, (image, box) in enumerate(zip(images, boxes, strict=True))))
    grid = [round(0.02 * k, 2) for k in range(1, 48)]
    _, shares = choose_threshold(colour_model(), data, options, grid)
    heatmaps, _ = average_heatmaps(colour_model(), images, labels_for(colour_model(), data), options)
    truth = [sample.boxes_xyxy / 8 for sample in data.samples]
    for tau in grid:
        fits = best_ious(boxes_at(heatmaps, tau, options), truth) >= 0.5
        assert shares[tau] == pytest.approx(float(fits.double().mean())), tau
    every_tau, _ = choose_threshold(colour_model(), data, options)
    assert choose_threshold(colour_model(), data, options, [every_tau])[1][every_tau] >= max(shares.values())


def test_what_is_saved_is_read_again(tmp_path):
    boxes = PseudoBoxes(
        ("a", "b,c"), (0, 3), torch.tensor([[0.0, 0.25, 0.5, 1.0], [0.1, 0.1, 0.9, 0.9]]),
        torch.tensor([0.75, 0.5]), torch.tensor([True, False]),
    )  # fmt: skip
    boxes.save(tmp_path / "boxes.csv")
    again = read_pseudo_boxes(tmp_path / "boxes.csv")
    assert (again.ids, again.labels, again.used.tolist()) == (boxes.ids, boxes.labels, [True, False])
    torch.testing.assert_close(again.boxes, boxes.boxes)
    assert again.confidence.tolist() == [0.75, 0.5]
    (tmp_path / "other.csv").write_text("x,y\n1,2\n")
    with pytest.raises(InputError, match="holds no pseudo-boxes; expected the columns id, label"):
        read_pseudo_boxes(tmp_path / "other.csv")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dataset((photo(), 0, None), categories=("cyan",)), "was not trained on class 'cyan'"),
        (dataset((photo(), None, None)), "p0 has no label"),
    ],
)
def test_labels_that_the_model_cannot_show_are_refused(data, message):
    with pytest.raises(InputError, match=message):
        labels_for(colour_model(), data)


def many(count: int) -> Dataset:
    return Dataset("d", "train", [Sample(f"s{i}", Path("x.jpg"), i % 3) for i in range(count)], COLOURS)


def test_folds_cover_everything_evenly_and_do_not_depend_on_order():
    data = many(30)
    parts = split_folds(data, 4, seed=1)
    ids = [[s.id for s in own.samples] for _, own in parts]
    assert sorted(name for part in ids for name in part) == sorted(s.id for s in data.samples)
    for others, own in parts:
        assert not {s.id for s in others.samples} & {s.id for s in own.samples}
        assert len(others) + len(own) == 30
        per_class = [sum(s.label == c for s in own.samples) for c in range(3)]
        assert max(per_class) - min(per_class) <= 1
    turned = Dataset("d", "train", data.samples[::-1], COLOURS)
    assert fold_numbers(turned, 4, 1) == fold_numbers(data, 4, 1)[::-1]
    assert fold_numbers(data, 4, 2) != fold_numbers(data, 4, 1)
    with pytest.raises(InputError, match=r"red has 1 samples; expected at least one per fold \(2 folds\)"):
        fold_numbers(many(3), 2)
