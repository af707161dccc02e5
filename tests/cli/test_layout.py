"""``--layout``: how the tensor of a named layer is read, on every verb that takes ``--layer``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sightline as library
from sightline.errors import InputError
from sightline.methods.spec import MethodSpec, parse_methods
from sightline.models.loading import load_model
from sightline.pipeline_files import ExplainOptions

VERBS = ("explain", "batch", "evaluate", "faithfulness")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_with_a_layer_has_it(sightline: Any, verb: str) -> None:
    shown = " ".join(sightline(verb, "--help").out.split())
    assert "--layer " in shown
    assert "--layout " in shown
    assert "ntc:1+14x14" in shown.replace("│ ", "").replace(" │", "")


def test_it_reaches_the_map(
    sightline: Any, model: list[object], photos: Path, weights: Path, tmp_path: Path
) -> None:
    # features.7 returns (N, 256, h, w); read as channels last it is a "map" of 256 × h: wrong here, and thus visible
    named = ("--layer", "features.7", "--layout", "nhwc")
    run = ("batch", *model, photos / "a.png", "--workers", 0, "--heatmap-size", "map")
    assert sightline(*run, *named, "--out", tmp_path / "batch").code == 0
    (file,) = (tmp_path / "batch" / "heatmaps").rglob("*.npy")
    loaded = load_model("squeezenet1_1", weights=weights)
    direct = library.explain(loaded, photos / "a.png", "gradcam", layer="features.7", layout="nhwc").maps
    assert np.load(file).shape[-2:] == direct.shape[-2:]
    assert direct.shape[2] == 256
    assert sightline("explain", *model, photos / "a.png", *named, "--out", tmp_path / "explain").code == 0
    written = json.loads((tmp_path / "explain" / "manifest.json").read_text())
    assert (written["options"]["layers"], written["options"]["layout"]) == (["features.7"], "nhwc")
    batch = json.loads((tmp_path / "batch" / "manifest.json").read_text())
    assert batch["options"]["layout"] == "nhwc"


def test_the_layout_that_is_found_changes_nothing(
    sightline: Any, model: list[object], photos: Path, tmp_path: Path
) -> None:
    found = []
    for layout in ([], ["--layout", "auto"], ["--layout", "nchw"]):
        out = tmp_path / "-".join(["out", *layout])
        assert (
            sightline(
                "explain", *model, photos / "a.png", "--layer", "features.7", *layout, "--out", out
            ).code
            == 0
        )
        found.append(json.loads((out / "manifest.json").read_text()))
    assert (
        found[0]["images"][0]["results"]
        == found[1]["images"][0]["results"]
        == found[2]["images"][0]["results"]
    )
    assert ["layout" in one["options"] for one in found] == [False, False, True]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layout", "nhwc"], "layout='nhwc' was given without a layer; name the layer that it describes"),
        (
            ["--layer", "features.7", "--layout", "nhcw"],
            "layout 'nhcw'; expected one of nchw, nhwc, ntc, nct",
        ),
        (
            ["--layer", "features.7", "--layout", "ntc"],
            "layout 'ntc' needs the grid of its tokens, e.g. 'ntc:1+14x14'",
        ),
        (
            ["--method", "gradcam:scales=1,2", "--layer", "features.7", "--layout", "ntc:7x7"],
            "layout='ntc:7x7' is of one input size, and scales=1,2 shows others; leave out the scales, or the layout",
        ),
        (["--method", "saliency", "--layout", "nhwc"], "layout='nhwc' was given"),
    ],
)
def test_one_line_for_every_mistake(
    sightline: Any,
    model: list[object],
    photos: Path,
    tmp_path: Path,
    verb: str,
    arguments: list[str],
    message: str,
) -> None:
    data = (photos,) if verb in ("explain", "batch") else ("--data", photos)
    result = sightline(verb, *data, *model, *arguments, "--out", tmp_path / "out")
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1


def test_a_layout_that_the_tensor_has_not(
    sightline: Any, model: list[object], photos: Path, tmp_path: Path
) -> None:
    named = ("--layer", "features.7", "--layout", "ntc:4x4")
    result = sightline("explain", *model, photos / "a.png", *named, "--out", tmp_path / "out")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "layer 'features.7' has no spatial map: it returns (1, 256," in result.err
    assert "which is not ntc:4x4" in result.err


def test_specs_carry_it() -> None:
    spec = parse_methods(["gradcam", "saliency"], layers=["norm"], layout="ntc:1+2x2")
    assert [one.layout for one in spec] == ["ntc:1+2x2", "auto"]
    assert spec[0].label == "gradcam layer=norm layout=ntc:1+2x2"
    assert MethodSpec("cam").layout == "auto"
    with pytest.raises(InputError, match="without a layer"):
        ExplainOptions(layout="nhwc")
