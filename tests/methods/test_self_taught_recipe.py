"""The self-taught plugin: the region whose loss costs the most is found, and every photo's regions nest."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sightline
from sightline.boxes import iou
from sightline.methods.registry import METHODS

PLUGIN = Path(__file__).parents[2] / "recipes" / "localise" / "self_taught.py"


@pytest.fixture
def plugin() -> Any:
    pytest.importorskip("skimage")
    spec = importlib.util.spec_from_file_location("self_taught_recipe", PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    METHODS.remove("self_taught")


def test_merging_by_hand(plugin: Any) -> None:
    """Four segments in a row with drops 0, 1, 1.1, 5: the two middle ones are merged first."""
    labels = np.array([[0, 1, 2, 3]])
    worth = np.array([[0.0, 1.0, 1.1, 5.0]])
    found = plugin.proposals(labels, lambda masks: [float(worth[mask].sum()) for mask in masks])
    assert [round(drop, 2) for drop, _ in found[:4]] == [0, 1, 1.1, 5]
    assert found[4][1].tolist() == [[False, True, True, False]]
    assert len(found) == 6  # the whole photo is no region


def test_the_square_that_the_score_needs_is_found(plugin: Any) -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2, bias=False))
    net[2].weight.data = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    image = torch.zeros(1, 3, 24, 24)
    image[:, 0, 6:18, 6:18] = 1
    image[:, 1, :, :4] = 1
    found = sightline.explain(net, image, "self_taught", classes=[0, 1])
    assert found.maps.shape == (1, 2, 24, 24)
    red, green = found.boxes(threshold=0.5)[0]
    assert iou(red, torch.tensor([[6.0, 6, 18, 18]])).item() > 0.5
    assert green[0, 2] < 10
