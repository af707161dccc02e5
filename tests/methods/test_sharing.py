"""What methods share with each other: a forward pass, where it is asked for; and one list of names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sightline.engine import Evidence
from sightline.errors import InputError
from sightline.methods import get_method
from sightline.methods.named import forget_method_name, name_method
from sightline.methods.observation import observe_for, own_pass, shared_passes
from sightline.methods.registry import METHODS


def test_a_pass_is_shared_where_it_is_asked_for_and_nowhere_else() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    ).eval()
    images = torch.randn(1, 3, 8, 8)

    def of(method: str) -> Evidence:
        return observe_for(get_method(method), network, images)[0]

    assert of("cam") is not of("cam")
    with shared_passes():
        first = of("cam")
        assert of("gradcam") is first
        assert of("saliency") is not first  # it looks at the image, not at a layer
        with own_pass():
            assert of("cam") is not of("cam")
        assert of("gradcam") is first
    assert of("cam") is not of("cam")


def test_a_name_is_taken_while_it_is_used() -> None:
    name_method("mine", "layercam:flip")
    with pytest.raises(InputError, match="method name 'mine' is taken"):
        METHODS.check_name("mine")
    forget_method_name("mine")
    METHODS.check_name("mine")
