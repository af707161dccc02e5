"""One folder that shows heatmaps and boxes in a browser: the network runs in the page, the photo stays where it is."""

from __future__ import annotations

import base64
import copy
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sightline.demo_photos import photo_paths
from sightline.errors import InputError, UnsupportedError, need
from sightline.export.onnx import OPSET, quiet_exporter, score_rule_of
from sightline.export.page_graph import PageGraph, check_spec
from sightline.export.smaller import with_smaller_weights
from sightline.inspection.structure import inspect_network
from sightline.methods.spec import MethodSpec, parse_method
from sightline.pictures.overlay import colour_table
from sightline.pictures.panel import unsure_note
from sightline.pipeline import explain, load_photos
from sightline.reports.manifest import describe_run
from sightline.reports.output_folder import OutputFolder, as_json, make_folder, write_atomically
from sightline.types import BoxRule

if TYPE_CHECKING:
    from sightline.models.loading import LoadedModel

KIND = "web"
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
RUNTIME = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
METHODS = ("cam", "localise-fast")
COLOURS = ("turbo", "viridis", "cividis")
TOLERANCE = 1e-3  # of the float graph's heatmaps, in [0, 1]


@dataclass(frozen=True)
class Agreement:
    """How the page's graph agrees with `sightline.explain` on ``photos`` photos.

    ``top1``: on how many the most probable class is the same; ``correlation``: the least of their heatmaps', by
    method; ``largest``: the largest difference of a heatmap's value.
    """

    photos: int
    top1: int
    correlation: dict[str, float]
    largest: float


def export_web(
    model: LoadedModel,
    folder: str | Path,
    *,
    methods: tuple[str, ...] = METHODS,
    top: int = 5,
    bits: int = 16,
    runtime: str | Path | None = None,
    from_disk: bool = True,
) -> dict[str, Any]:
    """Write the page into ``folder``, and return its description, which is also in ``model.json``.

    ``methods``: class maps and their affinity walks (see `PageGraph`). ``bits`` of the stored weights: 32, 16 or 8.
    ``runtime``: the unpacked npm package onnxruntime-web, or a folder with its files; None: npm fetches version 1.30.0,
    once. ``from_disk``: also write the files that let the page be opened with a double click, as text in scripts, since
    a browser lets no page read files beside it.

    The graph is compared with `explain` on the package's photos, in float32 and as stored; the agreement is in the
    description. Raises `UnsupportedError` for a network whose maps need a gradient, `InputError` for a model without a
    transform, and where the runtime cannot be found.
    """
    specs = [parse_method(name) for name in methods]
    for spec in specs:
        check_spec(spec)
    onnx, *_ = [need(package, "onnx") for package in ("onnx", "onnxruntime", "onnxscript")]
    parts = runtime_files(runtime)
    graph = page_graph(model, specs, top)
    proto = traced(graph)
    float_agreement = agreement(proto.SerializeToString(), model, specs)
    if float_agreement.largest > TOLERANCE or float_agreement.top1 < float_agreement.photos:
        raise UnsupportedError(f"the ONNX graph and PyTorch differ: {float_agreement}")
    small = with_smaller_weights(proto, bits)
    onnx.checker.check_model(small)
    data = small.SerializeToString()
    described = _describe(model, graph, specs, bits, agreement(data, model, specs))
    with OutputFolder(folder, KIND) as out:
        for name in ("index.html", "page.css", "page.js"):
            out.write_text(name, (files("sightline.export") / "page" / name).read_text(encoding="utf-8"))
        out.write("model.onnx", lambda file: file.write(data))
        out.write_text("model.json", as_json(described))
        for name, path in parts.items():
            out.write(name, lambda file, path=path: file.write(path.read_bytes()))  # type: ignore[misc]
        if from_disk:
            out.write_text("from-disk.js", _as_script({"model.onnx": data}, parts, described))
        out.write_text("LICENCES.txt", _licences(model))
        out.finish({"kind": KIND, **described})
    return {**described, "bytes": len(data)}


def runtime_files(given: str | Path | None) -> dict[str, Path]:
    """onnxruntime-web's three files, from ``given``, the cache, or npm."""
    if given is not None:
        return _runtime_in(Path(given))
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        / "sightline"
        / f"{PACKAGE}-{VERSION}"
    )
    if not all((cache / name).is_file() for name in RUNTIME):
        _fetch(cache)
    return _runtime_in(cache)


def _runtime_in(folder: Path) -> dict[str, Path]:
    for place in (folder, folder / "dist", folder / "package" / "dist"):
        found = {name: place / name for name in RUNTIME}
        if all(path.is_file() for path in found.values()):
            return found
    raise InputError(
        f"{folder} does not hold {', '.join(RUNTIME)}; expected npm's package {PACKAGE}, unpacked"
    )


