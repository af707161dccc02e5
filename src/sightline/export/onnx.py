"""Export to one ONNX file with scores, class maps, heatmaps and boxes, verified before it is written."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sightline.boxes import make_boxes
from sightline.engine import observe
from sightline.errors import InputError, UnsupportedError, need
from sightline.export.graph import GraphOptions, MapGraph
from sightline.heatmap import make_heatmaps
from sightline.inspection.inputs import held_names
from sightline.inspection.structure import inspect_network
from sightline.pipeline import explain
from sightline.reports.manifest import describe_run
from sightline.reports.output_folder import make_folder, write_atomically
from sightline.scores import ScoreRule
from sightline.types import BoxRule

if TYPE_CHECKING:
    from sightline.models.loading import LoadedModel
    from sightline.models.preprocess import Preprocess

OPSET = 18  # the first whose ScatterElements supports a minimum, which the boxes need
TOLERANCE = 1e-4  # relative to the largest value
KEY = "sightline"  # the metadata entry with the description, as JSON


def export_onnx(
    model: LoadedModel, path: str | Path, *, force: bool = False, **options: Any
) -> dict[str, Any]:
    """Write ``model`` to ``path`` as one ONNX graph (see `MapGraph`), and return its description.

    ``options`` are those of `GraphOptions`. The batch size is free, and so are height and width unless
    ``any_size=False``. Before the file is written, onnxruntime's results are compared with PyTorch's (see `verify`);
    the largest differences are in the description under ``verified``. The description is also stored in the file,
    as JSON in the metadata entry "sightline".

    Raises `UnsupportedError` for a method or network that needs a gradient, and for a graph whose results differ
    from PyTorch's; `InputError` for an invalid option, an existing file (unless ``force``), and missing packages of
    the extra ``[onnx]``.
    """
    path, wanted = Path(path), GraphOptions(**options)
    check_place(path, force)
    onnx = _packages()
    preprocess = model.preprocess
    if preprocess is None and wanted.input != "normalised":
        raise InputError(
            f"input is {wanted.input!r}, but this model does not state how its input is normalised; "
            "expected input='normalised', or a model with a transform"
        )
    held = held_names(model.network)
    if held:
        raise UnsupportedError(
            f"the model holds further inputs fixed, {', '.join(held)}; export a module of your own whose forward takes "
            "the images and hands these on"
        )
    size_hw = preprocess.input_hw if preprocess else (224, 224)
    network = copy.deepcopy(model.network).float().cpu().eval()
    structure = inspect_network(network, torch.zeros(1, 3, *size_hw))
    mean, std = _statistics(preprocess, wanted.input)
    graph = MapGraph(network, structure, wanted, mean, std).eval()
    graph.score_rule = score_rule_of(model, graph, size_hw)
    proto = _trace(graph, size_hw)
    description = _describe(model, graph, size_hw)
    description["verified"] = verify(proto.SerializeToString(), graph, size_hw)
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(description, sort_keys=True)
    onnx.checker.check_model(proto)
    make_folder(path.parent)
    write_atomically(path, lambda file: file.write(proto.SerializeToString()))
    return {**description, "bytes": path.stat().st_size}


def score_rule_of(model: LoadedModel, graph: MapGraph, size_hw: tuple[int, int]) -> ScoreRule:
    """How the model's logits become probabilities, determined as in `explain`."""
    images = graph.normalised(example_images(graph, 2, size_hw))
    evidence = observe(graph.network, images, gradient=False)
    evidence.scores = model.scores
    return evidence.score_rule or graph.score_rule


