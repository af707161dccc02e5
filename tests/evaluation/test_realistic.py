"""The realistic protocol: thresholds are chosen on a method's own boxes, and no true box is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import sightline
from sightline.errors import InputError
from sightline.evaluation.realistic import with_pseudo_boxes
from sightline.models.preprocess import Preprocess
from sightline.types import Dataset, Sample

BOX = (4, 2, 12, 10)


@dataclass(frozen=True)
class Blind:
    id: str
    source: Image.Image
    label: int | None
    boxes_xyxy: Any = None
    masks: tuple[()] = ()
    ignore_mask: None = None


def photo(shift: int = 0) -> Image.Image:
    picture = Image.new("RGB", (16, 16))
    picture.paste((255, 0, 0), (BOX[0], BOX[1] + shift, BOX[2], BOX[3] + shift))
    return picture


def model() -> Any:
    net = nn.Sequential(
        nn.Conv2d(3, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1)
    )
    for weights, values in zip(net.parameters(), ([1.0, 0, 0], [2.0], [0.0]), strict=True):
        weights.data = torch.tensor(values).view(weights.shape)
    return sightline.load_model(
        net, transform=Preprocess((16, 16), 16, (0.0,) * 3, (1.0,) * 3), categories=["red"]
    )


def test_boxes_are_the_method_s_and_true_ones_are_not_read() -> None:
    blind = Dataset("d", "val", [Blind("a", photo(), 0), Blind("b", photo(3), 0)], ("red",))  # type: ignore[list-item]
    found = with_pseudo_boxes(model(), blind, "cam")
    assert found.split == "val, boxes of cam"
    assert found[0].boxes_xyxy.tolist() == [list(map(float, BOX))]
    assert found[1].boxes_xyxy.tolist() == [[4, 5, 12, 13]]


def test_a_threshold_is_chosen_on_them() -> None:
    true = torch.tensor([[*map(float, BOX)]])
    test = Dataset("d", "test", [Sample("t", photo(), 0, true)], ("red",))
    choose = with_pseudo_boxes(model(), Dataset("d", "val", [Sample("c", photo(1), 0)], ("red",)), "cam")
    report = sightline.evaluate(model(), test, ["cam"], choose_on=choose, resamples=5)
    assert report.settings["choose_on"] == "val, boxes of cam"
    assert report.rows[0].scores["gt_known_chosen"].value == 1


def test_a_photo_without_a_label() -> None:
    with pytest.raises(InputError, match="a has no label"):
        with_pseudo_boxes(model(), Dataset("d", "val", [Sample("a", photo(), None)], ("red",)))
