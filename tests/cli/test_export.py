"""`sightline export`: the file, what is printed, and that nothing is lost or half-written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `export_onnx` is asked for; it writes four bytes instead of a graph (tests/test_export.py has those)."""
    asked: list[dict[str, Any]] = []

    def fake(model: Any, path: Path, **options: Any) -> dict[str, Any]:
        asked.append({"model": model.name, **options})
        path.write_bytes(b"onnx")
        return {
            "model": model.name, "weights_sha256": "0123456789abcdef", "categories": ["a", "b"], "layer": "features",
            "preprocess": {"input_hw": (88, 96)}, "options": options, "outputs": ["logits", "boxes"], "opset": 18,
            "verified": {"logits": 4.8e-7, "boxes": 0.0}, "bytes": 4,
        }  # fmt: skip

    monkeypatch.setattr("sightline.export.onnx.export_onnx", fake)
    return asked


def test_options_reach_the_graph(sightline: Any, described: list[dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "m.onnx"
    result = sightline(
        "export", "squeezenet1_1", "--weights", "none", "--out", out, "--input", "uint8", "--top", 2,
        "--method", "gradcam", "--normalise", "max", "--threshold", 0.35, "--no-boxes", "--fixed-size",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert described == [
        {
            "model": "squeezenet1_1", "force": False, "method": "gradcam", "top": 2, "input": "uint8",
            "normalise": "max", "threshold": 0.35, "boxes": False, "any_size": False,
        }
    ]  # fmt: skip
    assert result.out.splitlines() == [
        "model:      squeezenet1_1, weights 0123456789ab",
        "categories: 2 names in the file",
        "input:      image (batch, 3, height, width) uint8; made for 88 × 96",
        "outputs:    logits, boxes",
        "maps:       gradcam of layer features, top 2",
        "opset:      18",
        "verified:   logits 5e-07, boxes 0e+00",
        f"file:       {out}, 0.0 MB",
    ]


def test_json_is_the_description(sightline: Any, described: list[dict[str, Any]], tmp_path: Path) -> None:
    result = sightline("export", "--out", tmp_path / "m.onnx", "--json")
    assert json.loads(result.out)["verified"] == {"logits": 4.8e-7, "boxes": 0.0}
    assert described[0]["model"] == "lite0"


def test_a_file_that_is_there(sightline: Any, described: list[dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    out.write_bytes(b"mine")
    result = sightline("export", "--out", out)
    assert result.code == 2
    assert result.err.splitlines() == [
        f"sightline: {out} already exists; overwrite it with --force, or choose another name"
    ]
    assert out.read_bytes() == b"mine"
    assert sightline("export", "--out", out, "--force").code == 0
    assert out.read_bytes() == b"onnx"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vgg16", "--weights", "none"], "an ONNX graph has no gradients, so it needs a head of pooling"),
        (["--method", "scorecam"], "method 'scorecam' needs gradients or many forward passes"),
        (["resnet5O"], "did you mean"),
    ],
)
def test_mistakes_are_one_line(sightline: Any, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = sightline("export", *arguments, "--out", tmp_path / "m.onnx")
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert message in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be(sightline: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    result = sightline("export", "--out", tmp_path / "file" / "m.onnx")
    assert result.code == 2
    assert "is a file, or lies below one" in result.err
