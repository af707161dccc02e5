"""The page's graph and files, on a network of a few weights; the page itself is tested in a browser."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from sightline.cli import main
from sightline.errors import InputError, UnsupportedError
from sightline.export.page_graph import PageGraph, check_spec
from sightline.inspection.structure import inspect_network
from sightline.methods.spec import parse_method
from sightline.models.loading import LoadedModel
from sightline.models.preprocess import Preprocess
from sightline.pipeline import explain

METHODS = ("cam", "gradcam:nwc=true:affinity", "localise-fast")


def network():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 40),
    )  # fmt: skip
    return net.eval()


@pytest.fixture(scope="module")
def model():
    plain = Preprocess((32, 32), 32, (0.5,) * 3, (0.5,) * 3)
    return LoadedModel(network(), "toy", [f"c{i}" for i in range(40)], plain, unsure_below=0.25)


@pytest.fixture
def runtime(tmp_path):
    folder = tmp_path / "package" / "dist"
    folder.mkdir(parents=True)
    for name in ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        (folder / name).write_bytes(name.encode())
    return tmp_path / "package"


def test_the_graph_gives_the_maps_of_explain(model):
    specs = [parse_method(name) for name in METHODS]
    structure = inspect_network(model.network, torch.zeros(1, 3, 32, 32))
    graph = PageGraph(model.network, structure, specs, ((0.5,) * 3, (0.5,) * 3), (32, 32), top=3)
    image = torch.rand(1, 3, 32, 32)
    classes, scores, *heatmaps = graph(image)
    for spec, found in zip(specs, heatmaps, strict=True):
        expected = explain(model.network, (image - 0.5) / 0.5, method=spec, classes=classes)
        torch.testing.assert_close(found, expected.heatmaps(), atol=1e-4, rtol=0)
        torch.testing.assert_close(scores, expected.scores)


@pytest.mark.parametrize(
    "method", ["layercam", "gradcam:flip", "localise", "cam:bias=true", "cam:scales=1,2", "cam:smooth"]
)
def test_methods_that_need_more_than_one_pass_or_a_gradient_are_refused(method):
    with pytest.raises(UnsupportedError, match="a page without a server cannot have"):
        check_spec(parse_method(method))


def test_weights_are_stored_smaller_and_the_folder_is_whole(model, runtime, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    from sightline.export import web

    specs, out = [parse_method("cam")], tmp_path / "page"
    proto = web.traced(web.page_graph(model, specs, 3))
    sizes, found = {}, {}
    for bits in (32, 16, 8):
        small = web.with_smaller_weights(proto, bits)
        onnx.checker.check_model(small)
        sizes[bits] = small.ByteSize()
        found[bits] = web.agreement(small.SerializeToString(), model, specs)
    assert sizes[8] < sizes[16] < sizes[32]
    assert found[32].largest < 1e-4
    assert all(one.correlation["cam"] > 0.99 for one in found.values())
    with pytest.raises(InputError, match="unknown number of bits"):
        web.with_smaller_weights(proto, 4)

    monkeypatch.setattr(web, "traced", lambda graph: proto)  # once is slow enough
    described = web.export_web(model, out, methods=("cam",), top=3, runtime=runtime)
    files = {path.name: path for path in out.iterdir()}
    assert set(files) == {
        "index.html", "page.css", "page.js", "model.onnx", "model.json", "from-disk.js", "LICENCES.txt",
        "manifest.json", *web.RUNTIME,
    }  # fmt: skip
    told = json.loads(files["model.json"].read_text())
    assert told["categories"][39] == "c39"
    assert told["unsure"] == {"below": 0.25, "note": "not sure: none of the 40 classes fits well"}
    assert told["methods"] == [{"name": "cam", "output": "heat0", "threshold": 0.2}]
    assert np.asarray(told["colours"]["turbo"]).shape == (768,)
    assert described["agreement"]["photos"] == 4
    assert "toy" in files["LICENCES.txt"].read_text()
    assert "onnxruntime-web" in files["LICENCES.txt"].read_text()
    assert files["from-disk.js"].read_text().startswith("window.fromDisk = {")
    for name in ("index.html", "page.css", "page.js"):
        assert "https://" not in files[name].read_text()


def test_what_is_missing_is_said_in_one_line(tmp_path, capsys):
    from sightline.export.web import runtime_files

    with pytest.raises(InputError, match=r"does not hold ort\.wasm\.min\.js"):
        runtime_files(tmp_path)
    assert main(["export", "--format", "pdf"]) == 2
    assert "unknown format 'pdf'" in capsys.readouterr().err


def test_a_page_needs_a_transform(model, tmp_path):
    from sightline.export.web import export_web

    pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
    bare = LoadedModel(model.network, "bare")
    with pytest.raises(InputError, match="give it a transform"):
        export_web(bare, tmp_path / "page", runtime=_runtime(tmp_path))


def _runtime(folder):
    for name in ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        (folder / name).write_bytes(b"")
    return folder
