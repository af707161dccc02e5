"""The ONNX file gives what PyTorch gives, and docs/export.md works: the files, the page's example, the refusals.

One file: importing the exporter takes longer than most of its tests.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.errors import InputError, UnsupportedError
from sightline.export.onnx import boxes_array, example_images, export_onnx
from sightline.methods import get_method
from sightline.models.families.gapnet import build_gapnet
from sightline.models.preprocess import Preprocess

onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
EXAMPLE, SNIPPET = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
SIDES = Preprocess((32, 40), (32, 40), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
NAMES = ["red", "green", "blue", "grey"]


def tiny(pooling: str = "gap") -> sightline.LoadedModel:
    torch.manual_seed(3)
    options = {"stem": 4, "widths": [8], "blocks": [1], "strides": [2]}
    network = build_gapnet(f"small-{pooling}", 4, **options)
    for module in network.modules():  # statistics and weights as a training leaves them, not zeros and ones
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return sightline.load_model(network, categories=NAMES, transform=SIDES)


class ClassConv(nn.Module):
    """A 1×1 class convolution, a ReLU or none, and pooling: the head of SqueezeNet and of NIN."""

    def __init__(self, relu: bool) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU())
        self.classes = nn.Conv2d(8, 4, 1)
        self.relu = relu

    def forward(self, images: Tensor) -> Tensor:
        maps = self.classes(self.trunk(images))
        return (maps.relu() if self.relu else maps).mean((2, 3))


class Session:
    """The graph, run by onnxruntime on one thread."""

    def __init__(self, path: Path) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self.run_ = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.run_.get_outputs()]

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        found = self.run_.run(None, {"image": images.numpy()})
        return dict(zip(self.names, map(torch.from_numpy, found), strict=True))


def photos(count: int, height: int, width: int) -> Tensor:
    """Soft patches of colour in [0, 1]."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(height + count))
    return nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)


def normalised(model: sightline.LoadedModel, images: Tensor) -> Tensor:
    assert model.preprocess is not None
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.preprocess.mean, model.preprocess.std))
    return (images - mean) / std


def assert_equal_to_explain(
    model: sightline.LoadedModel, path: Path, sizes: list[tuple[int, int]], method: str = "cam", top: int = 3
) -> None:
    """Everything end to end, from the same photo to the box, at two batch sizes and two image sizes."""
    session = Session(path)
    for count, (height, width) in zip((1, 3), sizes, strict=True):
        images = photos(count, height, width)
        found = session(images)
        e = sightline.explain(model, normalised(model, images), method=method, classes=f"top{top}")
        assert torch.equal(found["classes"], e.classes)
        for name, expected in (
            ("logits", e.logits),
            ("scores", e.scores),
            ("maps", e.maps),
            ("heatmaps", e.heatmaps()),
        ):
            assert found[name].shape == expected.shape
            apart = (found[name] - expected).abs().max() / expected.abs().max()
            assert apart <= 1e-4, (name, float(apart))
        expected_boxes = boxes_array(e.heatmaps())
        assert expected_boxes.shape == (count, top, 4)
        assert torch.equal(found["boxes"], expected_boxes)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[sightline.LoadedModel, Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("onnx") / "new" / "tiny.onnx"
    model = tiny()
    return model, path, export_onnx(model, path, top=3)


def test_a_gapnet(exported: Any) -> None:
    model, path, described = exported
    assert_equal_to_explain(model, path, [(32, 40), (57, 48)])
    assert described["verified"]["boxes"] == 0
    assert all(value <= 1e-4 for value in described["verified"].values())


def test_the_class_map_and_its_bias_give_the_logit(exported: Any) -> None:
    """mean_xy M_c + b_c = S_c (Zhou et al. 2016), with the graph's own outputs."""
    model, path, _ = exported
    found = Session(path)(photos(2, 40, 40))
    bias = model.network.fc.bias.detach()[found["classes"]]
    logits = found["logits"].gather(1, found["classes"])
    assert torch.allclose(found["maps"].mean((2, 3)) + bias, logits, atol=1e-5)


def test_what_the_file_says_of_itself(exported: Any) -> None:
    model, path, described = exported
    proto = onnx.load(path)
    assert [(o.domain, o.version) for o in proto.opset_import if o.domain == ""] == [("", 18)]
    (entry,) = proto.metadata_props
    assert entry.key == "sightline"
    said = json.loads(entry.value)
    assert said == json.loads(json.dumps({k: v for k, v in described.items() if k != "bytes"}))
    assert said["categories"] == NAMES
    assert said["weights_sha256"] == model.weights_sha256
    assert said["preprocess"] == {
        "input_hw": [32, 40],
        "interpolation": "bilinear",
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.25, 0.3],
    }
    assert said["options"]["threshold"] == 0.2
    (image,) = proto.graph.input
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == [
        "batch",
        3,
        "height",
        "width",
    ]
    assert described["bytes"] == path.stat().st_size
    assert [p.name for p in path.parent.iterdir()] == ["tiny.onnx"]


