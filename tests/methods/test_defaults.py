"""What a method does if nothing is asked for: every default, as the documents and the papers have it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from sightline.errors import InputError
from sightline.methods import get_method, list_methods
from sightline.methods.named import forget_method_name, name_method
from sightline.methods.spec import Affinity, MethodSpec, Smooth, parse_method

NOISE = {"samples": 25, "sigma": 0.15, "seed": 0}
DEFAULTS: dict[str, dict[str, Any]] = {
    "ablationcam": {"nwc": False, "chunk": 64},
    "attention_rollout": {"discard": 0.0},
    "cam": {"nwc": False, "bias": False},
    "chefer": {},
    "eigencam": {"centre": True},
    "eigengradcam": {"centre": True},
    "fem": {"k": 2.0},
    "finercam": {"gamma": 0.6, "n": 3, "base": "gradcam"},
    "fullgrad": {"rescale": False},
    "fullycam": {"layers": "convs", "reduce": "sum", "per_layer_norm": True, "relu_grad": True},
    "gradcam": {"nwc": False},
    "gradcam_elementwise": {},
    "gradcam_pp": {"nwc": False},
    "gradient_rollout": {},
    "guided_backprop": {},
    "guided_gradcam": {},
    "hirescam": {},
    "input_x_gradient": {},
    "integrated_gradients": {"steps": 32, "baseline": 0.0},
    "kpcacam": {"kernel": "sigmoid", "gamma": None},
    "layercam": {},
    "legrad": {"blocks": None},
    "occlusion": {"window": None, "stride": None, "value": 0.0, "chunk": 32},
    "recipro_cam": {"gaussian": True, "chunk": 64},
    "refinecam": {"layers": "stages", "base": "gradcam_pp"},
    "rise": {"masks": 4000, "grid": 8, "p": 0.5, "seed": 0, "chunk": 32},
    "saliency": {"smooth": 0.0},
    "scorecam": {"channels": None, "chunk": 16, "nwc": False},
    "shapleycam": {"rest": False},
    "smoothgrad": NOISE,
    "smoothgradcam_pp": NOISE,
    "sscam": {"samples": 35, "sigma": 2.0, "channels": None, "chunk": 16, "seed": 0},
    "xgradcam": {"nwc": False},
}


@pytest.mark.parametrize("name", list_methods())
def test_the_defaults_of_a_method(name: str) -> None:
    options = inspect.signature(get_method(name).function).parameters.values()
    found = {option.name: option.default for option in options if option.default is not option.empty}
    assert found == DEFAULTS[name]


def test_the_defaults_of_combinators() -> None:
    assert (Smooth().samples, Smooth().sigma, Smooth().seed) == (25, 0.15, 0)
    assert (Affinity().power, Affinity().steps, Affinity().stages, Affinity().grid) == (4.0, 2, 1, 28)
    assert Affinity(stages=3).stages == 3
    with pytest.raises(InputError, match="expected 1, 2, 3, or names of layers"):
        Affinity(stages=4)


@pytest.mark.parametrize("around", ["flip", "scales=1,2", "affinity", "smooth", "tencrop", "layer=a,b"])
def test_each_combinator_alone_combines(around: str) -> None:
    assert parse_method(f"gradcam:{around}").combines
    assert not MethodSpec("gradcam", layers=("a",)).combines


@pytest.mark.parametrize("around", ["flip", "tencrop", "scales=2", "smooth", "affinity", "layer=a"])
def test_what_stands_behind_a_name_is_added_to_it(around: str) -> None:
    name_method("mine", "gradcam:nwc=true")
    try:
        assert parse_method(f"mine:{around}") == parse_method(f"gradcam:nwc=true:{around}")
    finally:
        forget_method_name("mine")
    name_method("mine", f"gradcam:{around}")
    try:
        assert parse_method("mine:nwc=true") == parse_method(f"gradcam:nwc=true:{around}")
    finally:
        forget_method_name("mine")
