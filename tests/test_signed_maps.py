"""A map whose 0 means "no effect" is drawn and boxed so that 0 is no heat, wherever a user sees it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline
from sightline.app.choices import usual_threshold
from sightline.cli import main
from sightline.evaluation.options import Scoring
from sightline.methods import get_method, list_methods
from sightline.methods.named import forget_method_name, name_method
from sightline.methods.spec import parse_method
from sightline.pipeline_files import ExplainOptions, caption_of
from sightline.types import BoxRule

METHOD = "occlusion:window=4:stride=4"


@pytest.fixture(scope="module")
def network():
    """Counts red in the top left quarter and, against it, in the bottom right one; the rest has no effect."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2, bias=False)).eval()
    weight = torch.zeros(2, 3, 16, 16)
    weight[0, 0, :8, :8], weight[0, 0, 8:, 8:] = 1.0, -1.0
    net[1].weight.data = weight.flatten(1)
    return net


@pytest.fixture(scope="module")
def explained(network):
    return sightline.explain(network, torch.ones(1, 3, 16, 16), method=METHOD, classes=[0])


def test_what_has_no_effect_has_no_heat_and_is_in_no_box(explained):
    heat = explained.heatmaps()[0, 0]
    assert heat[:8, :8].min() == 1
    assert heat[8:].max() == heat[:, 8:].max() == 0
    assert explained.boxes()[0][0].tolist() == [[0, 0, 8, 8]]
    assert explained.masks()[0, 0].sum() == 64


def test_a_normalisation_that_is_named_is_used(explained):
    assert explained.heatmaps(normalise="minmax")[0, 0, 12, 2] == 0.5
    assert explained.boxes(normalise="minmax")[0][0].tolist() == [[0, 0, 16, 16]]
    assert explained.boxes(BoxRule(0.6, normalise="minmax"))[0][0].tolist() == [[0, 0, 8, 8]]


def test_combined_and_named_methods_keep_it(network):
    name_method("fine", METHOD, BoxRule(0.3))
    try:
        for method in (f"{METHOD}:flip", "fine", "fine:flip"):
            rule = sightline.explain(network, torch.ones(1, 3, 16, 16), method=method, classes=[0]).box_rule()
            assert (rule.normalise, rule.threshold) == ("max", 0.3 if method == "fine" else 0.2), method
    finally:
        forget_method_name("fine")


def test_a_plain_named_method_has_its_threshold_too(network):
    name_method("mine", "saliency", BoxRule(0.4))
    try:
        found = sightline.explain(network, torch.ones(1, 3, 16, 16), method="mine", classes=[0])
        assert found.box_rule().threshold == 0.4
    finally:
        forget_method_name("mine")


def test_only_occlusion_is_not_normalised_by_minmax():
    """The class map and its kin are drawn as their authors do; in no other map does 0 mean "no effect"."""
    assert [name for name in list_methods() if get_method(name).normalise != "minmax"] == ["occlusion"]


def test_an_evaluation_keeps_the_normalisation_of_its_table():
    assert Scoring().lines("occlusion", own=parse_method("occlusion").rule)[0].rule.normalise == "minmax"
    assert usual_threshold(parse_method("occlusion")) == 0.2


def test_an_unknown_normalisation_is_still_refused(explained):
    for wrong in ("", "min-max"):
        with pytest.raises(sightline.InputError, match="normalis"):
            explained.heatmaps(normalise=wrong)
        with pytest.raises(sightline.InputError, match="normalise"):
            BoxRule(normalise=wrong)


def test_the_command_line_draws_and_names_it(capsys):
    """The caption and the listing of methods say which one a map has."""
    options = ExplainOptions(["cam", METHOD])
    assert "heat: minmax or max" in caption_of("net", options)
    assert "heat: ivr" in caption_of("net", ExplainOptions([METHOD], rule=BoxRule(normalise="ivr")))
    assert main(["methods", "occlusion"]) == 0
    assert "heatmaps: normalised by max" in capsys.readouterr().out
