"""What is explained: a class of each image, another number in the network's output, or any function of it."""

from sightline.targets.base import OutputTarget, Setting, bound
from sightline.targets.classes import (
    CallableTarget,
    Classes,
    ClassTarget,
    Target,
    find_category,
    logits_of,
    resolve_classes,
)
from sightline.targets.dense import Segmentation
from sightline.targets.detection import Detection
from sightline.targets.embedding import Similarity, Text
from sightline.targets.parse import parse_target
from sightline.targets.simple import ClassScore, Contrast, MultiLabel, Probability, Regression

__all__ = [
    "CallableTarget",
    "ClassScore",
    "ClassTarget",
    "Classes",
    "Contrast",
    "Detection",
    "MultiLabel",
    "OutputTarget",
    "Probability",
    "Regression",
    "Segmentation",
    "Setting",
    "Similarity",
    "Target",
    "Text",
    "bound",
    "find_category",
    "logits_of",
    "parse_target",
    "resolve_classes",
]
