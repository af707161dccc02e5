"""Crops that take the box along, the loss, and a network whose logits stay as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from sightline.errors import InputError, UnsupportedError
from sightline.models.families.gapnet import build_gapnet
from sightline.models.families.refined import EdgeHead, RefinedNet, build_refined, decode
from sightline.training.box_data import augment_with_box, draw_crop, visible_share
from sightline.training.box_module import box_loss, generalised_iou
from sightline.training.refine_recipe import BoxAugmentOptions

TINY = {"stem": 4, "widths": [8, 12], "blocks": [1, 1], "strides": [2, 2]}


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_the_box_goes_along_with_crop_and_flip(flip):
    """A white rectangle is the box: after augmentation the white pixels still lie where the box says."""
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[12:42, 20:60] = 255
    photo, box = Image.fromarray(pixels), (20 / 80, 12 / 60, 60 / 80, 42 / 60)
    options = BoxAugmentOptions(scale=[0.3, 0.8], whole=0.0, min_visible=0.5, flip=flip, jitter=0.0)
    seen = set()
    for index in range(40):
        image, carried = augment_with_box(photo, box, (96, 96), options, (0, 0, index))
        ys, xs = (image[0] > 0.5).nonzero().T
        measured = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
        assert (carried * 96).tolist() == pytest.approx(measured, abs=1.01)
        seen.add(tuple(measured))
    assert len(seen) > 30  # the crops differ


def test_a_crop_keeps_enough_of_the_box():
    options = BoxAugmentOptions(scale=[0.1, 0.4], whole=0.0, min_visible=0.7)
    box = (0.6, 0.6, 0.9, 0.8)
    crops = [draw_crop(np.random.default_rng(i), box, (64, 64), options) for i in range(200)]
    assert all(visible_share(box, crop) >= 0.7 for crop in crops)
    assert len(set(crops)) > 100
    impossible = BoxAugmentOptions(scale=[0.1, 0.1], whole=0.0, min_visible=0.9)
    assert draw_crop(np.random.default_rng(0), (0.0, 0.0, 1.0, 1.0), (64, 64), impossible) == (0, 0, 1, 1)


def test_the_key_decides_everything():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8))
    options = BoxAugmentOptions()
    one, same, other = (
        augment_with_box(photo, (0.2, 0.2, 0.8, 0.8), (16, 16), options, key)
        for key in ((0, 1, 2), (0, 1, 2), (0, 2, 2))
    )
    assert torch.equal(one[0], same[0])
    assert torch.equal(one[1], same[1])
    assert not torch.equal(one[0], other[0])


def test_giou_is_that_of_torchvision():
    a, b = torch.rand(2, 200, 4)
    a, b = (torch.cat([x[:, :2], x[:, :2] + x[:, 2:] + 0.01], 1) for x in (a, b))
    expected = torchvision.ops.generalized_box_iou(a, b).diagonal()
    torch.testing.assert_close(generalised_iou(a, b), expected)
    loss = (1 - expected).mean() * 0.5 + nn.functional.smooth_l1_loss(a, b, beta=0.05)
    torch.testing.assert_close(box_loss(a, b, 0.05, 0.5), loss)


def test_raw_numbers_become_centre_and_size():
    raw = torch.logit(torch.tensor([[0.5, 0.25, 0.4, 0.1]]))
    torch.testing.assert_close(decode(raw), torch.tensor([[0.3, 0.2, 0.7, 0.3]]))


@pytest.mark.parametrize("head", ["grid", "edges"])
@pytest.mark.parametrize("shared", [0, 1, 3, 4])
def test_logits_are_those_of_the_classifier_also_after_training(shared, head):
    classifier = build_gapnet("small-tap", 5, **TINY).eval()
    images = torch.rand(4, 3, 24, 24)
    before = classifier(images).detach()
    net = RefinedNet(classifier, shared, hidden=6, grid=3, head=head).train()
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    start = net.regress(images).detach()
    for _ in range(3):
        loss = box_loss(net.regress(images), torch.tensor([[0.1, 0.1, 0.5, 0.9]]).expand(4, 4), 0.0, 0.5)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert not torch.allclose(net.regress(images), start)
    net.eval()
    assert torch.equal(net(images), before)
    logits, boxes = net.localise(images)
    torch.testing.assert_close(logits, before)
    assert torch.equal(boxes, net.predict_boxes(images))
    assert bool(((boxes >= 0) & (boxes <= 24)).all())


def test_boxes_are_in_input_pixels_and_stay_inside():
    net = build_refined(5, base="small-gap", base_options=TINY, hidden=6, grid=3).eval()
    nn.init.zeros_(net.box_head.fc.weight)
    assert net.predict_boxes(torch.zeros(1, 3, 20, 40)).tolist() == [[10.0, 5.0, 30.0, 15.0]]
    with torch.no_grad():
        net.box_head.fc.bias.copy_(torch.logit(torch.tensor([0.9, 0.5, 0.6, 0.5])))
    torch.testing.assert_close(
        net.predict_boxes(torch.zeros(1, 3, 20, 40)), torch.tensor([[24.0, 5.0, 40.0, 15.0]])
    )


def test_the_edge_head_reads_off_where_a_column_lights_up():
    """Scores that pick one column for both edges: the softmax is sharp, its mean is the middle of that column."""
    net = EdgeHead(1, hidden=1).eval()
    with torch.no_grad():
        net.reduce[0].weight.fill_(1.0)
        for scorer in (net.across, net.down):
            scorer.weight.zero_()
            scorer.bias.zero_()
            scorer.weight[:, 1, 1] = 1000.0  # the maximum over the line, at its own place
    features = torch.zeros(1, 1, 4, 4)
    features[0, 0, 2, 1] = 1.0
    # Of 9 places on 4 cells (corners aligned) cell 1 is nearest place 3, and cell 2 nearest place 5.
    edges = net(features)
    torch.testing.assert_close(edges, torch.tensor([[3 / 8, 5 / 8, 3 / 8, 5 / 8]]), atol=1e-4, rtol=0)


def test_what_cannot_be_refined_says_why():
    with pytest.raises(UnsupportedError, match="got SqueezeNet"):
        RefinedNet(torchvision.models.squeezenet1_1())
    with pytest.raises(InputError, match="shared=9; the trunk has 4 parts, expected 0 to 4"):
        build_refined(5, base="small-gap", base_options=TINY, shared=9)