def check_place(path: Path, force: bool) -> None:
    """Raise `InputError` if ``path`` is a folder, or an existing file and ``force`` is not set."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a file name, such as model.onnx")
    if path.exists() and not force:
        raise InputError(f"{path} already exists; overwrite it with --force, or choose another name")


def _packages() -> Any:
    """Import onnx; raises if it or a companion package is missing."""
    onnx, *_ = [need(package, "onnx") for package in ("onnx", "onnxruntime", "onnxscript")]
    return onnx


def _trace(graph: MapGraph, size_hw: tuple[int, int]) -> Any:
    """The graph as an ONNX model. Traced with two images: a batch size of 1 would become a constant."""
    example = example_images(graph, 2, size_hw)
    axes = {0: "batch", 2: "height", 3: "width"} if graph.options.any_size else {0: "batch"}
    try:
        with quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                graph, (example,), dynamo=True, opset_version=OPSET, dynamic_shapes=(axes,), verbose=False,
                input_names=["image"], output_names=list(graph.options.outputs),
            )  # fmt: skip
    except (torch.onnx.OnnxExporterError, NotImplementedError) as error:
        first = next((line for line in str(error.__cause__ or error).splitlines() if line.strip()), "")
        raise UnsupportedError(
            f"PyTorch cannot export this network to ONNX: {first.strip()}"
            + ("; a fixed size may help: any_size=False" if graph.options.any_size else "")
        ) from error
    assert program is not None
    return program.model_proto


def example_images(graph: MapGraph, count: int, size_hw: tuple[int, int], seed: int = 0) -> Tensor:
    """Smooth noise as input for the graph: (count, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    noise = torch.rand(count, 3, *size_hw, generator=generator)
    photo = 0.7 * torch.nn.functional.interpolate(coarse, size=size_hw, mode="bilinear") + 0.3 * noise
    if graph.options.input == "uint8":
        return (photo * 255).to(torch.uint8)
    return photo if graph.options.input == "rgb" else (photo - 0.5) / 0.25


def verify(model_bytes: bytes, graph: MapGraph, size_hw: tuple[int, int]) -> dict[str, Any]:
    """Compare the ONNX graph with `sightline.explain` and return the largest differences, or raise.

    Uses two batch sizes and, if the size is free, two input sizes. Logits and maps are compared with `explain`'s,
    which for Grad-CAM uses the gradient; heatmaps and boxes with what `make_heatmaps` and `make_boxes` give for the
    graph's own maps and heatmaps, since a threshold may fall between two roundings. Raises `UnsupportedError` if
    anything differs by more than 1e-4 of the largest value.
    """
    session = _session(model_bytes)
    height, width = size_hw
    other = (height + 32, width + 16) if graph.options.any_size else size_hw
    differences = dict.fromkeys(graph.options.outputs, 0.0)
    for count, size in ((1, size_hw), (3, other)):
        images = example_images(graph, count, size, seed=count)
        found = session.run(None, {"image": images.numpy()})
        given = dict(zip(graph.options.outputs, map(torch.from_numpy, found), strict=True))
        for name, expected in _expected(graph, images, given).items():
            scale = float(expected.abs().max()) or 1.0
            differences[name] = max(differences[name], float((given[name] - expected).abs().max()) / scale)
    wrong = {name: value for name, value in differences.items() if not value <= TOLERANCE}
    if wrong:
        raise UnsupportedError(
            "the ONNX graph's results differ from PyTorch's: "
            + ", ".join(f"{name} differ by {value:.1e}" for name, value in wrong.items())
        )
    return {name: float(f"{value:.1e}") for name, value in differences.items()}


def _session(model_bytes: bytes) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(model_bytes, settings, providers=["CPUExecutionProvider"])


def _expected(graph: MapGraph, images: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The expected value of each output; the classes are the graph's own, since tied scores have no order."""
    options = graph.options
    explanation = explain(
        graph.network, graph.normalised(images), method=options.method, classes=given["classes"]
    )
    assert explanation.logits is not None
    found = {
        "logits": explanation.logits,
        "classes": given["classes"],
        "scores": graph.score_rule.probabilities(explanation.logits).gather(1, given["classes"]),
        "maps": explanation.maps,
        "heatmaps": make_heatmaps(given["maps"], (images.shape[2], images.shape[3]), options.normalise),
    }
    ranked = explanation.logits.topk(options.top).values
    if not torch.allclose(
        explanation.logits.gather(1, given["classes"]), ranked, atol=TOLERANCE, rtol=TOLERANCE
    ):
        raise UnsupportedError("the ONNX graph and PyTorch rank the classes differently")
    if options.boxes:
        found["boxes"] = boxes_array(given["heatmaps"], options.threshold)
    return found


def boxes_array(heatmaps: Tensor, threshold: float = 0.2) -> Tensor:
    """`make_boxes` in the graph's format: (N, K, H, W) -> (N, K, 4), [0, 0, 0, 0] where there is no box.

    >>> boxes_array(torch.tensor([[[[0.0, 1.0]], [[0.0, 0.0]]]]))
    tensor([[[1., 0., 2., 1.],
             [0., 0., 0., 0.]]])
    """
    found = make_boxes(heatmaps, BoxRule(threshold))
    return torch.stack(
        [torch.stack([box[0] if len(box) else torch.zeros(4) for box in row]) for row in found]
    )


def _statistics(preprocess: Preprocess | None, taken: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std for the graph; 0 and 1 where nothing states them and the graph takes normalised images."""
    if preprocess is None or (preprocess.per_image and taken == "normalised"):
        return (0.0,), (1.0,)
    return preprocess.scaling


def _describe(model: LoadedModel, graph: MapGraph, size_hw: tuple[int, int]) -> dict[str, Any]:
    from importlib.metadata import version

    preprocess = model.preprocess
    known = preprocess is not None and not preprocess.per_image
    statistics = {"mean": preprocess.mean, "std": preprocess.std} if preprocess and known else {}
    interpolation = {} if preprocess is None else {"interpolation": preprocess.interpolation}
    described = describe_run(
        model=model.name,
        weights=model.weights,
        weights_sha256=model.weights_sha256,
        categories=None if model.categories is None else list(model.categories),
        preprocess={"input_hw": size_hw, **interpolation, **statistics},
        layer=str(graph.layer),
        options=asdict(graph.options),
        scores=graph.score_rule.name,
        outputs=list(graph.options.outputs),
        opset=OPSET,
    )
    described["versions"].update({name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")})
    return described


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence the exporter's advice but not its errors."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx.experimental.symbolic_shapes")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
