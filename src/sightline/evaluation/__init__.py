"""Scores of models and methods on a data set: `evaluate` gives a `sightline.report.Report`."""

from sightline.evaluation.run import evaluate

__all__ = ["evaluate"]
