"""Batch runs on onnxruntime: the rows and heatmaps of PyTorch, and refusals in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from sightline.batch.local_engine import LocalEngine
from sightline.batch.run import explain_batch
from sightline.batch.worker import BatchOptions
from sightline.errors import InputError, UnsupportedError
from sightline.models.loading import LoadedModel, load_model
from sightline.models.preprocess import Preprocess

pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
from sightline.export.onnx_engine import OnnxEngine

OPTIONS = BatchOptions(classes="top2", batch_size=2)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    )
    return load_model(net, categories=list("abcd"), transform=Preprocess((16, 20), (16, 20)))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(3):
        pixels = random.integers(0, 256, (24 + number, 30, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    from pyarrow.parquet import read_table

    return read_table(folder / "results" / "part-00000.parquet").to_pylist()  # type: ignore[no-any-return]


def test_rows_and_heatmaps_are_those_of_pytorch(model: LoadedModel, photos: Path, tmp_path: Path) -> None:
    engines = {"torch": LocalEngine(workers=0), "onnx": OnnxEngine(workers=0)}
    manifests = [explain_batch(model, [photos], tmp_path / n, OPTIONS, e) for n, e in engines.items()]
    assert [m["engine"]["name"] for m in manifests] == ["local", "onnx"]
    plain, other = (rows(tmp_path / name) for name in engines)
    assert len(plain) == 6
    for ours, theirs in zip(plain, other, strict=True):
        for name in ("image_id", "sha256", "class_index", "category", "rank", "score_rule", "photo_height"):
            assert ours[name] == theirs[name]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert np.allclose(ours["boxes_xyxy"], theirs["boxes_xyxy"], atol=1.6)  # a pixel of the input
    heats = [np.load(tmp_path / name / "heatmaps" / "part-00000.npy").astype(int) for name in engines]
    assert np.abs(heats[0] - heats[1]).max() <= 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": "layercam"}, UnsupportedError, "needs gradients"),
        ({"method": "gradcam:flip"}, UnsupportedError, "without options, layers and combinators"),
        ({"classes": ["a"]}, InputError, "explains the most probable classes"),
    ],
)
def test_what_it_cannot_do(
    model: LoadedModel, photos: Path, tmp_path: Path, changes: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        explain_batch(model, [photos], tmp_path / "out", replace(OPTIONS, **changes), OnnxEngine(workers=0))