def _fetch(cache: Path) -> None:
    """Put the runtime's files into the cache; npm checks the package's checksum."""
    npm = shutil.which("npm")
    how = f"`npm pack {PACKAGE}@{VERSION}` elsewhere, unpack it, and name the folder with --runtime"
    if npm is None:
        raise InputError(f"the page needs {PACKAGE}, and npm is not installed: run {how}")
    with tempfile.TemporaryDirectory() as place:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", place]
        done = subprocess.run(command, capture_output=True, text=True, cwd=place)
        packed = next(Path(place).glob("*.tgz"), None)
        if done.returncode or packed is None:
            reason = (done.stderr.strip().splitlines() or ["npm failed"])[0]
            raise InputError(f"npm could not fetch {PACKAGE}: {reason}; run {how}")
        make_folder(cache, "the cache ")
        with tarfile.open(packed) as archive:
            for name in RUNTIME:
                member = archive.extractfile(f"package/dist/{name}")
                assert member is not None
                write_atomically(cache / name, partial(shutil.copyfileobj, member))


def page_graph(model: LoadedModel, specs: list[MethodSpec], top: int) -> PageGraph:
    preprocess = model.preprocess
    if preprocess is None or not preprocess.resizes:
        raise InputError(
            "the page prepares photos itself, and this model does not say how; give it a transform"
        )
    size_hw = preprocess.input_hw
    network = copy.deepcopy(model.network).float().cpu().eval()
    structure = inspect_network(network, torch.zeros(1, 3, *size_hw))
    statistics = (preprocess.mean, preprocess.std)
    graph = PageGraph(network, structure, specs, statistics, size_hw, top).eval()
    graph.inner.score_rule = score_rule_of(model, graph.inner, size_hw)
    return graph


def traced(graph: PageGraph) -> Any:
    image = torch.rand(1, 3, *graph.size_hw, generator=torch.Generator().manual_seed(0))
    with quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            graph, (image,), dynamo=True, opset_version=OPSET, verbose=False, input_names=["image"],
            output_names=graph.outputs,
        )  # fmt: skip
    assert program is not None
    return program.model_proto


def agreement(data: bytes, model: LoadedModel, specs: list[MethodSpec]) -> Agreement:
    """The graph's classes and heatmaps against those of `explain`, on the package's photos."""
    session = need("onnxruntime", "onnx").InferenceSession(data, providers=["CPUExecutionProvider"])
    paths, top1, largest = photo_paths(), 0, 0.0
    correlation = dict.fromkeys((spec.label for spec in specs), 1.0)
    preprocess = model.preprocess
    assert preprocess is not None
    for path in paths:
        batch = load_photos(model, [path])
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocess.mean, preprocess.std))
        classes, _, *heatmaps = session.run(None, {"image": (batch.images * std + mean).clamp(0, 1).numpy()})
        for number, spec in enumerate(specs):
            expected = explain(model, batch, method=spec, classes=torch.from_numpy(classes))
            wanted = expected.heatmaps()[0].cpu().numpy()
            if number == 0 and expected.logits is not None:
                top1 += int(expected.logits.argmax()) == int(classes[0, 0])
            found = heatmaps[number][0]
            largest = max(largest, float(np.abs(found - wanted).max()))
            pairs = [(a, b) for a, b in zip(found, wanted, strict=True) if a.std() > 0 and b.std() > 0]
            least = [float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in pairs]
            correlation[spec.label] = min([correlation[spec.label], *least])
    return Agreement(len(paths), top1, {k: round(v, 5) for k, v in correlation.items()}, round(largest, 5))


def _describe(
    model: LoadedModel, graph: PageGraph, specs: list[MethodSpec], bits: int, found: Agreement
) -> dict[str, Any]:
    preprocess = model.preprocess
    assert preprocess is not None
    weight = graph.inner.network.get_submodule(graph.inner.head.module).weight
    assert isinstance(weight, torch.Tensor)
    names = model.categories or [f"class {i}" for i in range(len(weight))]
    rules = [spec.rule or BoxRule() for spec in specs]
    return describe_run(
        model=model.describe(),
        categories=list(names),
        input={"hw": graph.size_hw, "interpolation": preprocess.interpolation},
        methods=[
            {"name": spec.label, "output": f"heat{number}", "threshold": rule.threshold}
            for number, (spec, rule) in enumerate(zip(specs, rules, strict=True))
        ],
        percent=graph.inner.score_rule.gives_probabilities,
        unsure={"below": model.unsure_below, "note": unsure_note(len(names))},  # as `Explanation.sure`
        bits=bits,
        agreement=vars(found),
        runtime=f"{PACKAGE} {VERSION}",
        colours={name: colour_table(name).ravel().tolist() for name in COLOURS},
    )


def _as_script(data: dict[str, bytes], parts: dict[str, Path], described: dict[str, Any]) -> str:
    """The folder's files as text in one script, for pages opened from the disk."""
    held = {
        **data,
        **{name: path.read_bytes() for name, path in parts.items() if not name.endswith(".min.js")},
    }
    texts = {name: base64.b64encode(one).decode() for name, one in held.items()}
    return f"window.fromDisk = {json.dumps({'model.json': json.loads(as_json(described)), **texts})};\n"


def _licences(model: LoadedModel) -> str:
    text = (files("sightline.export") / "page" / "LICENCES.txt").read_text(encoding="utf-8")
    weights = f"{model.name}, {model.weights}; licence: {model.licence or 'not stated; ask who trained it'}"
    return text.replace("{weights}", weights).replace("{runtime}", f"{PACKAGE} {VERSION}")
