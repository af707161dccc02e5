"""sightline: where does an image classifier look, and can it therefore find the object?

>>> import sightline
>>> "gradcam" in sightline.list_methods()
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline import targets
    from sightline.batch.run import explain_batch
    from sightline.batch.worker import BatchOptions
    from sightline.data import list_datasets, load_dataset, register_dataset
    from sightline.data.photos import PhotoBatch
    from sightline.errors import ImageError, InputError, MissingExtraError, UnsupportedError
    from sightline.evaluation.faithfulness import evaluate_faithfulness
    from sightline.evaluation.run import evaluate
    from sightline.explanation import Explanation
    from sightline.export.onnx import export_onnx
    from sightline.methods import list_methods, register_method
    from sightline.metrics.registry import list_metrics, register_metric
    from sightline.models.loading import LoadedModel, list_models, load_model
    from sightline.pipeline import explain
    from sightline.pipeline_files import ExplainOptions, explain_files
    from sightline.pipeline_watch import watch_folder
    from sightline.plugins import load_plugin
    from sightline.runtime import tune_cpu
    from sightline.training.by_recipe import refine, train
    from sightline.types import BoxRule

__version__ = "0.1.0"

# Public name -> its module; imported on first use, so that `import sightline` costs nothing.
_HOME = {
    "BatchOptions": "sightline.batch.worker",
    "BoxRule": "sightline.types",
    "ExplainOptions": "sightline.pipeline_files",
    "PhotoBatch": "sightline.data.photos",
    "evaluate": "sightline.evaluation.run",
    "evaluate_faithfulness": "sightline.evaluation.faithfulness",
    "explain_batch": "sightline.batch.run",
    "explain_files": "sightline.pipeline_files",
    "export_onnx": "sightline.export.onnx",
    "explain": "sightline.pipeline",
    "Explanation": "sightline.explanation",
    "list_datasets": "sightline.data",
    "load_dataset": "sightline.data",
    "register_dataset": "sightline.data",
    "list_methods": "sightline.methods",
    "register_method": "sightline.methods",
    "list_metrics": "sightline.metrics.registry",
    "register_metric": "sightline.metrics.registry",
    "LoadedModel": "sightline.models.loading",
    "list_models": "sightline.models.loading",
    "load_model": "sightline.models.loading",
    "load_plugin": "sightline.plugins",
    "ImageError": "sightline.errors",
    "InputError": "sightline.errors",
    "MissingExtraError": "sightline.errors",
    "UnsupportedError": "sightline.errors",
    "refine": "sightline.training.by_recipe",
    "train": "sightline.training.by_recipe",
    "tune_cpu": "sightline.runtime",
    "watch_folder": "sightline.pipeline_watch",
}

__all__ = [
    "BatchOptions",
    "BoxRule",
    "ExplainOptions",
    "Explanation",
    "ImageError",
    "InputError",
    "LoadedModel",
    "MissingExtraError",
    "PhotoBatch",
    "UnsupportedError",
    "evaluate",
    "evaluate_faithfulness",
    "explain",
    "explain_batch",
    "explain_files",
    "export_onnx",
    "list_datasets",
    "list_methods",
    "list_metrics",
    "list_models",
    "load_dataset",
    "load_model",
    "load_plugin",
    "refine",
    "register_dataset",
    "register_method",
    "register_metric",
    "targets",
    "train",
    "tune_cpu",
    "watch_folder",
]


def __getattr__(name: str) -> Any:
    if name == "targets":
        return importlib.import_module("sightline.targets")
    if name not in _HOME:
        raise AttributeError(f"module 'sightline' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, "targets"])