def test_the_model_is_afterwards_as_it_was(exported: Any) -> None:
    model, _, _ = exported
    assert not any(m._forward_hooks for m in model.network.modules())
    assert all(p.requires_grad for p in model.network.parameters())


@pytest.mark.parametrize(("kind", "relu"), [("linear", False), ("conv", True), ("conv", False)])
def test_gradcam_in_closed_form_is_gradcam_with_its_gradient(kind: str, relu: bool) -> None:
    from sightline.export.graph import GraphOptions, MapGraph
    from sightline.inspection.structure import inspect_network

    network = tiny("tap").network if kind == "linear" else ClassConv(relu).eval()
    images = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    structure = inspect_network(network, images)
    assert structure.head is not None
    assert (structure.head.kind, structure.head.relu) == (kind, relu)
    graph = MapGraph(network, structure, GraphOptions("gradcam", top=4, input="normalised"))
    maps = graph(images)[3]
    expected = sightline.explain(network, images, method="gradcam", classes="top4").maps
    assert expected.max() > 0
    assert torch.allclose(maps, expected, rtol=1e-4, atol=1e-4 * float(expected.max()))


def test_eight_bit_input_normalised_by_max_without_boxes_at_one_size(tmp_path: Path) -> None:
    model = sightline.load_model(ClassConv(True), transform=SIDES)
    described = export_onnx(
        model, tmp_path / "m.onnx", input="uint8", normalise="max", boxes=False, any_size=False, top=9
    )
    assert described["options"]["top"] == 4  # there are no more classes
    levels = (photos(3, 32, 40) * 255).to(torch.uint8)
    found = Session(tmp_path / "m.onnx")(levels)
    assert "boxes" not in found
    e = sightline.explain(model, normalised(model, levels.float() / 255), method="cam", classes="top4")
    expected = e.heatmaps(normalise="max")
    index = (
        (found["classes"][..., None] == e.classes[:, None]).float().argmax(2)
    )  # equal scores have no order
    sorted_ = expected.gather(1, index[..., None, None].expand_as(expected))
    assert torch.allclose(found["heatmaps"], sorted_, atol=1e-4)
    with pytest.raises(Exception, match=r"(?i)invalid.dimension"):
        Session(tmp_path / "m.onnx")(levels[..., :32])


