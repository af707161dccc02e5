"""The realistic protocol: no true box in any choice, boxes of a method stand in for them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from sightline.data.classes import match_classes
from sightline.errors import InputError
from sightline.models.loading import load_model
from sightline.pipeline import explain
from sightline.types import BoxRule, Dataset, Sample

PSEUDO = "localise"


def with_pseudo_boxes(
    model: nn.Module,
    dataset: Dataset,
    method: str = PSEUDO,
    *,
    rule: BoxRule | float | None = None,
    batch_size: int = 32,
) -> Dataset:
    """The same photos, each with the box of ``method`` for its label in place of its true boxes, which are not read.

    To choose thresholds on as in a realistic evaluation of weakly supervised localisation (WACV 2025), where a
    validation split has labels but no boxes. ``rule``: by default the method's own. Photos without a box are left out.
    Raises `InputError` for a photo without a label and for classes that the model lacks.

    >>> from PIL import Image
    >>> from sightline.models.preprocess import Preprocess
    >>> net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    >>> model = load_model(net, transform=Preprocess((8, 8), 8, (0.0,) * 3, (1.0,) * 3), categories=["a", "b"])
    >>> photo = Sample("x", Image.new("RGB", (8, 8)), 0)
    >>> with_pseudo_boxes(model, Dataset("one", "val", [photo], ("a", "b")), "cam").split
    'val, boxes of cam'
    """
    loaded, samples = load_model(model), list[Sample]()
    outputs: list[int] | None = None
    for start in range(0, len(dataset), batch_size):
        some = dataset.samples[start : start + batch_size]
        unlabelled = next((sample.id for sample in some if sample.label is None), None)
        if unlabelled is not None:
            raise InputError(f"{unlabelled} has no label; pseudo-boxes are of the labelled class")
        if outputs is None:
            count = len(loaded.categories or ()) or len(dataset.categories)
            outputs = match_classes(dataset.categories, loaded.categories, count, loaded.name)
        classes = torch.tensor([[outputs[sample.label or 0]] for sample in some])
        found = explain(loaded, [sample.source for sample in some], method, classes=classes).boxes(rule)
        samples += [
            replace(sample, boxes_xyxy=boxes[0].cpu(), masks=(), ignore_mask=None)
            for sample, boxes in zip(some, found, strict=True)
            if len(boxes[0])
        ]
    return replace(dataset, samples=samples, split=f"{dataset.split}, boxes of {method}")
