"""Scores of models and methods on a data set: `evaluate` gives a `sightline.reports.tables.Report`."""

from sightline.evaluation.options import EvaluationOptions
from sightline.evaluation.run import evaluate

__all__ = ["EvaluationOptions", "evaluate"]
