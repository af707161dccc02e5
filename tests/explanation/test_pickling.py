"""A pickled explanation holds results, not the network."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

import sightline
from sightline.errors import InputError, UnsupportedError


def test_a_pickled_explanation_holds_no_network_and_answers_as_before() -> None:
    wide = nn.Conv2d(3, 64, 33)  # 800 kB of weights
    net = nn.Sequential(wide, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))
    before = sightline.explain(net, torch.rand(1, 3, 40, 40), method="cam", classes="top2")
    text = pickle.dumps(before)
    assert len(text) < 100_000
    after = pickle.loads(text)
    assert torch.equal(after.maps, before.maps)
    assert torch.equal(after.scores, before.scores)
    assert after.sure == before.sure
    assert after.weights_sha256 == before.weights_sha256
    assert [[b.tolist() for b in row] for row in after.boxes()] == [
        [b.tolist() for b in row] for row in before.boxes()
    ]
    assert before.contributions(top=2).maps.shape[2] == 2  # what was pickled is as it was
    with pytest.raises(UnsupportedError, match="unpickled"):
        after.contributions()
    with pytest.raises(InputError, match="does not know how it was made"):
        after.with_method("gradcam")
