"""What a score, a map or a box does if nothing is asked for: every number that a paper or a document states."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from sightline import boxes, heatmap, scores
from sightline.methods import attention, combinators, eigencam, kpcacam, observation, recipro_cam
from sightline.methods.registry import Method, register_method
from sightline.metrics import (
    accumulators,
    baselines,
    bootstrap,
    calibration,
    complexity,
    faithfulness,
    ilsvrc,
    localisation,
    pixels,
    pointing,
    protocols,
    registry,
    road,
    sanity,
    torch_metrics,
)
from sightline.targets import Probability, Regression, Segmentation
from sightline.types import BoxRule

TENTHS = (10, 20, 30, 40, 50, 60, 70, 80, 90)
BOOTSTRAP = {"resamples": 2000, "confidence": 0.95, "seed": 0}
DEFAULTS: dict[Callable[..., Any], dict[str, Any]] = {
    accumulators.BoxTally: {"workers": 1},
    accumulators.PixelTally: {"resamples": 500},
    baselines.best_constant_box: {"delta": 0.5},
    baselines.constant_box_hits: {"delta": 0.5},
    bootstrap.bootstrap_interval: BOOTSTRAP,
    bootstrap.paired_difference: BOOTSTRAP,
    boxes.cutoffs: {"rule": BoxRule(0.2)},
    boxes.five_guesses: {"how": "plain"},
    boxes.make_boxes: {"rule": BoxRule(0.2)},
    boxes.make_masks: {"rule": BoxRule(0.2)},
    calibration.calibration: {"bins": 15},
    combinators.multi_layer: {"reduce": "sum", "per_layer_norm": True},
    combinators.scaled_size: {"n": 1},
    complexity.border_share: {"border": 0.05},
    eigencam.first_component: {"centre": True},
    faithfulness.deletion: {"steps": 56, "value": 0.0},
    faithfulness.insertion: {"steps": 56, "sigma": 5.0},
    faithfulness.random_maps: {"seed": 0},
    heatmap.fuse: {"reduce": "sum", "per_layer_norm": True},
    heatmap.make_heatmaps: {"normalise": "minmax", "percentile": 90.0},
    heatmap.normalise: {"how": "minmax", "percentile": 90.0},
    heatmap.place: {"repeat_edges": False},
    heatmap.propagate: {"power": 4.0, "steps": 2, "limit": 2**24, "grid": None},
    heatmap.upsample: {"mode": "bilinear"},
    ilsvrc.boxes_correct: {"delta": 0.5},
    ilsvrc.ILSVRC: {"keep": False, "images": 0},
    kpcacam.kernel_component: {"kernel": "sigmoid", "gamma": None},
    localisation.best_threshold: {"delta": None},
    Method: {
        "signed": False, "joint": False, "class_specific": True, "layers": None, "normalise": "minmax",
    },
    pointing.pointing_game: {"tolerance": 0},
    protocols.sweep_ious: {"protocols": ("wsol-v1",), "rule": None, "map_hw": None, "workers": 1},
    protocols.wsol_scoremap: {"rule": None, "side": 224},
    protocols.wsol_true_boxes: {"side": 224},
    Probability: {"scores": "auto"},
    recipro_cam.position_masks: {"gaussian": True},
    register_method: {
        "needs": ("activations", "gradient"), "signed": False, "joint": False, "class_specific": True, "layers": None,
        "normalise": "minmax",
    },
    registry.Column: {"share": True, "class_mean_of": ""},
    registry.MetricContext: {"masks": None, "steps": 56, "seed": 0},
    registry.register_metric: {
        "columns": None, "good": "higher", "says": "", "needs": (), "default": True, "note": "",
    },
    Regression: {"sign": 1},
    road.impute: {"tolerance": 5e-4, "most_iterations": 500},
    road.road: {"percentiles": TENTHS, "noise": 0.01, "seed": 0},
    sanity.max_sensitivity: {"radius": 0.02, "samples": 10, "seed": 0},
    sanity.randomised_cascade: {"seed": 0},
    scores.lies_in_unit: {"tolerance": 1e-4},
    scores.sums_to_one: {"tolerance": 1e-4},
    Segmentation: {"mask": "predicted"},
    torch_metrics.GTKnownLocalisation: {"rule": None, "delta": 0.5},
    torch_metrics.MaxBoxAccuracy: {"deltas": (0.5,), "protocol": "exact", "rule": None},
}  # fmt: skip


@pytest.mark.parametrize("function", DEFAULTS, ids=lambda one: one.__name__)
def test_the_defaults_of_a_function(function: Callable[..., Any]) -> None:
    options = inspect.signature(function).parameters.values()
    assert {one.name: one.default for one in options if one.default is not one.empty} == DEFAULTS[function]


@pytest.mark.parametrize(("kind", "protocol"), [("MaxBoxAcc", "wsol-v1"), ("MaxBoxAccV2", "wsol-v2")])
def test_accumulators_begin_empty(kind: str, protocol: str) -> None:
    score = getattr(localisation, kind)()
    assert (score.protocol, score.rule, score.keep, score.images) == (protocol, BoxRule(0.2), False, 0)
    assert not score.hits.any()
    assert (pixels.PxAP().protocol, pixels.PxAP().rule, pixels.PxAP().images) == ("wsol", BoxRule(0.2), 0)


def test_numbers_that_are_stated_in_the_documents() -> None:
    assert (accumulators.DELTA, accumulators.V2_DELTAS) == (0.5, (0.3, 0.5, 0.7))
    assert (baselines.STEPS, pixels.IGNORED, protocols.SIDE, ilsvrc.TOPS) == (16, 255, 224, (1, 5))
    assert (protocols.TAUS[0], protocols.TAUS[-1], len(protocols.TAUS)) == (0, 0.999, 1000)
    assert boxes.HEURISTIC_CUTS == (20, 100, 110)
    assert (heatmap.IVR_QUANTILE, heatmap.MOST_VALUES) == (0.45, 2**32)
    assert (combinators.MOST_PIXELS, combinators.CROPPED, observation.MOST_SHARED) == (10**8, 8 / 7, 4)
    assert str(attention.Part.__metadata__[0].said()) == " from 0 to below 1"