def test_a_graph_that_computes_something_else_is_not_written(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path, _ = exported
    cam = sightline.methods.cam.cam
    monkeypatch.setattr("sightline.export.onnx._trace", lambda graph, size_hw: onnx.load(path))
    changed = replace(get_method("cam"), function=lambda e, t: cam(e, t) / 1.001)
    monkeypatch.setattr("sightline.pipeline.get_method", lambda name: changed)
    with pytest.raises(UnsupportedError, match=r"results differ from PyTorch's: maps differ by 1\.0e-03"):
        export_onnx(model, tmp_path / "wrong.onnx", top=3)
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 222 * 222, 2))
    with pytest.raises(
        UnsupportedError, match=r"an ONNX graph has no gradients.*`sightline models '\*-gap'`"
    ):
        export_onnx(sightline.load_model(flat), path, input="normalised")
    with pytest.raises(UnsupportedError, match=r"method 'layercam' needs gradients .* use 'cam'"):
        export_onnx(tiny(), path, method="layercam")
    for method in ("cam:nwc=true:affinity", "localise"):
        with pytest.raises(
            UnsupportedError, match=rf"without options and combinators; got '{method}'.*--format web"
        ):
            export_onnx(tiny(), path, method=method)
    with pytest.raises(InputError, match="unknown method 'cma'; did you mean 'cam'"):
        export_onnx(tiny(), path, method="cma")
    with pytest.raises(InputError, match="unknown input 'unit8'; did you mean 'uint8'"):
        export_onnx(tiny(), path, input="unit8")
    with pytest.raises(InputError, match="unknown normalisation in an ONNX graph 'ivr'"):
        export_onnx(tiny(), path, normalise="ivr")
    with pytest.raises(InputError, match="does not state how its input is normalised"):
        export_onnx(sightline.load_model(ClassConv(True)), path)
    with pytest.raises(InputError, match="is a folder"):
        export_onnx(tiny(), tmp_path)
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match="already exists; overwrite it with --force"):
        export_onnx(tiny(), path)
    assert path.read_bytes() == b"mine"


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"onnxscript is not installed: pip install 'sightline-cam\[onnx\]'"):
        export_onnx(tiny(), tmp_path / "m.onnx")


def test_the_40_class_network(tmp_path: Path, tiny40_file: Path) -> None:
    model = sightline.load_model(tiny40_file)
    export_onnx(model, tmp_path / "m.onnx", top=3)
    assert_equal_to_explain(model, tmp_path / "m.onnx", [(88, 88), (96, 128)])


@pytest.mark.slow
def test_the_default_model(tmp_path: Path) -> None:
    model = sightline.load_model()
    export_onnx(model, tmp_path / "m.onnx", top=2)
    assert_equal_to_explain(model, tmp_path / "m.onnx", [(224, 224), (193, 257)], top=2)


def test_squeezenet_with_real_weights(tmp_path: Path, shared: Path) -> None:
    weights = shared / "weights" / "squeezenet1_1.safetensors"
    if not weights.is_file():
        pytest.skip(f"no {weights}")
    model = sightline.load_model("squeezenet1_1", weights=weights)
    export_onnx(model, tmp_path / "m.onnx", top=2)
    assert_equal_to_explain(model, tmp_path / "m.onnx", [(224, 224), (193, 257)], top=2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cam", "gradcam"])
def test_resnet18(tmp_path: Path, method: str) -> None:
    torch.manual_seed(0)
    model = sightline.load_model("resnet18", weights="none")
    export_onnx(model, tmp_path / "m.onnx", top=2, method=method)
    assert_equal_to_explain(model, tmp_path / "m.onnx", [(224, 224), (160, 192)], method, top=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["densenet121", "googlenet-gmp", "nin", "resnet50-tap"])
def test_other_heads_and_a_target_that_is_an_operation(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model = sightline.load_model(name, weights="none")
    described = export_onnx(model, tmp_path / "m.onnx", top=2)
    assert max(described["verified"].values()) <= 1e-4


def test_example_images_are_of_the_kind_asked_for() -> None:
    from types import SimpleNamespace

    for kind, low, high in (("uint8", 0, 255), ("rgb", 0, 1), ("normalised", -2, 2)):
        graph: Any = SimpleNamespace(options=SimpleNamespace(input=kind))
        images = example_images(graph, 2, (9, 7))
        assert images.shape == (2, 3, 9, 7)
        assert images.dtype == (torch.uint8 if kind == "uint8" else torch.float32)
        assert low <= float(images.min()) < float(images.max()) <= high


def test_the_example_of_the_page(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, path, _ = exported
    monkeypatch.chdir(tmp_path)
    shutil.copy(path, "tiny40.onnx")
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


def test_the_lines_for_boxes_of_the_page() -> None:
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
