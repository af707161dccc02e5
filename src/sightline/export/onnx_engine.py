"""An engine of batch runs whose network runs in onnxruntime: exported and verified first, then used for every batch."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sightline.batch.local_engine import LocalEngine
from sightline.batch.worker import BatchOptions, Explainer, explain_photos
from sightline.data.photos import PhotoBatch
from sightline.errors import InputError, UnsupportedError, need
from sightline.explanation import Explanation
from sightline.export.graph import GraphOptions, MapGraph
from sightline.export.onnx import TOLERANCE, export_onnx
from sightline.inspection.structure import inspect_network
from sightline.methods.spec import parse_method
from sightline.models.loading import LoadedModel

WANTED = ["logits", "classes", "maps"]


@dataclass(frozen=True)
class OnnxEngine(LocalEngine):
    """``--engine onnx``: as `LocalEngine`, with onnxruntime instead of PyTorch; for what `export_onnx` can export.

    That is `cam` and `gradcam` on networks with a head of pooling and one linear layer, for the most probable
    classes. The export is verified to 1e-4 of the largest value, and so are the maps of the first photo.
    Raises `UnsupportedError` for other methods and networks.
    """

    def explainer(self, model: LoadedModel, options: BatchOptions) -> Explainer:
        """Photos -> `Explanation`, by a session of onnxruntime."""
        return _Session(_session(model, _method(options), _top(options)))

    def describe(self) -> dict[str, Any]:
        """For the manifest."""
        return {**super().describe(), "name": "onnx"}


def fits(model: LoadedModel, options: BatchOptions) -> bool:
    """Whether `OnnxEngine` takes this model and these options; nothing is exported or verified yet.

    >>> from sightline.models.loading import load_model
    >>> fits(load_model(), BatchOptions("layercam"))  # needs a gradient at run time
    False
    """
    try:
        need("onnxruntime", "onnx")
        need("onnxscript", "onnx")
        wanted = GraphOptions(method=_method(options), top=_top(options), input="normalised")
        network = copy.deepcopy(model.network).float().cpu().eval()
        size_hw = model.preprocess.input_hw if model.preprocess else (224, 224)
        MapGraph(network, inspect_network(network, torch.zeros(1, 3, *size_hw)), wanted)
    except InputError:
        return False
    return True


class _Session:
    """onnxruntime's logits and maps in the `Explanation` that PyTorch made of the first photo."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.first: Explanation | None = None

    def __call__(self, model: LoadedModel, photos: PhotoBatch, options: BatchOptions) -> Explanation:
        logits, classes, maps = self._run(photos.images)
        if self.first is None:
            one = photos.select([0])
            self.first = explain_photos(model, one, options)
            _check(self.first.maps, maps[:1])
        return replace(
            self.first,
            maps=maps,
            classes=classes,
            logits=logits,
            geometries=photos.geometries,
            images=photos.images,
            names=None,
            _evidence=None,
        )

    def _run(self, images: Tensor) -> list[Tensor]:
        array = images.detach().cpu().float().contiguous().numpy()
        return [torch.from_numpy(one) for one in self.session.run(WANTED, {"image": array})]


def _check(expected: Tensor, found: Tensor) -> None:
    """Raise `UnsupportedError` unless the maps of a photo are those of PyTorch."""
    scale = float(expected.abs().max()) or 1.0
    apart = float((expected.cpu() - found).abs().max()) / scale if expected.shape == found.shape else 1.0
    if not apart <= TOLERANCE:
        raise UnsupportedError(
            f"onnxruntime's maps of the first photo differ from PyTorch's by {apart:.1e} of the largest value; "
            f"at most {TOLERANCE:g} is accepted: use --engine local"
        )


def _method(options: BatchOptions) -> str:
    """The name of a plain method."""
    spec = parse_method(options.method)
    if spec.combines or spec.layers or spec.options or options.layers or options.method_options:
        raise UnsupportedError(
            f"engine onnx runs a method as it is, without options, layers and combinators; got {options.method!r}"
        )
    return spec.name


def _top(options: BatchOptions) -> int:
    """K of "topK"."""
    text = options.classes if isinstance(options.classes, str) else ""
    if not (text.startswith("top") and text[3:].isdecimal() and int(text[3:]) > 0):
        raise InputError(f"engine onnx explains the most probable classes; got classes={options.classes!r}")
    return int(text[3:])


def _session(model: LoadedModel, method: str, top: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, path, method=method, top=top, input="normalised", boxes=False, any_size=False)
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # decoding needs the cores
        content = path.read_bytes()
    return onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
