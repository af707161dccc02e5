"""What docs/export.md shows, works: its example runs, and its lines for boxes give the graph's boxes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

import sightline
from sightline.export.onnx import boxes_array, export_onnx
from sightline.models.preprocess import Preprocess

pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
EXAMPLE, SNIPPET = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    model = sightline.load_model(
        network, categories=["ant", "bee", "cat"], transform=Preprocess((24, 32), (24, 32))
    )
    monkeypatch.chdir(tmp_path)
    export_onnx(model, "tiny40.onnx")
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save("photo.jpg", quality=95)
    names: dict[str, Any] = {}
    exec(EXAMPLE, names)
    told = capsys.readouterr().out.splitlines()
    expected = sightline.explain(model, "photo.jpg", method="cam", classes="top3")
    assert [line.split()[0] for line in told] == [p.category for p in expected.predictions()[0]]
    in_photo = names["out"]["boxes"][0] * names["scale"]
    for box, seen in zip(in_photo, expected.predictions()[0], strict=True):
        found = seen.boxes_xyxy[0].numpy() if len(seen.boxes_xyxy) else np.zeros(4)
        assert np.allclose(box, found, atol=1e-3)
    assert os.listdir(tmp_path).count("tiny40.onnx") == 1


def test_the_lines_for_boxes() -> None:
    names: dict[str, Any] = {}
    exec(SNIPPET, names)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 4, 6, 6, generator=generator)
    heatmaps = (nn.functional.interpolate(coarse, size=(40, 31), mode="bicubic") - 0.4).clamp(0, 1)
    heatmaps[1, 2] = 0
    for threshold in (0.2, 0.6):
        found = names["boxes_from_heatmaps"](heatmaps.numpy(), threshold)
        assert np.array_equal(found, boxes_array(heatmaps, threshold).numpy())
    assert found[1, 2].tolist() == [0, 0, 0, 0]
    assert np.unique(found.reshape(-1, 4), axis=0).shape[0] > 6
